"""Normalizations that keep inputs apart: batch norm in evaluation mode, layer and group norm,
softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tangent.operations.arithmetic import multilinear
from tangent.operations.generic import generic_difference
from tangent.operations.registry import Pair
from tangent.operations.table import exact

__all__: list[str] = []


aten = torch.ops.aten


def _scaled_and_shifted(alpha: float, n: Pair, weight: Any, bias: Any, shape: Any) -> Pair:
    """n * weight + bias with every factor a pair; ``shape`` lines the parameters up with n."""
    base, difference = n
    if weight is not None:
        if difference is not None:
            difference = difference * weight.base.view(shape)
        if weight.difference is not None:
            drift = n.moved(alpha) * weight.difference.view(shape)
            difference = drift if difference is None else difference + drift
        base = base * weight.base.view(shape)
    if bias is not None:
        base = base + bias.base.view(shape)
        if bias.difference is not None:
            shift = bias.difference.view(shape)
            difference = shift.expand_as(base) if difference is None else difference + shift
    return Pair(base, difference)


def _standardized(alpha: float, x: Pair, dims: tuple[int, ...], eps: float) -> list[Pair]:
    """(x - mean) / sqrt(var + eps) over ``dims``, the mean, and 1 / sqrt(var + eps).

    The change of variance is a product, not a difference of squares, and that of 1/sqrt follows
    from it without a subtraction.
    """
    mean = x.base.mean(dims, keepdim=True)
    c = x.base - mean
    s = c.square().mean(dims, keepdim=True) + eps
    r = s.rsqrt()
    if x.difference is None:
        return [Pair(c * r), Pair(mean), Pair(r)]
    shift = x.difference.mean(dims, keepdim=True)
    dc = x.difference - shift
    moved = c if math.isinf(alpha) else c + dc / alpha
    ds = (dc * (c + moved)).mean(dims, keepdim=True)
    s_moved = s if math.isinf(alpha) else moved.square().mean(dims, keepdim=True) + eps
    r_moved = s_moved.rsqrt()
    dr = -ds * r * r_moved / (s.sqrt() + s_moved.sqrt())
    return [Pair(c * r, dc * r_moved + c * dr), Pair(mean, shift), Pair(r, dr)]


def _viewed(pair: Pair, shape: Any) -> Pair:
    v = pair.difference
    return Pair(pair.base.reshape(shape), None if v is None else v.reshape(shape))


@exact(aten.native_batch_norm)
def _batch_norm(alpha: float, x: Any, weight: Any, bias: Any, *how: Any, _op: Any) -> list[Pair]:
    mean, variance, training, _, eps = how
    shape = (-1,) + (1,) * (x.base.dim() - 2)
    if training:  # of instance norm: every input's channels are channels of their own
        dims = (0, *range(2, x.base.dim()))
        n, m, r = _standardized(alpha, x, dims, eps)
        out = _scaled_and_shifted(alpha, n, weight, bias, shape)
        return [out, _viewed(m, (-1,)), _viewed(r, (-1,))]
    if any(p.difference is not None for p in (mean, variance)):
        return generic_difference(_op, alpha, (x, weight, bias, *how), {})
    scale = (variance.base + eps).rsqrt().view(shape)
    v = x.difference
    n = Pair((x.base - mean.base.view(shape)) * scale, None if v is None else v * scale)
    empty = Pair(x.base.new_empty(0))
    return [_scaled_and_shifted(alpha, n, weight, bias, shape), empty, empty]


@exact(aten.native_layer_norm)
def _layer_norm(
    alpha: float, x: Any, shape: Any, weight: Any, bias: Any, eps: float, *, _op: Any = None
) -> list[Pair]:
    shape = tuple(shape)
    dims = tuple(range(x.base.dim() - len(shape), x.base.dim()))
    n, mean, r = _standardized(alpha, x, dims, eps)
    return [_scaled_and_shifted(alpha, n, weight, bias, shape), mean, r]


@exact(aten.native_group_norm)
def _group_norm(
    alpha: float, x: Any, weight: Any, bias: Any, *how: Any, _op: Any = None
) -> list[Pair]:
    n, _, _, groups, eps = how
    shape = x.base.shape
    plain, mean, r = _standardized(alpha, _viewed(x, (n, groups, -1)), (2,), eps)
    out = _viewed(plain, shape)
    out = _scaled_and_shifted(alpha, out, weight, bias, (-1,) + (1,) * (len(shape) - 2))
    return [out, _viewed(mean, (n, groups)), _viewed(r, (n, groups))]


@exact(aten._weight_norm_interface)
def _weight_norm(alpha: float, v: Any, g: Any, dim: int = 0, *, _op: Any = None) -> list[Pair]:
    """v g / |v|, the norm over all axes but one."""
    dims = [i for i in range(v.base.dim()) if i != dim]
    norm = v.base.square().sum(dims, keepdim=True).sqrt()
    ratio = Pair(g.base / norm)
    if v.difference is not None:
        moved = v.moved(alpha)
        moved_norm = moved.square().sum(dims, keepdim=True).sqrt()
        rise = (v.difference * (v.base + moved)).sum(dims, keepdim=True) / (norm + moved_norm)
        ratio = Pair(ratio.base, -ratio.base * rise / moved_norm)
    else:
        rise, moved_norm = None, norm
    if g.difference is not None:
        part = g.difference / moved_norm
        ratio = Pair(ratio.base, part if ratio.difference is None else ratio.difference + part)
    return [multilinear(torch.mul, alpha, v, ratio), Pair(norm, rise)]


_LONG = 30.0  # steps in the exponents beyond which a probability of zero may come back


def _softmax_steps(alpha: float, p: Tensor, v: Tensor, dim: int) -> tuple[Tensor, Tensor] | None:
    """exp(step - top) - 1 and the largest step, of what has a probability; None for long steps."""
    step = v / alpha
    if not step.is_meta and step.numel() and float(step.detach().abs().amax()) > _LONG:
        return None
    there = p > 0
    top = step.detach().masked_fill(~there, -math.inf).amax(dim, keepdim=True)
    top = top.where(top > -math.inf, torch.zeros_like(top))
    return torch.expm1((step - top).where(there, torch.zeros_like(step))), top


@exact(aten._softmax, aten._safe_softmax, aten.softmax)
def _softmax(alpha: float, x: Any, dim: int, *rest: Any, _op: Any = None, **kwargs: Any) -> Pair:
    p = _op(x.base, dim, *rest, **kwargs)
    v = x.difference
    if math.isinf(alpha):
        return Pair(p, p * (v - (p * v).sum(dim, keepdim=True)))
    # p'_i - p_i = p_i (e_i - sum_j p_j e_j) / (1 + sum_j p_j e_j) with e = expm1(step); a common
    # shift of the steps changes nothing and keeps the exponentials below one.
    steps = _softmax_steps(alpha, p, v, dim)
    if steps is None:
        return generic_difference(_op, alpha, (x, dim, *rest), kwargs)
    rise = steps[0]
    mean = (p * rise).sum(dim, keepdim=True)
    return Pair(p, alpha * p * (rise - mean) / (1 + mean))


@exact(aten._log_softmax, aten.log_softmax)
def _log_softmax(
    alpha: float, x: Any, dim: int, *rest: Any, _op: Any = None, **kwargs: Any
) -> Pair:
    base = _op(x.base, dim, *rest, **kwargs)
    p, v = base.exp(), x.difference
    if math.isinf(alpha):
        return Pair(base, v - (p * v).sum(dim, keepdim=True))
    steps = _softmax_steps(alpha, p, v, dim)
    if steps is None or bool((p == 0).any()):
        return generic_difference(_op, alpha, (x, dim, *rest), kwargs)
    rise, top = steps
    mean = (p * rise).sum(dim, keepdim=True)
    return Pair(base, v - alpha * (top + torch.log1p(mean)))
