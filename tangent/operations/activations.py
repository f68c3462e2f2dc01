"""Rules for activations: alpha (phi(z + v/alpha) - phi(z)) without the cancellation.

Piecewise linear ones are exact in any precision. Smooth ones are products of factors that do not
cancel (expm1, log1p), or v times the mean of phi' between z and z + v/alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tangent.operations.arithmetic import multilinear
from tangent.operations.generic import generic_difference
from tangent.operations.registry import Pair
from tangent.operations.table import exact, gate, operation

__all__ = ["breaks_of", "relu_pair", "smooth_rule", "stable_signs"]

Elementwise = Callable[[Tensor], Tensor]


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
    def forward(ctx: Any, v: Any, z: Any, alpha: float) -> Any:
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
    def backward(ctx: Any, *grads: Tensor) -> Any:
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
def _relu(alpha: float, z: Pair, *, _op: Any = None) -> Pair:
    return relu_pair(z, alpha)


@gate(aten.relu, aten.leaky_relu, aten._prelu_kernel, aten.abs)
def _sign_gate(alpha: float, z: Pair, *args: Any, _op: Any = None, **kwargs: Any) -> Tensor:
    return stable_signs(z, alpha)


@exact(aten.leaky_relu)
def _leaky_relu(alpha: float, z: Pair, slope: Any = 0.01, *, _op: Any = None) -> Pair:
    # phi(z) = slope z + (1 - slope) relu(z)
    bent = _bent(z, alpha)
    return Pair(F.leaky_relu(z.base, slope), slope * z.difference + (1 - slope) * bent)


def _negative_part(z: Pair, alpha: float) -> Pair:
    """min(z, 0) = z - relu(z)."""
    if z.difference is None:
        return Pair(z.base.clamp(max=0))
    return Pair(z.base.clamp(max=0), z.difference - _bent(z, alpha))


@exact(aten._prelu_kernel)
def _prelu(alpha: float, z: Pair, weight: Any, *, _op: Any = None) -> Pair:
    bent: Any = multilinear(torch.mul, alpha, weight, _negative_part(z, alpha)).difference
    if z.difference is not None:
        bent = bent + _bent(z, alpha)
    return Pair(_op(z.base, weight.base), bent.expand_as(z.base))


@exact(aten.abs)
def _abs(alpha: float, z: Pair, *, _op: Any = None) -> Pair:
    if math.isinf(alpha) or not z.base.is_floating_point():
        return generic_difference(_op, alpha, (z,), {})
    return Pair(z.base.abs(), 2 * _bent(z, alpha) - z.difference)


def _between(z: Pair, low: Any, high: Any, alpha: float) -> Any:
    """Difference of z clamped: relu(z - low) - relu(z - high)."""
    parts: list[Any] = []
    for at, sign in ((low, 1), (high, -1)):
        if at is not None:
            parts.append(sign * _bent(Pair(z.base - at, z.difference), alpha))
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


class _SmoothDifference(torch.autograd.Function):
    """A difference whose gradient in v is phi'(z + v/alpha), whatever formula gave its value."""

    @staticmethod
    def forward(ctx: Any, v: Any, z: Any, alpha: float, difference: Any, slope: Any) -> Any:
        ctx.save_for_backward(v, z)
        ctx.alpha, ctx.slope = alpha, slope
        if math.isinf(alpha):
            return v * slope(z)
        return difference(v, z, alpha)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        v, z = ctx.saved_tensors
        return grads[0] * ctx.slope(Pair(z, v).moved(ctx.alpha)), None, None, None, None


def smooth_rule(
    value: Elementwise,
    slope: Elementwise,
    difference: Callable[[Tensor, Tensor, float], Tensor] | None = None,
) -> Callable[[Pair, float], Pair]:
    """Return the rule of an elementwise activation from its value and its derivative.

    Parameters
    ----------
    value, slope : callable
        phi and phi', of a tensor.
    difference : callable, optional
        ``difference(v, z, alpha)`` is alpha (phi(z + v/alpha) - phi(z)). By default the mean of
        phi' over the step by Gauss-Legendre quadrature where the step is below 1, and the
        subtraction, which is safe there, where it is not.
    """
    if difference is None:

        def difference(v: Tensor, z: Tensor, alpha: float) -> Tensor:
            return _mean_slope(v, z, alpha, value, slope)

    def rule(z: Pair, alpha: float) -> Pair:
        if z.difference is None:
            return Pair(value(z.base))
        moved = _SmoothDifference.apply(z.difference, z.base, alpha, difference, slope)
        return Pair(value(z.base), moved)

    return rule


