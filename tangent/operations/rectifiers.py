"""Rules for activations in straight pieces, exact in any precision; where they decide as before."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tangent.operations.arithmetic import multilinear
from tangent.operations.generic import generic_difference
from tangent.operations.registry import Pair
from tangent.operations.relu import bent, negative_part, relu_pair, stable_signs
from tangent.operations.table import exact, gate

aten = torch.ops.aten


@exact(aten.relu)
def _relu(alpha: float, z: Pair, *, _op: Any = None) -> Pair:
    return relu_pair(z, alpha)


@gate(aten.relu, aten.leaky_relu, aten._prelu_kernel, aten.abs)
def _sign_gate(alpha: float, z: Pair, *args: Any, _op: Any = None, **kwargs: Any) -> Tensor:
    return stable_signs(z, alpha)


@exact(aten.leaky_relu)
def _leaky_relu(alpha: float, z: Pair, slope: Any = 0.01, *, _op: Any = None) -> Pair:
    # phi(z) = slope z + (1 - slope) relu(z)
    v = slope * z.difference + (1 - slope) * bent(z, alpha)
    return Pair(F.leaky_relu(z.base, slope), v)


@exact(aten._prelu_kernel)
def _prelu(alpha: float, z: Pair, weight: Any, *, _op: Any = None) -> Pair:
    v: Any = multilinear(torch.mul, alpha, weight, negative_part(z, alpha)).difference
    if z.difference is not None:
        v = v + bent(z, alpha)
    return Pair(_op(z.base, weight.base), v.expand_as(z.base))


@exact(aten.abs)
def _abs(alpha: float, z: Pair, *, _op: Any = None) -> Pair:
    if math.isinf(alpha) or not z.base.is_floating_point():
        return generic_difference(_op, alpha, (z,), {})
    return Pair(z.base.abs(), 2 * bent(z, alpha) - z.difference)


def _between(z: Pair, low: Any, high: Any, alpha: float) -> Any:
    """Difference of z clamped: relu(z - low) - relu(z - high)."""
    parts: list[Any] = []
    for at, sign in ((low, 1), (high, -1)):
        if at is not None:
            parts.append(sign * bent(Pair(z.base - at, z.difference), alpha))
    if low is None:  # min(z, high) = z - relu(z - high)
        parts.append(z.difference)
    return sum(parts[1:], parts[0])


@exact(aten.hardtanh, aten.clamp, aten.clamp_min, aten.clamp_max)
def _clamp(alpha: float, z: Pair, *limits: Any, _op: Any = None, **kwargs: Any) -> Pair:
    low, high = _limits(_op, limits, kwargs)
    plain = all(v is None or isinstance(v, int | float) for v in (low, high))
    if math.isinf(alpha) or not plain or not z.base.is_floating_point():
        return generic_difference(_op, alpha, (z, *limits), kwargs)
    return Pair(_op(z.base, *limits, **kwargs), _between(z, low, high, alpha))


def _limits(op: Any, limits: tuple, kwargs: dict) -> tuple:
    """Both limits; None where there is none, or an infinite one, which limits nothing."""
    low, high = _given_limits(op, limits, kwargs)
    return None if low == -math.inf else low, None if high == math.inf else high


def _given_limits(op: Any, limits: tuple, kwargs: dict) -> tuple:
    packet = op.overloadpacket
    if packet == aten.clamp_min:
        return limits[0], None
    if packet == aten.clamp_max:
        return None, limits[0]
    default = -1.0 if packet == aten.hardtanh else None
    low = limits[0] if limits else kwargs.get("min", kwargs.get("min_val", default))
    default = 1.0 if packet == aten.hardtanh else None
    high = limits[1] if len(limits) > 1 else kwargs.get("max", kwargs.get("max_val", default))
    return low, high


@gate(aten.hardtanh, aten.clamp, aten.clamp_min, aten.clamp_max)
def _clamp_gate(
    alpha: float, z: Pair, *limits: Any, _op: Any = None, **kwargs: Any
) -> Tensor | None:
    found = [v for v in _limits(_op, limits, kwargs) if isinstance(v, int | float)]
    return _same_side(z, found, alpha) if found else None


def _same_side(z: Pair, breaks: Any, alpha: float) -> Tensor:
    stable = torch.ones_like(z.base, dtype=torch.bool)
    for at in breaks:
        stable &= stable_signs(Pair(z.base - at, z.difference), alpha)
    return stable


@gate(aten.hardsigmoid, aten.hardswish)
def _hard_gate(alpha: float, z: Pair, *, _op: Any = None) -> Tensor:
    return _same_side(z, (-3.0, 3.0), alpha)


@gate(aten.softshrink, aten.hardshrink)
def _shrink_gate(alpha: float, z: Pair, at: Any = 0.5, *, _op: Any = None) -> Tensor:
    return _same_side(z, (-at, at), alpha)


@gate(aten.threshold)
def _threshold_gate(alpha: float, z: Pair, at: Any, value: Any, *, _op: Any = None) -> Tensor:
    return _same_side(z, (at,), alpha)


@gate(aten.rrelu_with_noise)
def _rrelu_gate(alpha: float, z: Pair, *args: Any, _op: Any = None, **kwargs: Any) -> Tensor:
    return stable_signs(z, alpha)


def _hard_sigmoid_pair(z: Pair, alpha: float) -> Pair:
    return Pair(F.hardsigmoid(z.base), _between(z, -3.0, 3.0, alpha) / 6)


@exact(aten.hardsigmoid)
def _hardsigmoid(alpha: float, z: Pair, *, _op: Any = None) -> Pair:
    if math.isinf(alpha):
        assert z.difference is not None
        inside = (z.base > -3) & (z.base < 3)
        return Pair(_op(z.base), z.difference * inside / 6)
    return _hard_sigmoid_pair(z, alpha)


@exact(aten.hardswish)
def _hardswish(alpha: float, z: Pair, *, _op: Any = None) -> Pair:
    if math.isinf(alpha):
        return generic_difference(_op, alpha, (z,), {})
    product = multilinear(torch.mul, alpha, z, _hard_sigmoid_pair(z, alpha))
    return Pair(_op(z.base), product.difference)
