"""Sums, products, quotients, powers and choices of what moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tangent.operations import smooth
from tangent.operations.generic import generic_difference
from tangent.operations.registry import Pair
from tangent.operations.relu import bent
from tangent.operations.table import bases, exact, gate, is_pair

__all__ = ["multilinear"]

aten = torch.ops.aten


def as_pair(value: Any, like: Tensor | None = None) -> Pair:
    """A number or a tensor that stays, as a pair."""
    if is_pair(value):
        return value
    if isinstance(value, Tensor):
        return Pair(value)
    assert like is not None
    return Pair(torch.as_tensor(value, device=like.device))


def _first(*values: Any) -> Tensor:
    return next(v.base for v in values if is_pair(v))


def _sum(alpha: float, x: Any, y: Any, base: Tensor, scale_x: float, scale_y: float) -> Pair:
    """The pair of ``scale_x x + scale_y y``, whose base is known."""
    parts = []
    for value, scale in ((x, scale_x), (y, scale_y)):
        v = value.difference if is_pair(value) else None
        if v is not None:
            parts.append(v if scale == 1 else v * scale)
    if not (base.is_floating_point() or base.is_complex()):
        return Pair(base, sum(parts).expand_as(base))
    if len(parts) == 1:
        return Pair(base, parts[0].to(base.dtype).expand_as(base))
    return Pair(base, parts[0] + parts[1])


@exact(aten.add)
def _add(alpha: float, /, x: Any, y: Any, *, _op: Any = None, **kwargs: Any) -> Any:
    scale = kwargs.get("alpha", 1)
    plain = [v.base if is_pair(v) else v for v in (x, y)]
    return _sum(alpha, x, y, _op(*plain, **kwargs), 1, scale)


@exact(aten.sub)
def _sub(alpha: float, /, x: Any, y: Any, *, _op: Any = None, **kwargs: Any) -> Any:
    scale = kwargs.get("alpha", 1)
    plain = [v.base if is_pair(v) else v for v in (x, y)]
    return _sum(alpha, x, y, _op(*plain, **kwargs), 1, -scale)


@exact(aten.rsub)
def _rsub(
    alpha: float, /, x: Any, y: Any, scale: Any = 1, *, _op: Any = None, **kwargs: Any
) -> Any:
    scale = kwargs.get("alpha", scale)
    plain = [v.base if is_pair(v) else v for v in (x, y)]
    return _sum(alpha, x, y, _op(*plain, scale), -scale, 1)


def multilinear(operation: Callable[..., Tensor], alpha: float, *factors: Pair) -> Pair:
    """The pair of a product linear in each factor: u y z + x' v z + x' y' w."""
    base = operation(*(f.base for f in factors))
    difference = None
    for i, factor in enumerate(factors):
        if factor.difference is None:
            continue
        before = (f.moved(alpha) for f in factors[:i])
        after = (f.base for f in factors[i + 1 :])
        term = operation(*before, factor.difference, *after)
        difference = term if difference is None else difference + term
    return Pair(base, None if difference is None else difference.to(base.dtype))


@exact(aten.mul)
def _mul(alpha: float, x: Any, y: Any, *, _op: Any = None) -> Any:
    if not (is_pair(x) and is_pair(y)):
        pair, number = (x, y) if is_pair(x) else (y, x)
        v = pair.difference
        return Pair(pair.base * number, None if v is None else v * number)
    if x.base.dtype == torch.bool and y.base.dtype == torch.bool:
        return generic_difference(_op, alpha, (x, y), {})
    return multilinear(torch.mul, alpha, x, y)


@exact(aten.bmm, aten.mv, aten.dot, aten.vdot, aten.ger, aten.outer, aten.matmul)
def _product(alpha: float, x: Any, y: Any, *, _op: Any = None) -> Any:
    return multilinear(_op, alpha, x, y)


@exact(aten._grouped_mm)
def _grouped_product(
    alpha: float, x: Any, y: Any, ends: Any = None, *others: Any, _op: Any = None, **kwargs: Any
) -> Any:
    """Rows by the matrix of their group: of experts, for one. torch has it in 32 bits at most."""
    if ends is None or ends.difference is None or math.isinf(alpha):
        at = (None if ends is None else ends.base, *bases(others))
        return multilinear(lambda a, b: _op(a, b, *at, **bases(kwargs)), alpha, x, y)
    # Where rows change their groups the product jumps: what a subtraction loses is less than that.
    base, moved = (
        _op(x_at, y_at, ends_at, *bases(others), **bases(kwargs))
        for x_at, y_at, ends_at in (
            (x.base, y.base, ends.base),
            (x.moved(alpha), y.moved(alpha), ends.moved(alpha).round().to(ends.base.dtype)),
        )
    )
    return Pair(base, alpha * (moved - base))