def _mean_slope(
    v: Tensor, z: Tensor, alpha: float, value: Elementwise, slope: Elementwise
) -> Tensor:
    step = v / alpha
    meta = step.is_meta  # shapes only, no values to look at
    largest = 1.0 if meta else step.abs().max().item() if step.numel() else 0.0
    # Error of the rule with m nodes is about (step/4)^2m phi^(2m+1): these reach float64.
    nodes = 2 if largest < 1e-4 else 4 if largest < 1e-2 else 12
    points, weights = np.polynomial.legendre.leggauss(nodes)
    mean = torch.zeros_like(z)
    for point, weight in zip(points, weights, strict=True):
        mean += float(weight) / 2 * slope(z + step * ((float(point) + 1) / 2))
    result = v * mean
    if largest < 1:
        return result
    return torch.where(step.abs() < 1, result, alpha * (value(z + step) - value(z)))


def _tanh_difference(v: Tensor, z: Tensor, alpha: float) -> Tensor:
    # tanh a - tanh b = sinh(a - b) / (cosh a cosh b), in exponentials that cannot overflow.
    step = v / alpha
    moved = (z + step).abs()
    same = (z >= 0) == (step >= 0)
    z = z.abs()
    size = step.abs()
    # |step| - |z| - |moved|, with nothing large that is added and taken away again.
    growth = torch.exp(torch.where(same, -2 * z, 2 * (size - z).clamp(max=0)))
    shrink = (1 + torch.exp(-2 * z)) * (1 + torch.exp(-2 * moved))
    return -2 * alpha * torch.sign(v) * torch.expm1(-2 * size) * growth / shrink


def _sigmoid_difference(v: Tensor, z: Tensor, alpha: float) -> Tensor:
    return _tanh_difference(v / 2, z / 2, alpha) / 2


def _softplus_difference(v: Tensor, z: Tensor, alpha: float) -> Tensor:
    # log1p(sigmoid(z) expm1(step)) for a step down; a step up is the step down of -z, plus v.
    step = v / alpha
    down = torch.where(step > 0, -z, z)
    product = torch.sigmoid(down) * torch.expm1(-step.abs())
    safe = alpha * torch.log1p(product.clamp(min=-0.5)) + torch.relu(v)
    # Past -1/2 the two values differ by a factor: subtracting them loses nothing.
    return torch.where(product > -0.5, safe, alpha * (F.softplus(z + step) - F.softplus(z)))


def _silu_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def _silu_difference(v: Tensor, z: Tensor, alpha: float) -> Tensor:
    return v * torch.sigmoid(z + v / alpha) + z * _sigmoid_difference(v, z, alpha)


def _gelu_slope(z: Tensor) -> Tensor:
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return torch.special.ndtr(z) + z * density


_CUBIC = 0.044715
_RATE = math.sqrt(2 / math.pi)


def _gelu_tanh_inner(z: Tensor) -> Tensor:
    return _RATE * z * (1 + _CUBIC * z * z)


def _gelu_tanh_slope(z: Tensor) -> Tensor:
    t = torch.tanh(_gelu_tanh_inner(z))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * _RATE * (1 + 3 * _CUBIC * z * z)


def _gelu_tanh_difference(v: Tensor, z: Tensor, alpha: float) -> Tensor:
    moved = z + v / alpha
    inner = _RATE * v * (1 + _CUBIC * (z * z + z * moved + moved * moved))
    rise = _tanh_difference(inner, _gelu_tanh_inner(z), alpha)
    return 0.5 * v * (1 + torch.tanh(_gelu_tanh_inner(moved))) + 0.5 * z * rise


_tanh = smooth_rule(torch.tanh, lambda z: 1 - torch.tanh(z) ** 2, _tanh_difference)
_sigmoid = smooth_rule(
    torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z), _sigmoid_difference
)
_silu = smooth_rule(F.silu, _silu_slope, _silu_difference)
_gelu = smooth_rule(F.gelu, _gelu_slope)
_gelu_tanh = smooth_rule(
    lambda z: F.gelu(z, approximate="tanh"), _gelu_tanh_slope, _gelu_tanh_difference
)
_erf = smooth_rule(torch.erf, lambda z: 2 / math.sqrt(math.pi) * torch.exp(-z * z))
_exp = smooth_rule(
    torch.exp, torch.exp, lambda v, z, alpha: alpha * torch.exp(z) * torch.expm1(v / alpha)
)
_sin = smooth_rule(torch.sin, torch.cos)
_cos = smooth_rule(torch.cos, lambda z: -torch.sin(z))
_softplus_one = smooth_rule(F.softplus, torch.sigmoid, _softplus_difference)


