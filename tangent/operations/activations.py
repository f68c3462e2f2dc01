"""Rules for smooth activations: alpha (phi(z + v/alpha) - phi(z)) without the cancellation.

They are products of factors that do not cancel (expm1, log1p), or v times the mean of phi' between
z and z + v/alpha.
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
from tangent.operations.relu import bent, negative_part
from tangent.operations.table import exact, operation

__all__ = ["smooth_rule"]

aten = torch.ops.aten
Elementwise = Callable[[Tensor], Tensor]


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
    below = negative_part(z, alpha)
    below = _exp(Pair(below.base * input_scale, below.difference * input_scale), alpha)
    v = scale * (bent(z, alpha) + rate * below.difference)
    return Pair(_op(z.base, rate, scale, input_scale), v)


@exact(aten.celu)
def _celu(alpha: float, z: Pair, rate: Any = 1.0, *, _op: Any = None) -> Pair:
    below = negative_part(z, alpha)
    below = _exp(Pair(below.base / rate, below.difference / rate), alpha)
    return Pair(_op(z.base, rate), bent(z, alpha) + rate * below.difference)


@exact(aten.glu)
def _glu(alpha: float, z: Pair, dim: int = -1, *, _op: Any = None) -> Pair:
    assert z.difference is not None
    halves = zip(z.base.chunk(2, dim), z.difference.chunk(2, dim), strict=True)
    a, b = (Pair(*half) for half in halves)
    return multilinear(torch.mul, alpha, a, _sigmoid(b, alpha))
