"""A network made ready to be looked at: copied, in evaluation mode, with its own memory."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from tangent.capture.graph import Custom, Graph, Value, storage_id
from tangent.capture.recorder import Recorder
from tangent.capture.recording import recording
from tangent.machine.modes import check_network
from tangent.operations.registry import rule_for

__all__ = ["captured", "evaluated_copy", "picked", "picking", "unwrapped"]

# What every module has: its parameters, modules, buffers and hooks are looked at elsewhere.
_OF_MODULES = frozenset(nn.Module().__dict__)
_PLAIN = (bool, int, float, str, type(None), nn.Module)
_COPYING = frozenset(
    {"__deepcopy__", "__copy__", "__getstate__", "__setstate__", "__reduce__", "__reduce_ex__"}
)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside ``torch.compile`` and ``DataParallel``."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            check_network(model)
            return model


@torch.inference_mode(False)
def evaluated_copy(model: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy of the network's modules that shares its parameters' memory, and has buffers.

    Parameters
    ----------
    model : nn.Module
    tensors : mapping of str to Tensor, optional
        Parameters and buffers to take instead, by name.
    """
    memo: dict[int, Any] = {}
    taken: set[int] = set()
    check_network(model)
    for name, p in model.named_parameters():
        value = p.detach() if tensors is None else tensors.get(name, p.detach())
        if value.is_inference() or storage_id(value) in taken:
            value = value.clone()
        taken.add(storage_id(value))
        memo[id(p)] = nn.Parameter(value, requires_grad=False)
    for name, b in model.named_buffers():
        value = b.detach() if tensors is None else tensors.get(name, b.detach())
        memo[id(b)] = value.clone()
    _detach_attributes(model, memo)
    return _twin(model, memo)


def _twin(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """``copy.deepcopy`` without a look at what is empty in most modules, or plain in all."""
    kind = type(module)
    if id(module) in memo:
        return memo[id(module)]
    if _copies_itself(kind):  # type: ignore[arg-type]
        return copy.deepcopy(module, memo)
    memo[id(module)] = twin = kind.__new__(kind)
    for name, value in module.__dict__.items():
        if name == "_modules":
            found: Any = type(value)()
            for key, child in value.items():
                found[key] = None if child is None else _twin(child, memo)
        elif isinstance(value, _PLAIN[:-1]):
            found = value
        elif name in _OF_MODULES and isinstance(value, dict | set) and not value:
            found = type(value)()
        else:
            found = copy.deepcopy(value, memo)
        twin.__dict__[name] = found
    return twin


@cache
def _copies_itself(kind: type) -> bool:
    """Whether a class of modules says how it is copied."""
    own = (c for c in kind.__mro__ if c not in (nn.Module, object))
    return any(not _COPYING.isdisjoint(c.__dict__) for c in own)


def _detach_attributes(model: nn.Module, memo: dict[int, Any]) -> None:
    """Tensors that modules made in an earlier call are not copied with their graphs."""
    for module in model.modules():
        for name, value in module.__dict__.items():
            if name in _OF_MODULES or isinstance(value, _PLAIN):
                continue
            for t in tree_flatten(value)[0]:
                if isinstance(t, Tensor) and id(t) not in memo and t.grad_fn is not None:
                    memo[id(t)] = t.detach().clone()
                elif isinstance(t, torch.jit.ScriptFunction):  # which cannot be copied
                    memo[id(t)] = t


def captured(
    model: nn.Module,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any] | None = None,
    *,
    output: Any = None,
    tensors: Mapping[str, Tensor] | None = None,
    custom: bool = True,
    keep: bool = False,
) -> Graph:
    """Return the record of ``model(*inputs, **keywords)`` in evaluation mode.

    Parameters
    ----------
    model : nn.Module
        Left as found: a copy is run, whatever grad or inference mode the caller is in.
    inputs, keywords
        The network's arguments; tensors among them are the record's inputs, in their order.
    output : str, int, callable or sequence of such, optional
        Which of the network's outputs counts, where it returns several.
    tensors : mapping of str to Tensor, optional
        Parameters and buffers to run it with instead of its own.
    custom : bool
        Whether operations with a rule of the user's own are kept whole.
    keep : bool
        Whether the values of the run are kept in the record.
    """
    with torch.inference_mode(False), torch.no_grad():
        twin = evaluated_copy(model, tensors)
        args, kwargs = tree_map(_own, (tuple(inputs), dict(keywords or {})))
    recorder = Recorder(custom=custom, keep=keep)
    leaves: list[Value] = []
    weights: dict[str, Value] = {}
    for t in tree_flatten((args, kwargs))[0]:
        if isinstance(t, Tensor):
            leaves.append(Value("input", data=True, tensor=t if keep else None))
            recorder.leaf(t, leaves[-1])
    for name, p in twin.named_parameters():
        weights[name] = Value("weight", weights=True, name=name)
        recorder.leaf(p, weights[name])
    for name, b in twin.named_buffers():
        weights[name] = Value("buffer", weights=True, name=name)
        recorder.leaf(b, weights[name])
    if custom:
        _whole_modules(twin, recorder)
    with recording(recorder, twin):
        # Caches made for evaluation are made now, from the weights that are being watched.
        twin.train()
        twin.eval()
        recorder.suspect = False
        tensor = picked(_called(twin, args, kwargs), output)
    if recorder.random is not None:
        _refuse_draws(twin, args, kwargs, output, recorder.random)
    out = recorder.value(tensor)
    if not (out.data or out.weights):
        raise TypeError("the network must return a tensor that depends on its input or weights")
    return Graph(
        recorder.calls,
        leaves,
        weights,
        out,
        recorder.reads,
        recorder.read,
        recorder.suspect,
        twin,
        recorder.largest,
        tensor.numel(),
    )


