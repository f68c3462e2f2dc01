"""Rules for activations, those with kinks and those made of smooth ones.

Piecewise linear ones are exact in any precision; smooth ones stand in `smooth`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tangent.operations import smooth
from tangent.operations.arithmetic import multilinear
from tangent.operations.generic import generic_difference
from tangent.operations.registry import Pair
from tangent.operations.table import exact, gate, operation

__all__ = ["breaks_of", "relu_pair", "stable_signs"]


def stable_signs(z: Pair, alpha: float) -> Tensor:
    """Return where the pre-activation keeps its sign pattern: (z > 0) == (z + v/alpha > 0).

    Compared as v > -alpha z, which does not round away a small v. True everywhere at alpha = inf.
    """
    if z.difference is None or math.isinf(alpha):
        return torch.ones_like(z.base, dtype=torch.bool)
    return (z.base > 0) == (z.difference > -alpha * z.base)


class _ReLUDifference(torch.autograd.Function):
    """max(v, -alpha z) where z > 0, max(v + alpha z, 0) elsewhere; saves one mask."""

    @staticmethod
    def forward(ctx, v, z, alpha):
        if math.isinf(alpha):
            mask = z > 0
            ctx.save_for_backward(mask)
            return v * mask
        # In one expression: max(v, -alpha z) - max(-alpha z, 0); the second term is zero on the
        # active side, and on the other the sum is exact where the unit stays off.
        edge = z * -alpha
        ctx.save_for_backward(v > edge)
        return torch.maximum(v, edge).sub_(edge.relu_())

    @staticmethod
    def backward(ctx, *grads):
        (mask,) = ctx.saved_tensors
        return grads[0] * mask, None, None


def relu_pair(z: Pair, alpha: float) -> Pair:
    """The pair of max(z, 0)."""
    v = z.difference
    return Pair(F.relu(z.base), None if v is None else _ReLUDifference.apply(v, z.base, alpha))


aten = torch.ops.aten


def _bent(z: Pair, alpha: float) -> Any:
    """Difference of max(z, 0), where z moves."""
    return relu_pair(z, alpha).difference


@exact(aten.relu)
def _relu(alpha, z, *, _op=None) -> Pair:
    return relu_pair(z, alpha)


@gate(aten.relu, aten.leaky_relu, aten._prelu_kernel, aten.abs)
def _sign_gate(alpha, z, *args, _op=None, **kwargs) -> Tensor:
    return stable_signs(z, alpha)


@exact(aten.leaky_relu)
def _leaky_relu(alpha, z, slope=0.01, *, _op=None) -> Pair:
    # phi(z) = slope z + (1 - slope) relu(z)
    bent = _bent(z, alpha)
    return Pair(F.leaky_relu(z.base, slope), slope * z.difference + (1 - slope) * bent)


def _negative_part(z: Pair, alpha: float) -> Pair:
    """min(z, 0) = z - relu(z)."""
    if z.difference is None:
        return Pair(z.base.clamp(max=0))
    return Pair(z.base.clamp(max=0), z.difference - _bent(z, alpha))


@exact(aten._prelu_kernel)
def _prelu(alpha, z, weight, *, _op=None) -> Pair:
    bent: Any = multilinear(torch.mul, alpha, weight, _negative_part(z, alpha)).difference
    if z.difference is not None:
        bent = bent + _bent(z, alpha)
    return Pair(_op(z.base, weight.base), bent.expand_as(z.base))


@exact(aten.abs)
def _abs(alpha, z, *, _op=None) -> Pair:
    if math.isinf(alpha) or not z.base.is_floating_point():
        return generic_difference(_op, alpha, (z,), {})
    return Pair(z.base.abs(), 2 * _bent(z, alpha) - z.difference)


def _between(z: Pair, low, high, alpha: float) -> Any:
    """Difference of z clamped: relu(z - low) - relu(z - high)."""
    parts: list[Any] = []
    for at, sign in ((low, 1), (high, -1)):
        if at is not None:
            parts.append(sign * _bent(Pair(z.base - at, z.difference), alpha))
    if low is None:  # min(z, high) = z - relu(z - high)
        parts.append(z.difference)
    return sum(parts[1:], parts[0])


@exact(aten.hardtanh, aten.clamp, aten.clamp_min, aten.clamp_max)
def _clamp(alpha, z, *limits, _op=None, **kwargs) -> Pair:
    low, high = _limits(_op, limits, kwargs)
    plain = all(v is None or isinstance(v, int | float) for v in (low, high))
    if math.isinf(alpha) or not plain or not z.base.is_floating_point():
        return generic_difference(_op, alpha, (z, *limits), kwargs)
    return Pair(_op(z.base, *limits, **kwargs), _between(z, low, high, alpha))


def _limits(op, limits: tuple, kwargs: dict) -> tuple:
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
def _clamp_gate(alpha, z, *limits, _op=None, **kwargs) -> Tensor | None:
    found = [v for v in _limits(_op, limits, kwargs) if isinstance(v, int | float)]
    return _same_side(z, found, alpha) if found else None


def _same_side(z: Pair, breaks, alpha: float) -> Tensor:
    stable = torch.ones_like(z.base, dtype=torch.bool)
    for at in breaks:
        stable &= stable_signs(Pair(z.base - at, z.difference), alpha)
    return stable


@gate(aten.hardsigmoid, aten.hardswish)
def _hard_gate(alpha, z, *, _op=None) -> Tensor:
    return _same_side(z, (-3.0, 3.0), alpha)


@gate(aten.softshrink, aten.hardshrink)
def _shrink_gate(alpha, z, at=0.5, *, _op=None) -> Tensor:
    return _same_side(z, (-at, at), alpha)


@gate(aten.threshold)
def _threshold_gate(alpha, z, at, value, *, _op=None) -> Tensor:
    return _same_side(z, (at,), alpha)


@gate(aten.rrelu_with_noise)
def _rrelu_gate(alpha, z, *args, _op=None, **kwargs) -> Tensor:
    return stable_signs(z, alpha)


def _hard_sigmoid_pair(z: Pair, alpha: float) -> Pair:
    return Pair(F.hardsigmoid(z.base), _between(z, -3.0, 3.0, alpha) / 6)


@exact(aten.hardsigmoid)
def _hardsigmoid(alpha, z, *, _op=None) -> Pair:
    if math.isinf(alpha):
        inside = (z.base > -3) & (z.base < 3)
        return Pair(_op(z.base), z.difference * inside / 6)
    return _hard_sigmoid_pair(z, alpha)


@exact(aten.hardswish)
def _hardswish(alpha, z, *, _op=None) -> Pair:
    if math.isinf(alpha):
        return generic_difference(_op, alpha, (z,), {})
    product = multilinear(torch.mul, alpha, z, _hard_sigmoid_pair(z, alpha))
    return Pair(_op(z.base), product.difference)


def _softplus(z: Pair, alpha: float, beta: float) -> Pair:
    # softplus_beta(z) = softplus(beta z) / beta; the threshold only saves torch an exponential.
    scaled = Pair(beta * z.base, None if z.difference is None else beta * z.difference)
    out = smooth.softplus_one(scaled, alpha)
    return Pair(out.base / beta, None if out.difference is None else out.difference / beta)


def _register(rule, *ops) -> None:
    def exact_rule(alpha, z, *, _op=None):
        if z.base.is_complex():
            return generic_difference(_op, alpha, (z,), {})
        return rule(z, alpha)

    for op in ops:
        operation(op).difference = exact_rule


_register(smooth.tanh, aten.tanh)
_register(smooth.sigmoid, aten.sigmoid)
_register(smooth.silu, aten.silu)
_register(smooth.erf, aten.erf, aten.special_erf)
_register(smooth.exp, aten.exp)
_register(smooth.sin, aten.sin)
_register(smooth.cos, aten.cos)


@exact(aten.gelu)
def _gelu_rule(alpha, z, *, approximate="none", _op=None) -> Pair:
    return (smooth.gelu_tanh if approximate == "tanh" else smooth.gelu)(z, alpha)


@exact(aten.softplus)
def _softplus_rule(alpha, z, beta=1.0, threshold=20.0, *, _op=None) -> Pair:
    return Pair(_op(z.base, beta, threshold), _softplus(z, alpha, beta).difference)


@exact(aten.log_sigmoid_forward)
def _log_sigmoid(alpha, z, *, _op=None) -> list[Pair]:
    base, buffer = _op(z.base)
    falling: Any = smooth.softplus_one(Pair(-z.base, -z.difference), alpha).difference
    return [Pair(base, -falling), Pair(buffer)]


@exact(aten.mish)
def _mish(alpha, z, *, _op=None) -> Pair:
    product = multilinear(torch.mul, alpha, z, smooth.tanh(smooth.softplus_one(z, alpha), alpha))
    return Pair(_op(z.base), product.difference)


@exact(aten.elu)
def _elu(alpha, z, rate=1.0, scale=1.0, input_scale=1.0, *, _op=None) -> Pair:
    below = _negative_part(z, alpha)
    below = smooth.exp(Pair(below.base * input_scale, below.difference * input_scale), alpha)
    v = scale * (_bent(z, alpha) + rate * below.difference)
    return Pair(_op(z.base, rate, scale, input_scale), v)


@exact(aten.celu)
def _celu(alpha, z, rate=1.0, *, _op=None) -> Pair:
    below = _negative_part(z, alpha)
    below = smooth.exp(Pair(below.base / rate, below.difference / rate), alpha)
    return Pair(_op(z.base, rate), _bent(z, alpha) + rate * below.difference)


@exact(aten.glu)
def _glu(alpha, z, dim=-1, *, _op=None) -> Pair:
    halves = zip(z.base.chunk(2, dim), z.difference.chunk(2, dim), strict=True)
    a, b = (Pair(*half) for half in halves)
    return multilinear(torch.mul, alpha, a, smooth.sigmoid(b, alpha))


# Where they break: unit by unit, at these places.
_BREAKS = {
    **dict.fromkeys((aten.relu, aten.leaky_relu, aten._prelu_kernel, aten.abs), (0.0,)),
    aten.rrelu_with_noise: (0.0,),
    **dict.fromkeys((aten.hardsigmoid, aten.hardswish), (-3.0, 3.0)),
}


def breaks_of(op, args: tuple, kwargs: dict) -> tuple[float, ...] | None:
    """Where an operation on single units has its kinks; None for one that chooses among units."""
    packet = getattr(op, "overloadpacket", op)
    if packet in _BREAKS:
        return _BREAKS[packet]
    if packet in (aten.hardtanh, aten.clamp, aten.clamp_min, aten.clamp_max):
        limits = _limits(op, args, kwargs)
        return tuple(v for v in limits if isinstance(v, int | float))
    if packet == aten.threshold:
        return (args[0],)
    if packet in (aten.softshrink, aten.hardshrink):
        at = args[0] if args else 0.5
        return (-at, at)
    return None