@exact(aten.baddbmm, aten.addmv, aten.addbmm, aten.addr)
def _added_product(
    alpha: float, /, bias: Any, x: Any, y: Any, *, beta: Any = 1, _op: Any = None, **kwargs: Any
) -> Any:
    scale = kwargs.get("alpha", 1)
    plain = [bias.base, x.base, y.base]
    base = _op(*plain, beta=beta, **kwargs)
    zero = torch.zeros_like(bias.base)
    product = multilinear(lambda a, b: _op(zero, a, b, beta=0, alpha=scale), alpha, x, y).difference
    if bias.difference is None:
        return Pair(base, product)
    db = (beta * bias.difference).expand_as(base)
    return Pair(base, db if product is None else db + product)


@exact(aten.addcmul)
def _addcmul(alpha: float, x: Any, y: Any, z: Any, *, value: Any = 1, _op: Any = None) -> Any:
    product = multilinear(torch.mul, alpha, y, z)
    base = _op(x.base, y.base, z.base, value=value)
    parts = [v for v in (x.difference, _scaled(product.difference, value)) if v is not None]
    return Pair(base, sum(parts[1:], parts[0]).expand_as(base))


def _scaled(v: Tensor | None, factor: Any) -> Tensor | None:
    return None if v is None else v * factor


@exact(aten.div, aten.true_divide)
def _div(alpha: float, x: Any, y: Any, *, _op: Any = None, **kwargs: Any) -> Any:
    if kwargs.get("rounding_mode") is not None:
        return generic_difference(_op, alpha, (x, y), kwargs)
    if not is_pair(y):
        v = x.difference
        return Pair(x.base / y, None if v is None else v / y)
    x = as_pair(x, y.base)
    ratio = x.base / y.base
    numerator = x.difference
    if y.difference is not None:
        drift = ratio * y.difference
        numerator = -drift if numerator is None else numerator - drift
    return Pair(ratio, None if numerator is None else numerator / y.moved(alpha))


@exact(aten.reciprocal)
def _reciprocal(alpha: float, x: Any, *, _op: Any = None) -> Any:
    base = x.base.reciprocal()
    return Pair(base, -x.difference * base / x.moved(alpha))


@exact(aten.sqrt)
def _sqrt(alpha: float, x: Any, *, _op: Any = None) -> Any:
    root = x.base.sqrt()
    return Pair(root, x.difference / (root + x.moved(alpha).sqrt()))


@exact(aten.rsqrt)
def _rsqrt(alpha: float, x: Any, *, _op: Any = None) -> Any:
    root, moved = x.base.sqrt(), x.moved(alpha).sqrt()
    return Pair(x.base.rsqrt(), -x.difference / (root * moved * (root + moved)))


@exact(aten.pow, aten.square)
def _pow(alpha: float, x: Any, exponent: Any = 2, *, _op: Any = None) -> Any:
    square = _op in (aten.square.default,)
    whole = isinstance(exponent, int | float) and exponent == int(exponent) and 1 <= exponent <= 8
    if not is_pair(x) or not whole:
        return generic_difference(_op, alpha, (x, exponent), {})
    base = _op(x.base) if square else _op(x.base, exponent)
    moved, count = x.moved(alpha), int(exponent)
    # x'^m - x^m = (x' - x) (x'^(m-1) + x'^(m-2) x + ... + x^(m-1))
    total = torch.ones_like(x.base)
    power = x.base
    for _ in range(count - 1):
        total = total * moved + power
        power = power * x.base
    return Pair(base, (x.difference * total).to(base.dtype))


@exact(aten.log)
def _log(alpha: float, x: Any, *, _op: Any = None) -> Any:
    if math.isinf(alpha):
        return Pair(x.base.log(), x.difference / x.base)
    return Pair(x.base.log(), alpha * torch.log1p(x.difference / (alpha * x.base)))