def _called(model: nn.Module, args: tuple, kwargs: dict) -> Any:
    try:
        return model(*args, **kwargs)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "batch norm without running statistics mixes the inputs of a batch: it has no tangent "
            "kernel; train it with track_running_stats=True, or take another norm"
        ) from error


def _refuse_draws(model: nn.Module, args: tuple, kwargs: dict, output: Any, where: str) -> None:
    """What is drawn has to be the same at every call."""
    with torch.inference_mode(False), torch.enable_grad():
        twice = [picked(model(*args, **kwargs), output) for _ in range(2)]
    if not torch.equal(*twice):
        raise ValueError(
            f"{where} draws a new network at every call: it has no difference and no tangent "
            "kernel; call model.eval(), or take the draw out of forward"
        )


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _whole_modules(model: nn.Module, recorder: Recorder) -> None:
    """Modules whose class has a rule of the user's own are one operation."""
    for module in model.modules():
        target = type(module)
        if rule_for(target) is None:
            continue
        forward = module.forward

        def whole(
            *args: Any, _m: Any = module, _f: Any = forward, _t: Any = target, **kwargs: Any
        ) -> Any:
            if recorder.paused:
                return _f(*args, **kwargs)
            weights = tuple(
                (name, None if p is None else recorder.value(p))
                for name, p in _m._parameters.items()
            )
            return recorder.custom_call(Custom(_t, _f, _m, weights), args, kwargs)

        module.forward = whole


def picked(result: Any, output: Any = None) -> Tensor:
    """The one tensor among a network's outputs that counts.

    Parameters
    ----------
    result
        What the network returned.
    output : str, int, callable or sequence of such, optional
        Key, attribute or position; several are followed one after the other.
    """
    if output is not None:
        for step in output if isinstance(output, list | tuple) else [output]:
            result = _followed(result, step)
    elif not isinstance(result, Tensor):
        result = _only(result)
    if not isinstance(result, Tensor):
        raise TypeError(
            f"the network must return one tensor that depends on its input; got "
            f"{_described(result)}; output= names the one that counts, or wrap it in a module that "
            "returns it"
        )
    return result


class _Pick:
    """A forward hook: of what the network returns, the one tensor that counts."""

    def __init__(self, output: Any):
        self.output = output

    def __call__(self, module: nn.Module, args: Any, result: Any) -> Tensor:
        return picked(result, self.output)


def picking(model: nn.Module, output: Any = None) -> nn.Module:
    """Return the network as one that returns the output that counts.

    It shares parameters, buffers and modules with ``model``, under the same names, and leaves it
    as it is. Without ``output`` it is ``model`` itself.
    """
    if output is None:
        return model
    twin = copy.copy(unwrapped(model))
    twin._forward_hooks = OrderedDict(twin._forward_hooks)
    twin.register_forward_hook(_Pick(output))
    return twin


def _followed(result: Any, step: Any) -> Any:
    if callable(step):
        return step(result)
    try:
        if isinstance(step, str) and not isinstance(result, Mapping):
            return getattr(result, step)
        return result[step]
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        known = list(result) if isinstance(result, Mapping) else type(result).__name__
        raise ValueError(f"output {step!r} is not among the network's outputs: {known}") from error


def _only(result: Any) -> Any:
    """The tensor of an output that holds one floating tensor, or that names its logits."""
    if isinstance(result, Mapping) and "logits" in result:
        return result["logits"]
    tensors = [
        t
        for t in tree_flatten(_plain(result))[0]
        if isinstance(t, Tensor) and t.is_floating_point()
    ]
    return tensors[0] if len(tensors) == 1 else result


def _described(result: Any) -> str:
    kind = type(result).__name__
    if isinstance(result, Mapping):
        return f"{kind} with keys {', '.join(map(repr, result))}"
    return kind


def _plain(result: Any) -> Any:
    return dict(result) if isinstance(result, Mapping) else result
