"""Rules for operations that are linear in their inputs, and for arithmetic."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tangent.difference.pair import Pair, register_rule

__all__: list[str] = []


def _is_pair(value: Any) -> bool:
    return isinstance(value, Pair)


def _bases(values: Any) -> Any:
    return pytree.tree_map(lambda v: v.base if _is_pair(v) else v, values, is_leaf=_is_pair)


def _differences(values: Any) -> Any:
    """The same arguments with every pair replaced by its difference, zeros where it is None."""

    def difference(value):
        if not _is_pair(value):
            return value
        return torch.zeros_like(value.base) if value.difference is None else value.difference

    return pytree.tree_map(difference, values, is_leaf=_is_pair)


def _moves(values: Any) -> bool:
    leaves = pytree.tree_leaves(values, is_leaf=_is_pair)
    return any(_is_pair(v) and v.difference is not None for v in leaves)


def _linear_rule(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of an operation that is linear in all its tensors together: apply it to both."""

    def rule(alpha, *args, **kwargs):
        base = operation(*_bases(args), **_bases(kwargs))
        moves = _moves((args, kwargs))
        difference = operation(*_differences(args), **_differences(kwargs)) if moves else None
        if isinstance(base, Tensor):
            return Pair(base, difference)
        if difference is None:
            return tuple(Pair(b) for b in base)
        return tuple(Pair(b, d) for b, d in zip(base, difference, strict=True))

    return rule


def _method(name: str) -> Callable[..., Any]:
    return lambda tensor, *args, **kwargs: getattr(tensor, name)(*args, **kwargs)


_LINEAR_FUNCTIONS = (
    torch.flatten,
    torch.reshape,
    torch.permute,
    torch.transpose,
    torch.squeeze,
    torch.unsqueeze,
    torch.cat,
    torch.concat,
    torch.stack,
    torch.chunk,
    torch.split,
    torch.sum,
    torch.mean,
    torch.neg,
    torch.roll,
    torch.flip,
    operator.neg,
    operator.getitem,
    F.avg_pool1d,
    F.avg_pool2d,
    F.avg_pool3d,
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
    F.pixel_shuffle,
    F.unfold,
)
_LINEAR_METHODS = (
    "flatten",
    "view",
    "reshape",
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "contiguous",
    "chunk",
    "split",
    "sum",
    "mean",
    "neg",
    "t",
    "expand",
    "repeat",
    "roll",
    "flip",
    "clone",
    "unflatten",
)
_LINEAR_MODULES = (
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.ZeroPad2d,
    nn.PixelShuffle,
    nn.Unfold,
)
for _function in _LINEAR_FUNCTIONS:
    register_rule(_function)(_linear_rule(_function))
for _name in _LINEAR_METHODS:
    register_rule(_name)(_linear_rule(_method(_name)))


@register_rule(*_LINEAR_MODULES)
def _linear_module(alpha, module, weights, *args) -> Any:
    return _linear_rule(module)(alpha, *args)


for _name in ("size", "dim", "numel"):
    register_rule(_name)(lambda alpha, x, *args, _name=_name: getattr(x.base, _name)(*args))


@register_rule(getattr)
def _attribute(alpha, x, name, *default):
    if name in ("shape", "ndim", "dtype", "device"):
        return getattr(x.base, name)
    if name in ("T", "mT"):
        return _linear_rule(lambda t: getattr(t, name))(alpha, x)
    raise ValueError(f"the attribute {name!r} of an activation has no difference rule")


@register_rule(F.pad)
def _pad(alpha, input, pad, mode="constant", value=None):
    input = input if _is_pair(input) else Pair(input)
    base = F.pad(input.base, pad, mode, value)
    if input.difference is None:
        return Pair(base)
    # A constant border does not move, whatever its value.
    border = 0.0 if mode == "constant" else None
    return Pair(base, F.pad(input.difference, pad, mode, border))


@register_rule(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
def _dropout_module(alpha, module, weights, x):
    return _dropout(alpha, x, module.p, module.training)


@register_rule(F.dropout)
def _dropout(alpha, input, p=0.5, training=True, inplace=False):
    if training and p > 0:
        raise ValueError(
            "dropout draws a new network at every call and has no difference; call model.eval()"
        )
    return input


def _sum_of(alpha, x, y, sign: float) -> Any:
    x, y = (p if _is_pair(p) else Pair(_tensor_like(p, x, y)) for p in (x, y))
    base = torch.add(x.base, y.base, alpha=sign)
    if x.difference is None and y.difference is None:
        return Pair(base)
    if y.difference is None:
        return Pair(base, x.difference.expand_as(base))
    if x.difference is None:
        return Pair(base, (sign * y.difference).expand_as(base))
    return Pair(base, torch.add(x.difference, y.difference, alpha=sign))


def _tensor_like(value, *pairs) -> Tensor:
    like = next(p.base for p in pairs if _is_pair(p))
    if isinstance(value, Tensor):
        return value
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


@register_rule(operator.add, operator.iadd, torch.add, "add", "add_", "__add__", "__radd__")
def _add(alpha, x, y):
    return _sum_of(alpha, x, y, 1)


@register_rule(operator.sub, operator.isub, torch.sub, "sub", "sub_")
def _sub(alpha, x, y):
    return _sum_of(alpha, x, y, -1)


def _bilinear(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """alpha (x' y' - x y) = u y + x' v for any product linear in each factor."""

    def rule(alpha, x, y, **kwargs):
        x, y = (p if _is_pair(p) else Pair(p) for p in (x, y))
        base = operation(x.base, y.base, **kwargs)
        difference = None
        if x.difference is not None:
            difference = operation(x.difference, y.base, **kwargs)
        if y.difference is not None:
            second = operation(x.moved(alpha), y.difference, **kwargs)
            difference = second if difference is None else difference + second
        return Pair(base, difference)

    return rule


register_rule(operator.mul, operator.imul, torch.mul, "mul", "mul_")(_bilinear(operator.mul))
register_rule(operator.matmul, torch.matmul, torch.bmm, torch.mm, "matmul", "bmm", "mm")(
    _bilinear(torch.matmul)
)


@register_rule(operator.truediv, torch.div, "div", "div_")
def _div(alpha, x, y):
    x, y = (p if _is_pair(p) else Pair(_tensor_like(p, x, y)) for p in (x, y))
    ratio = x.base / y.base
    numerator = x.difference
    if y.difference is not None:
        drift = ratio * y.difference
        numerator = -drift if numerator is None else numerator - drift
    return Pair(ratio, None if numerator is None else numerator / y.moved(alpha))