def _softplus(z: Pair, alpha: float, beta: float) -> Pair:
    # softplus_beta(z) = softplus(beta z) / beta; the threshold only saves torch an exponential.
    scaled = Pair(beta * z.base, None if z.difference is None else beta * z.difference)
    out = _softplus_one(scaled, alpha)
    return Pair(out.base / beta, None if out.difference is None else out.difference / beta)


def _register(rule: Any, *ops: Any) -> None:
    def exact_rule(alpha: float, z: Pair, *, _op: Any = None) -> Any:
        if z.base.is_complex():
            return generic_difference(_op, alpha, (z,), {})
        return rule(z, alpha)

    for op in ops:
        operation(op).difference = exact_rule


_register(_tanh, aten.tanh)
_register(_sigmoid, aten.sigmoid)
_register(_silu, aten.silu)
_register(_erf, aten.erf, aten.special_erf)
_register(_exp, aten.exp)
_register(_sin, aten.sin)
_register(_cos, aten.cos)


@exact(aten.gelu)
def _gelu_rule(alpha: float, z: Pair, *, approximate: str = "none", _op: Any = None) -> Pair:
    return (_gelu_tanh if approximate == "tanh" else _gelu)(z, alpha)


@exact(aten.softplus)
def _softplus_rule(
    alpha: float, z: Pair, beta: Any = 1.0, threshold: Any = 20.0, *, _op: Any = None
) -> Pair:
    return Pair(_op(z.base, beta, threshold), _softplus(z, alpha, beta).difference)


@exact(aten.log_sigmoid_forward)
def _log_sigmoid(alpha: float, z: Pair, *, _op: Any = None) -> list[Pair]:
    base, buffer = _op(z.base)
    assert z.difference is not None
    falling: Any = _softplus_one(Pair(-z.base, -z.difference), alpha).difference
    return [Pair(base, -falling), Pair(buffer)]


@exact(aten.mish)
def _mish(alpha: float, z: Pair, *, _op: Any = None) -> Pair:
    product = multilinear(torch.mul, alpha, z, _tanh(_softplus_one(z, alpha), alpha))
    return Pair(_op(z.base), product.difference)


@exact(aten.elu)
def _elu(
    alpha: float,
    z: Pair,
    rate: Any = 1.0,
    scale: Any = 1.0,
    input_scale: Any = 1.0,
    *,
    _op: Any = None,
) -> Pair:
    below = _negative_part(z, alpha)
    below = _exp(Pair(below.base * input_scale, below.difference * input_scale), alpha)
    v = scale * (_bent(z, alpha) + rate * below.difference)
    return Pair(_op(z.base, rate, scale, input_scale), v)


@exact(aten.celu)
def _celu(alpha: float, z: Pair, rate: Any = 1.0, *, _op: Any = None) -> Pair:
    below = _negative_part(z, alpha)
    below = _exp(Pair(below.base / rate, below.difference / rate), alpha)
    return Pair(_op(z.base, rate), _bent(z, alpha) + rate * below.difference)


@exact(aten.glu)
def _glu(alpha: float, z: Pair, dim: int = -1, *, _op: Any = None) -> Pair:
    assert z.difference is not None
    halves = zip(z.base.chunk(2, dim), z.difference.chunk(2, dim), strict=True)
    a, b = (Pair(*half) for half in halves)
    return multilinear(torch.mul, alpha, a, _sigmoid(b, alpha))


# Where they break: unit by unit, at these places.
_BREAKS = {
    **dict.fromkeys((aten.relu, aten.leaky_relu, aten._prelu_kernel, aten.abs), (0.0,)),
    aten.rrelu_with_noise: (0.0,),
    **dict.fromkeys((aten.hardsigmoid, aten.hardswish), (-3.0, 3.0)),
}


def breaks_of(op: Any, args: tuple, kwargs: dict) -> tuple[float, ...] | None:
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