@exact(aten.log1p)
def _log1p(alpha: float, x: Any, *, _op: Any = None) -> Any:
    out = _log(alpha, Pair(1 + x.base, x.difference))
    return Pair(x.base.log1p(), out.difference)


@exact(aten.expm1)
def _expm1(alpha: float, x: Any, *, _op: Any = None) -> Any:
    if x.base.is_complex():
        return generic_difference(_op, alpha, (x,), {})
    return Pair(x.base.expm1(), smooth.exp(x, alpha).difference)


# Comparisons: v > alpha (y - x) says whether x' > y' without rounding a small v away.
_COMPARED = {
    aten.gt: torch.gt,
    aten.ge: torch.ge,
    aten.lt: torch.lt,
    aten.le: torch.le,
    aten.eq: torch.eq,
    aten.ne: torch.ne,
}


@exact(*_COMPARED)
def _compared(alpha: float, x: Any, y: Any, *, _op: Any = None) -> Any:
    plain = [v.base if is_pair(v) else v for v in (x, y)]
    base = _op(*plain)
    floating = all(v.base.is_floating_point() for v in (x, y) if is_pair(v))
    if math.isinf(alpha):
        return Pair(base)
    if not floating:
        return generic_difference(_op, alpha, (x, y), {})
    gap = alpha * (plain[0] - plain[1])
    for value, sign in ((x, 1), (y, -1)):
        if is_pair(value) and value.difference is not None:
            gap = gap + sign * value.difference.detach()
    moved = _COMPARED[_op.overloadpacket](gap, 0)
    step = alpha * (moved.to(torch.float64) - base.to(torch.float64))
    return Pair(base, step if bool((moved != base).any()) else None)


def _choice(alpha: float, x: Any, y: Any, larger: bool, op: Any) -> Pair:
    """max(x, y) = x + relu(y - x), and the minimum alike."""
    x = as_pair(x, y.base if is_pair(y) else None)
    y = as_pair(y, x.base)
    base = op(x.base, y.base)
    gap: Any = _sub(alpha, y, x, _op=aten.sub.Tensor)
    if not larger:
        gap = Pair(-gap.base, -gap.difference)
    moved = bent(gap, alpha) if larger else -bent(gap, alpha)
    return Pair(base, moved if x.difference is None else x.difference + moved)


@exact(aten.maximum)
def _maximum(alpha: float, x: Any, y: Any, *, _op: Any = None) -> Any:
    if math.isinf(alpha):  # ties share the derivative
        return generic_difference(_op, alpha, (x, y), {})
    return _choice(alpha, x, y, True, _op)


@exact(aten.minimum)
def _minimum(alpha: float, x: Any, y: Any, *, _op: Any = None) -> Any:
    if math.isinf(alpha):
        return generic_difference(_op, alpha, (x, y), {})
    return _choice(alpha, x, y, False, _op)


@gate(aten.maximum, aten.minimum)
def _chosen(alpha: float, x: Any, y: Any, *, _op: Any = None) -> Any:
    gap = _sub(alpha, x, y, _op=aten.sub.Tensor)
    return (gap.base > 0) == (gap.difference > -alpha * gap.base)


@exact(aten.native_dropout, aten.dropout)
def _dropout(alpha: float, x: Any, p: Any, train: Any, *, _op: Any = None) -> Any:
    if train and p > 0:
        raise ValueError("dropout draws a new network at every call; call model.eval()")
    return x


@exact(aten.linalg_vector_norm)
def _norm(
    alpha: float, x: Any, order: Any = 2, dim: Any = None, keepdim: bool = False,
    *, _op: Any = None, **kwargs: Any,
) -> Any:  # fmt: skip
    plain = order == 2 and kwargs.get("dtype") is None and x.base.is_floating_point()
    if math.isinf(alpha) or not plain:
        return generic_difference(_op, alpha, (x, order, dim, keepdim), kwargs)
    # (|x'|^2 - |x|^2) / (|x'| + |x|)
    moved = x.moved(alpha)
    rise = (x.difference * (x.base + moved)).sum(
        list(range(x.base.dim())) if dim is None else dim, keepdim=keepdim
    )
    base = _op(x.base, order, dim, keepdim)
    both = base + _op(moved, order, dim, keepdim)
    return Pair(base, torch.where(both == 0, 0.0, rise / both.where(both != 0, 1.0)))
