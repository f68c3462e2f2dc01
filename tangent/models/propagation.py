"""A network run on pairs: its base activations and its scaled differences."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from tangent.capture import Call, Custom, Graph, Value, captured, picked, unwrapped
from tangent.capture.functional import selected_parameters
from tangent.capture.rewrite import gate_names, pooled_before_relu
from tangent.capture.separate import check_separate
from tangent.operations import families  # noqa: F401  (fills the table)
from tangent.operations.generic import generic_difference
from tangent.operations.registry import Pair, gate_for, rule_for
from tangent.operations.table import bases, entry, executed, is_pair, moves

__all__ = ["ScaledDifference", "linearize"]

GateObserver = Callable[[str, Tensor], None]

_KEPT = 16  # records of as many shapes of inputs


class ScaledDifference(nn.Module):
    """The centred, scaled network ``alpha * (h(w0 + delta/alpha) - h(w0))``, trained in delta.

    Nothing is subtracted: base activations and scaled differences travel through the network
    together, so float32 keeps its digits at any alpha. ``alpha = inf`` is the linearization of h
    at w0, exactly.

    Parameters
    ----------
    model : nn.Module
        h at w0. Copied, and run in evaluation mode. It may not mix the inputs of a batch.
    alpha : float
        Scale, positive or ``math.inf``.
    output : str, int, callable or sequence of such, optional
        Which of the network's outputs counts, where it returns a dict or a tuple ("logits").
    parameters : str or sequence of str, optional
        Names of the parameters that move, of modules for all below them, or patterns of names
        with ``*`` and ``?``; by default those with ``requires_grad=True``.

    Attributes
    ----------
    delta : nn.ParameterList
        The trainable scaled displacements, zero at first, one for each trainable parameter of
        ``model``, in the order of ``names``.
    names : tuple of str
        Names of the parameters that move; all others stay.
    network : nn.Module
        The frozen copy of ``model`` at w0.

    Raises
    ------
    ValueError
        If alpha is not positive, or, at the first call, if the network cannot have a difference:
        batch norm in training mode, values drawn at random, inputs of a batch that mix.

    Notes
    -----
    SGD on w with the loss R(alpha h)/alpha**2 is SGD on delta with the same learning rate and the
    loss R of this module's output, momentum included (Chizat et al. 2019, equations (2), (4)).
    A step costs five passes of products where training h costs three; memory is about twice that
    of h, plus the frozen weights.

    The network is run once for every shape of its inputs, and what it calls is written down
    (`tangent.capture`); where it looks at values of its inputs, once a batch. Operations without
    an exact rule are differenced one by one in float64 (`tangent.describe` names them).

    Where a pre-activation is exactly zero, ReLU has no derivative: there a finite alpha follows
    the network and infinity takes the slope 0, as PyTorch does.
    """

    loss_scale = 1.0  # training in delta absorbs the 1/alpha**2 of the loss

    @torch.inference_mode(False)
    def __init__(
        self,
        model: nn.Module,
        alpha: float,
        *,
        output: Any = None,
        parameters: str | Sequence[str] | None = None,
    ):
        super().__init__()
        if not (isinstance(alpha, int | float) and alpha > 0):
            raise ValueError(
                f"alpha must be positive (math.inf for the linearization); got {alpha!r}"
            )
        self.alpha, self.output = float(alpha), output
        model = unwrapped(model)
        moving = [name for name, p in model.named_parameters() if p.requires_grad]
        if parameters is not None:
            moving = list(selected_parameters(model, parameters))
        if not moving:
            raise ValueError("model has no parameter with requires_grad=True: nothing can move")
        self.network = _copied(model).requires_grad_(False)
        self.names = tuple(moving)
        weights = dict(self.network.named_parameters())
        self.delta = nn.ParameterList(nn.Parameter(torch.zeros_like(weights[n])) for n in moving)
        self._graphs: dict[Any, _Program] = {}
        self._separate, self._custom = False, True

    def forward(self, *inputs: Shaped[Tensor, "n ..."], **keywords: Any) -> Tensor:
        """Return alpha (h(w0 + delta/alpha) - h(w0)) at the network's inputs.

        Zeros before training. Differentiable in ``delta``; what it returns has the shape of the
        network's output.
        """
        out = self.pair(*inputs, **keywords)
        return torch.zeros_like(out.base) if out.difference is None else out.difference

    def pair(
        self,
        *inputs: Any,
        alpha: float | None = None,
        delta: Sequence[Tensor] | None = None,
        on_gate: GateObserver | None = None,
        **keywords: Any,
    ) -> Pair:
        """Return the network's output as a pair (h(w0), scaled difference).

        Parameters
        ----------
        *inputs, **keywords
            The network's own arguments.
        alpha : float, optional
            Another scale than the module's.
        delta : sequence of Tensor, optional
            Other displacements than the module's: with ``alpha=math.inf`` the difference is the
            Jacobian at w0 times them.
        on_gate : callable, optional
            ``on_gate(name, stable)`` is called for every operation that decides (ReLU, max
            pooling, clamps) with a bool tensor, True where it decides as at w0.
        """
        _check_mode(self.network)
        alpha = self.alpha if alpha is None else alpha
        program = self._program(inputs, keywords)
        steps: Any = self.delta if delta is None else delta
        leaves = [t for t in tree_leaves((inputs, keywords)) if isinstance(t, Tensor)]
        moved = dict(zip(self.names, steps, strict=bool(len(steps))))
        # To leave inference mode turns gradients on: without the caller's setting, the graph of
        # every batch would be kept as long as its outputs are.
        differentiable = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(differentiable):
            try:
                return program.run(
                    [_usable(t) for t in leaves], self._weights(), moved, alpha, on_gate
                )
            except _OtherWay:
                return self._subtracted(inputs, keywords, moved, alpha)

    def _subtracted(self, inputs, keywords, delta: dict[str, Tensor], alpha: float) -> Pair:
        """By the subtraction, in float64: what no rule follows, a network on another way."""
        network = copy.deepcopy(self.network).double().eval()
        args, kwargs = tree_map(_doubled, (inputs, keywords))
        weights = dict(network.named_parameters())
        moved = {n: weights[n] + d.double() / alpha for n, d in delta.items()}
        with torch.no_grad():
            before = picked(network(*args, **kwargs), self.output)
        after = picked(torch.func.functional_call(network, moved, args, kwargs), self.output)
        dtype = next(self.network.parameters()).dtype
        return Pair(before.to(dtype), (alpha * (after - before)).to(dtype))

    def initial_weights(self) -> Iterator[Tensor]:
        """Yield the weights at w0."""
        return iter(self.network.parameters())

    @torch.no_grad()
    def displaced(self) -> nn.Module:
        """Return a copy of the network at w0 + delta/alpha (in the weights' own precision)."""
        if math.isinf(self.alpha):
            raise ValueError("alpha is inf: the linearization is not a network at other weights")
        model = copy.deepcopy(self.network)
        weights = dict(model.named_parameters())
        for name, delta in zip(self.names, self.delta, strict=True):
            weights[name].add_(delta, alpha=1 / self.alpha)
        return model.requires_grad_(True)

    def __getstate__(self) -> dict[str, Any]:
        # Records are made again from the network.
        return {**self.__dict__, "_graphs": {}}

    def network_output(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Return the network's output at other weights, to be differentiated by autograd."""
        program = self._program((x,), {})
        return program.plain([_usable(x)], {**self._weights(), **weights})

    def _weights(self) -> dict[str, Tensor]:
        return {
            **dict(self.network.named_parameters()),
            **dict(self.network.named_buffers()),
        }

    def _program(self, inputs: tuple, keywords: dict[str, Any]) -> _Program:
        key = _shape_of((inputs, keywords))
        if key in self._graphs:
            return self._graphs[key]
        if not self._separate:
            self._separate = check_separate(self.network, inputs, keywords, self.output)
        graph = captured(self.network, inputs, keywords, output=self.output, custom=self._custom)
        program = _Program(graph)
        if not graph.reads:
            if len(self._graphs) >= _KEPT:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[key] = program
        return program


def _copied(model: nn.Module) -> nn.Module:
    """A copy with weights of its own; tensors made by an earlier call are constants in it."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in module.__dict__.values():
            for t in tree_leaves(value) if not isinstance(value, nn.Module) else ():
                if isinstance(t, Tensor) and not t.is_leaf:
                    memo[id(t)] = t.detach().clone()
    return copy.deepcopy(model, memo)


def _check_mode(network: nn.Module) -> None:
    """Refuse what draws values or mixes inputs in the mode that the network is in."""
    for name, module in network.named_modules():
        if not module.training:
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"batch norm in training mode ({name}) mixes the inputs of a batch; call "
                "model.eval() with running statistics, or take a network without it"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ValueError(
                f"dropout ({name}) draws a new network at every call and has no difference; call "
                "model.eval()"
            )


def _doubled(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if floating else value


def _usable(t: Tensor) -> Tensor:
    return t.clone() if t.is_inference() else t


def _shape_of(arguments: Any) -> Any:
    """What a record depends on: shapes and layouts of tensors, and all other arguments."""
    leaves, structure = tree_flatten(arguments)
    described = tuple(
        (a.shape, a.stride(), a.dtype, a.device) if isinstance(a, Tensor) else repr(a)
        for a in leaves
    )
    return described, repr(structure)


class _Program:
    """A record, ready to be run on pairs."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.names = gate_names(graph.calls)
        self.fast = pooled_before_relu(graph)
        self.read = {id(v) for v in graph.read}
        used = {id(v) for c in graph.calls for v in c.inputs} | {id(graph.output)}
        self.only_first = {
            id(c)
            for c in (*graph.calls, *self.fast.calls)
            if not any(v is not None and id(v) in used for v in c.outputs[1:])
        }

    def run(
        self,
        inputs: list[Tensor],
        weights: dict[str, Tensor],
        delta: dict[str, Tensor],
        alpha: float,
        on_gate: GateObserver | None,
    ) -> Pair:
        # Whoever watches the gates sees them in the network's own order.
        graph = self.fast if on_gate is None else self.graph
        values: dict[Value, Pair] = {}
        for value, t in zip(graph.inputs, inputs, strict=True):
            values[value] = Pair(t)
        for name, value in graph.weights.items():
            values[value] = Pair(weights[name], delta.get(name))

        for position, call in enumerate(graph.calls):
            self._step(call, values, alpha, on_gate)
            for value in graph.last_use.get(position, ()):
                values.pop(value, None)
        return values[graph.output]

    def plain(self, inputs: list[Tensor], weights: dict[str, Tensor]) -> Tensor:
        """Run the network itself, to be differentiated by autograd."""
        graph = self.fast
        values: dict[Value, Tensor] = dict(zip(graph.inputs, inputs, strict=True))
        values.update({value: weights[name] for name, value in graph.weights.items()})
        for position, call in enumerate(graph.calls):
            args, kwargs = tree_map(
                lambda a: (
                    a if not isinstance(a, Value) else values[a] if a.tensor is None else a.tensor
                ),
                (call.args, call.kwargs),
            )
            out = executed(call.op, args, kwargs)
            for value, t in zip(call.outputs, _tensors(out), strict=True):
                if value is not None:
                    values[value] = t
            for value in graph.last_use.get(position, ()):
                values.pop(value, None)
        return values[graph.output]

    def _step(self, call: Call, values: dict[Value, Pair], alpha: float, on_gate) -> None:
        def given(argument: Any) -> Any:
            if not isinstance(argument, Value):
                return argument
            return Pair(argument.tensor) if argument.tensor is not None else values[argument]

        args, kwargs = tree_map(given, (call.args, call.kwargs))
        try:
            results = self._called(call, args, kwargs, values, alpha, on_gate)
        except ValueError as error:
            raise ValueError(f"{call}: {error}") from error
        for value, result in zip(call.outputs, results, strict=True):
            if value is not None:
                values[value] = result
                if id(value) in self.read and not math.isinf(alpha) and _turns(result):
                    raise _OtherWay

    def _called(self, call, args, kwargs, values, alpha, on_gate) -> list[Pair]:
        if isinstance(call.op, Custom):
            return _custom(call, args, kwargs, values, alpha, on_gate)
        if not moves((args, kwargs)):
            out = executed(call.op, bases(args), bases(kwargs))
            return [Pair(t) for t in _tensors(out)]
        found = entry(call.op)
        if on_gate is not None and found.gate is not None:
            stable = found.gate(alpha, *args, **kwargs, _op=call.op)
            if stable is not None:
                on_gate(self.names[id(call)], stable)
        if found.difference is None or (found.only_first and id(call) not in self.only_first):
            out = generic_difference(call.op, alpha, args, kwargs)
        else:
            out = found.difference(alpha, *args, **kwargs, _op=call.op)
        return [p for p in tree_leaves(out, is_leaf=is_pair) if is_pair(p)]


def _tensors(out: Any) -> list[Tensor]:
    return [t for t in tree_leaves(out) if isinstance(t, Tensor)]


class _OtherWay(Exception):
    """The moved network takes another way than the base: what it reads differs."""


def _turns(pair: Pair) -> bool:
    v = pair.difference
    return v is not None and bool((v != 0).any())


def _custom(call: Call, args, kwargs, values, alpha, on_gate) -> list[Pair]:
    custom = call.op
    if custom.module is not None:
        own = {name: None if v is None else values[v] for name, v in custom.weights}
        args = (custom.module, own, *args)
    gate = None if on_gate is None else gate_for(custom.target)
    if gate is not None and on_gate is not None:
        stable = gate(alpha, *args, **kwargs)
        if stable is not None:
            on_gate(call.name, stable)
    rule = rule_for(custom.target)
    assert rule is not None
    out = rule(alpha, *args, **kwargs)
    return [
        p if is_pair(p) else Pair(p)
        for p in tree_leaves(out, is_leaf=is_pair)
        if is_pair(p) or isinstance(p, Tensor)
    ]


def linearize(
    model: nn.Module, *, output: Any = None, parameters: str | Sequence[str] | None = None
) -> ScaledDifference:
    """Return the linearized, centred model x -> Dh(x, w0) delta, trainable in delta.

    It is `ScaledDifference` at alpha = inf: an exact tangent model, linear in ``delta``, whose
    kernel is the tangent kernel of ``model`` at w0 (Chizat et al. 2019, Section 1). ``output`` and
    ``parameters`` are as there: which output counts, and which parameters move.
    """
    return ScaledDifference(model, math.inf, output=output, parameters=parameters)


def sharing(model: nn.Module, names: Sequence[str]) -> ScaledDifference:
    """The linearization of a network in evaluation mode whose parameters ``names`` move.

    Nothing is copied: the displacements are given to `ScaledDifference.pair`, at every call.
    """
    linear = ScaledDifference.__new__(ScaledDifference)
    nn.Module.__init__(linear)
    linear.alpha, linear.output = math.inf, None
    linear.network = model
    linear.names = tuple(names)
    linear.delta = nn.ParameterList()
    linear._graphs, linear._separate, linear._custom = {}, False, False
    return linear
