"""A record of the torch calls that take a batch to its outputs, for the backward pass by rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from tangent.engine.functional import evaluating
from tangent.pointwise import SubsampledPointwise
from tangent.prelu import ElementaryPReLU

__all__ = ["Call", "Tape", "Unrecorded", "Weight", "recorded"]


class Unrecorded(ValueError):
    """What a model does cannot be written down as operations on its inputs and parameters."""


@dataclass(frozen=True)
class Weight:
    """A tensor that is ``scale`` times the parameter called ``name``."""

    name: str
    scale: float = 1.0


@dataclass
class Call:
    """One call of a torch function on values that depend on the inputs.

    ``inputs`` are the positions, among the flattened arguments, of the floating tensors that
    depend on the inputs; ``outputs`` are the tensors that came back. ``winners`` are the positions
    that a max pooling took its values from; ``shared`` is the tape's
    where all else in the call lasts longer than the tape.
    """

    function: Callable
    arguments: list[Any]
    structure: Any
    inputs: list[int]
    outputs: list[Tensor]
    winners: Tensor | None = None
    shared: dict[Any, Tensor] = field(default_factory=dict)

    def bound(self) -> tuple[tuple, dict]:
        """Return the positional and keyword arguments as they were given."""
        return tree_unflatten(self.arguments, self.structure)

    def replay(self, *values: Tensor) -> Any:
        """Call the function again with other values in place of its inputs."""
        arguments = list(self.arguments)
        for position, value in zip(self.inputs, values, strict=True):
            arguments[position] = value
        args, kwargs = tree_unflatten(arguments, self.structure)
        with SubsampledPointwise():
            return self.function(*args, **kwargs)

    @property
    def values(self) -> list[Tensor]:
        """The input tensors."""
        return [self.arguments[position] for position in self.inputs]


@dataclass
class Tape:
    """The calls of one forward pass, in order, and what is known of the parameters in them."""

    x: Tensor
    output: Tensor
    calls: list[Call] = field(default_factory=list)
    weights: dict[int, Weight] = field(default_factory=dict)
    derived: dict[int, set[str]] = field(default_factory=dict)  # from parameters in another way
    shared: dict[Any, Tensor] = field(
        default_factory=dict
    )  # made of weights alone, for all batches
    kept: list[Any] = field(default_factory=list)  # alive, so that no id is given out twice

    @property
    def batch(self) -> int:
        """Number of inputs."""
        return len(self.x)

    def calls_with(self, names: set[str]) -> dict[str, int]:
        """In how many calls every one of the named parameters takes part."""
        counts = dict.fromkeys(names, 0)
        for call in self.calls:
            present = [self.parameters_in(a) for a in call.arguments if isinstance(a, Tensor)]
            for name in set().union(*present) & names:
                counts[name] += 1
        return counts

    def parameters_in(self, value: Any) -> set[str]:
        """Names of the parameters that a tensor is made of."""
        if id(value) in self.weights:
            return {self.weights[id(value)].name}
        return self.derived.get(id(value), set())


_SCALINGS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.multiply}
_QUOTIENTS = {torch.div, Tensor.div, Tensor.__truediv__, torch.true_divide}
_OUT_OF_PLACE: dict[Any, Any] = {
    Tensor.__iadd__: torch.add,
    Tensor.__isub__: torch.sub,
    Tensor.__imul__: torch.mul,
    Tensor.__itruediv__: torch.div,
    Tensor.add_: torch.add,
    Tensor.sub_: torch.sub,
    Tensor.mul_: torch.mul,
    Tensor.div_: torch.div,
    Tensor.relu_: torch.relu,
    torch.relu_: torch.relu,
}


class _Recorder(TorchFunctionMode):
    """Runs every call and writes it down; calls in place are made out of place."""

    def __init__(self, tape: Tape, lasting: set[int]):
        super().__init__()
        self.tape = tape
        self.lasting = lasting  # ids of tensors that outlive the record
        self.data = {id(tape.x)}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        func = _OUT_OF_PLACE.get(func, func)
        arguments, structure = tree_flatten((args, kwargs))
        versions = [(a, a._version) for a in arguments if isinstance(a, Tensor)]
        winners = None
        if func is F.max_pool2d and kwargs.get("return_indices") is False:
            # Asked for now, or the backward pass would have to pool again.
            result, winners = func(*args, **{**kwargs, "return_indices": True})
        else:
            result = func(*args, **kwargs)
        if any(a._version != version for a, version in versions):
            raise Unrecorded(f"{func} writes into its argument")
        given = {id(a) for a, _ in versions}
        # A call such as ``contiguous`` may return its argument itself: nothing to write down.
        outputs = [
            t for t in tree_flatten(result)[0] if isinstance(t, Tensor) and id(t) not in given
        ]
        if outputs and given:
            call = Call(func, arguments, structure, [], outputs, winners)
            if all(id(a) in self.lasting for a, _ in versions if id(a) not in self.data):
                call.shared = self.tape.shared
            self._write(call)
        return result

    def _write(self, call: Call) -> None:
        tape = self.tape
        tensors = [(i, a) for i, a in enumerate(call.arguments) if isinstance(a, Tensor)]
        inputs = [i for i, a in tensors if id(a) in self.data]
        names = set().union(*(tape.parameters_in(a) for _, a in tensors))
        if inputs:
            self.data.update(id(t) for t in call.outputs)
            call.inputs = [i for i in inputs if call.arguments[i].is_floating_point()]
            if any(t.is_floating_point() for t in call.outputs):
                tape.calls.append(call)
        elif names:
            weight = _scaled(tape, call)
            for t in call.outputs:
                if weight is not None:
                    tape.weights[id(t)] = weight
                else:
                    tape.derived[id(t)] = names
        tape.kept.append(call)


def _scaled(tape: Tape, call: Call) -> Weight | None:
    """The parameter and factor, where the call multiplies a parameter by a number."""
    func, (args, kwargs) = call.function, call.bound()
    if len(args) != 2 or kwargs or func not in _SCALINGS | _QUOTIENTS:
        return None
    first, second = args
    if func in _SCALINGS and isinstance(first, int | float):
        first, second = second, first
    if id(first) not in tape.weights or not isinstance(second, int | float):
        return None
    weight = tape.weights[id(first)]
    factor = 1 / second if func in _QUOTIENTS else second
    return Weight(weight.name, weight.scale * factor)


def recorded(
    model: nn.Module,
    tensors: dict[str, Tensor],
    names: dict[str, Tensor],
    x: Tensor,
    shared: dict[Any, Tensor] | None = None,
) -> Tape:
    """Run the model on a batch and return the record.

    Parameters
    ----------
    model : nn.Module
    tensors : dict
        Parameters and buffers to run it with.
    names : dict
        The parameters among them whose gradients are wanted; the others are constants.
    x : Tensor
        A batch.
    shared : dict, optional
        Kept by the caller from one batch to the next, for what is made of the tensors alone.

    Raises
    ------
    Unrecorded
        If the record cannot represent what the model does (a value written in place and read
        again, for example).
    """
    tape = Tape(x, x, shared={} if shared is None else shared)
    for name in names:
        tape.weights[id(tensors[name])] = Weight(name)
    recorder = _Recorder(tape, {id(t) for t in tensors.values()})
    with torch.no_grad(), evaluating(model), recorder, ElementaryPReLU():
        output = functional_call(model, tensors, (x,))
        if isinstance(output, Tensor) and output.ndim == 0 and len(x) == 1:
            output = output.reshape(1)  # of a network that squeezes its one output
    if not isinstance(output, Tensor) or id(output) not in recorder.data:
        raise Unrecorded("the output is not a tensor made from the inputs")
    tape.output = output
    return tape
