"""Backward rules: cotangents of a call's inputs from those of its output, all outputs at once.

A cotangent of a value of shape s has shape (o, *s), o the number of cotangents that travel
together. Convolutions and poolings merge o with the batch, so that the one forward pass serves
all outputs; a call without a rule is differentiated by torch.func, batched over o. In memory
the inputs come first and o second, as the factors are laid out: nothing is copied on the way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vjp, vmap
from torch.utils._pytree import tree_flatten

from tangent.engine.convolution import input_cotangent
from tangent.engine.tape import Call, Tape

__all__ = ["cotangents", "geometry"]

Rule = Callable[..., list[Tensor]]

_RULES: dict[Any, Rule] = {}
_RELU = {F.relu, torch.relu, Tensor.relu}
# Elementwise functions of one argument: the cotangent is multiplied by the derivative.
_ELEMENTWISE = {
    torch.tanh,
    Tensor.tanh,
    F.tanh,
    torch.sigmoid,
    Tensor.sigmoid,
    F.sigmoid,
    F.gelu,
    F.softplus,
    F.silu,
    F.elu,
    F.celu,
    F.selu,
    F.leaky_relu,
    F.hardtanh,
    F.relu6,
    F.mish,
    F.logsigmoid,
    F.softsign,
    torch.exp,
    torch.sin,
    torch.cos,
    torch.erf,
    torch.square,
    Tensor.square,
    Tensor.__pow__,
    Tensor.pow,
}


def cotangents(
    tape: Tape, seeds: Tensor, names: set[str], visit: Callable[[Call, Tensor], None]
) -> None:
    """Carry ``seeds`` back through the record, calling ``visit(call, cotangent)`` on the way.

    Parameters
    ----------
    tape : Tape
    seeds : Tensor of shape (o, *output)
    names : set of str
        Parameters whose gradients are wanted: nothing is carried further than they reach.
    visit : callable
        Gets every call that has one of them (or a tensor made of one) among its arguments, and
        the cotangent of its output.
    """
    live = _live_values(tape, names)
    carried: dict[int, Tensor] = {id(tape.output): seeds}
    own: set[int] = set()  # values whose cotangent is in memory that nobody else sees
    pooled = _relus_before_pools(tape)
    for call in reversed(tape.calls):
        received = [carried.pop(id(t), None) for t in call.outputs]
        if all(r is None for r in received):
            continue
        if len(received) == 1:
            cotangent: Any = received[0]
            if any(tape.parameters_in(a) & names for a in call.arguments if isinstance(a, Tensor)):
                visit(call, cotangent)
        else:
            cotangent = received
        if not any(id(v) in live for v in call.values):
            continue
        wanted = [id(v) in live for v in call.values]
        mine = len(received) == 1 and id(call.outputs[0]) in own
        rule = _RULES.get(call.function, _generic) if len(received) == 1 else _generic
        if call.function is F.max_pool2d and id(call.values[0]) in pooled:
            # The mask of the ReLU before, applied here to fewer values.
            cotangent = _masked(call, cotangent, mine)
        elif call.function in _RELU and id(call.outputs[0]) in pooled:
            rule = _pass
        elif rule is _relu and mine:
            rule = _relu_in_place
        new = rule in _FRESH and len(call.values) == 1
        for value, part, want in zip(
            call.values, rule(call, cotangent, wanted), wanted, strict=True
        ):
            if want:
                before = carried.get(id(value))
                if before is None:
                    carried[id(value)] = part
                elif new:
                    carried[id(value)] = part.add_(before)
                else:
                    carried[id(value)] = before + part
                if before is not None or new or (rule is _pass and mine):
                    own.add(id(value))


def _live_values(tape: Tape, names: set[str]) -> set[int]:
    live: set[int] = set()
    for call in tape.calls:
        tensors = [a for a in call.arguments if isinstance(a, Tensor)]
        if any(id(a) in live or tape.parameters_in(a) & names for a in tensors):
            live.update(id(t) for t in call.outputs)
    return live


def _relus_before_pools(tape: Tape) -> set[int]:
    """Outputs of ReLUs that go into one max pooling and nowhere else."""
    uses: dict[int, list[Call]] = {}
    for call in tape.calls:
        for value in call.values:
            uses.setdefault(id(value), []).append(call)
    relus = {id(call.outputs[0]) for call in tape.calls if call.function in _RELU}
    pools = {
        i for i, c in uses.items() if [u.function for u in c] == [F.max_pool2d] and _single(c[0])
    }
    return relus & pools - {id(tape.output)}


def _single(call: Call) -> bool:
    return len(call.outputs) == 1


def _rule(*functions: Any) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(functions, rule))
        return rule

    return register


def _merged(cotangent: Tensor) -> Tensor:
    """(o, n, ...) as a batch of n * o, all cotangents of an input together."""
    return cotangent.transpose(0, 1).flatten(0, 1)


def _parted(merged: Tensor, o: int) -> Tensor:
    return merged.unflatten(0, (-1, o)).transpose(0, 1)


def _pass(call: Call, cotangent: Tensor, wanted: list[bool]) -> list[Tensor]:
    return [cotangent]


def geometry(call: Call) -> dict[str, Any] | None:
    """Arguments of a convolution by name, with symmetric padding; None where it has no such."""

    def named(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        return locals()

    args, kwargs = call.bound()
    found = named(*args, **kwargs)
    dims = found["weight"].ndim - 2
    for key in ("stride", "dilation"):
        found[key] = _tuple(found[key], dims)
    kernel = found["weight"].shape[2:]
    if found["padding"] == "valid":
        found["padding"] = 0
    elif found["padding"] == "same":
        if any(d * (k - 1) % 2 for d, k in zip(found["dilation"], kernel, strict=True)):
            return None
        pairs = zip(found["dilation"], kernel, strict=True)
        found["padding"] = tuple(d * (k - 1) // 2 for d, k in pairs)
    found["padding"] = _tuple(found["padding"], dims)
    return found


def _tuple(value: Any, dims: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


@_rule(F.conv1d, F.conv2d)
def _convolution(call: Call, cotangent: Tensor, wanted: list[bool]) -> list[Tensor]:
    g = geometry(call)
    if g is None or call.inputs != [0] or g["input"].ndim != g["weight"].ndim:
        return _generic(call, cotangent, wanted)
    return [_parted(input_cotangent(g, _merged(cotangent), call.shared), len(cotangent))]


@_rule(F.linear)
def _linear(call: Call, cotangent: Tensor, wanted: list[bool]) -> list[Tensor]:
    if call.inputs != [0]:
        return _generic(call, cotangent, wanted)
    return [cotangent @ call.arguments[1]]


@_rule(*_RELU)
def _relu(call: Call, cotangent: Tensor, wanted: list[bool]) -> list[Tensor]:
    return [_masked(call, cotangent)]


def _relu_in_place(call: Call, cotangent: Tensor, wanted: list[bool]) -> list[Tensor]:
    return [_masked(call, cotangent, mine=True)]


def _masked(call: Call, cotangent: Tensor, mine: bool = False) -> Tensor:
    mask = (call.outputs[0] > 0).to(cotangent.dtype)
    return cotangent.mul_(mask) if mine else cotangent * mask


@_rule(F.max_pool2d)
def _max_pool(call: Call, cotangent: Tensor, wanted: list[bool]) -> list[Tensor]:
    def named(
        input,
        kernel_size,
        stride=None,
        padding=0,
        dilation=1,
        ceil_mode=False,
        return_indices=False,
    ):
        return locals()

    args, kwargs = call.bound()
    g = named(*args, **kwargs)
    x = g["input"]
    if x.ndim != 4 or g["return_indices"]:
        return _generic(call, cotangent, wanted)
    o = len(cotangent)
    options = [g[key] for key in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")]
    options[1] = options[0] if options[1] is None or options[1] == [] else options[1]
    options[:4] = [list(_tuple(v, 2)) for v in options[:4]]
    winners = call.winners
    if winners is None:
        _, winners = F.max_pool2d(x, *options, return_indices=True)
    index = winners.unsqueeze(1).expand(len(x), o, *winners.shape[1:])
    window, step, padding, dilation, _ = options
    if window == step and padding == [0, 0] and dilation == [1, 1]:
        # Windows that share no position: every value has one place to go to.
        back = cotangent.new_zeros(len(x), o, x.shape[1], x.shape[2] * x.shape[3])
        back.scatter_(3, index.flatten(3), cotangent.transpose(0, 1).flatten(3))
        return [back.unflatten(3, x.shape[2:]).transpose(0, 1)]
    back = torch.ops.aten.max_pool2d_with_indices_backward(
        _merged(cotangent),
        x.unsqueeze(1).expand(len(x), o, *x.shape[1:]).flatten(0, 1),
        *options,
        index.flatten(0, 1),
    )
    return [_parted(back, o)]


@_rule(F.avg_pool2d, F.adaptive_avg_pool2d)
def _average(call: Call, cotangent: Tensor, wanted: list[bool]) -> list[Tensor]:
    """Any linear pooling: its backward pass is the same for every member of a merged batch."""
    x = call.values[0]
    if x.ndim != 4:
        return _generic(call, cotangent, wanted)
    o = len(cotangent)
    big = x.new_empty(1).expand(o * len(x), *x.shape[1:])
    _, pull = vjp(lambda value: call.replay(value), big)
    return [_parted(pull(_merged(cotangent))[0], o)]


@_rule(
    Tensor.flatten,
    torch.flatten,
    Tensor.view,
    Tensor.reshape,
    torch.reshape,
    Tensor.unflatten,
    torch.unflatten,
    Tensor.squeeze,
    torch.squeeze,
    Tensor.unsqueeze,
    torch.unsqueeze,
    Tensor.contiguous,
)
def _reshape(call: Call, cotangent: Tensor, wanted: list[bool]) -> list[Tensor]:
    return [cotangent.reshape(len(cotangent), *call.values[0].shape)]


@_rule(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
def _add(call: Call, cotangent: Tensor, wanted: list[bool]) -> list[Tensor]:
    same = all(v.shape == call.outputs[0].shape for v in call.values)
    if not same or "alpha" in call.bound()[1]:
        return _generic(call, cotangent, wanted)
    return [cotangent] * len(call.values)


@_rule(*_ELEMENTWISE)
def _elementwise(call: Call, cotangent: Tensor, wanted: list[bool]) -> list[Tensor]:
    if len(call.values) != 1 or call.values[0].shape != call.outputs[0].shape:
        return _generic(call, cotangent, wanted)
    _, pull = vjp(call.replay, call.values[0])
    return [cotangent * pull(torch.ones_like(call.outputs[0]))[0]]


@_rule(F.batch_norm)
def _batch_norm(call: Call, cotangent: Tensor, wanted: list[bool]) -> list[Tensor]:
    """In evaluation mode, an affine map of every channel."""
    if len(call.values) != 1:
        return _generic(call, cotangent, wanted)
    _, pull = vjp(call.replay, call.values[0])
    return [cotangent * pull(torch.ones_like(call.outputs[0]))[0]]


# Rules whose result is always new memory.
_FRESH = {_convolution, _linear, _relu, _relu_in_place, _max_pool}


def _generic(call: Call, cotangent: Any, wanted: list[bool]) -> list[Tensor]:
    """By torch.func, batched over the cotangents; one by one where an operation has no batching."""
    floating = [t.is_floating_point() for t in call.outputs]

    def outputs(*values: Tensor) -> tuple[Tensor, ...]:
        leaves = tree_flatten(call.replay(*values))[0]
        return tuple(t for t in leaves if isinstance(t, Tensor) and t.is_floating_point())

    leaves, pull = vjp(outputs, *call.values)
    given = cotangent if isinstance(cotangent, list) else [cotangent]
    given = [c for c, keep in zip(given, floating, strict=True) if keep]
    o = next(len(c) for c in given if c is not None)
    filled = tuple(
        torch.zeros_like(t).expand(o, *t.shape) if c is None else c
        for t, c in zip(leaves, given, strict=True)
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            return list(vmap(lambda *parts: pull(parts))(*filled))
    except RuntimeError:
        rows = [pull(tuple(c[i] for c in filled)) for i in range(o)]
        return [torch.stack(column) for column in zip(*rows, strict=True)]
