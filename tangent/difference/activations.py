"""Rules for activations: alpha (phi(z + v/alpha) - phi(z)) without the cancellation.

Piecewise linear ones are exact in any precision. Smooth ones are products of factors that do not
cancel (expm1, log1p), or v times the mean of phi' between z and z + v/alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tangent.difference.pair import Pair, register_gate, register_rule

__all__ = ["smooth_rule", "stable_signs"]

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


def _relu(z: Pair, alpha: float) -> Pair:
    v = z.difference
    return Pair(F.relu(z.base), None if v is None else _ReLUDifference.apply(v, z.base, alpha))


@register_rule(nn.ReLU)
def _relu_module(alpha, module, weights, x) -> Pair:
    return _relu(x, alpha)


@register_rule(F.relu, torch.relu, "relu", "relu_")
def _relu_function(alpha, input, inplace=False) -> Pair:
    return _relu(input, alpha)


@register_gate(nn.ReLU, nn.LeakyReLU)
def _relu_module_gate(alpha, module, weights, x) -> Tensor:
    return stable_signs(x, alpha)


@register_gate(F.relu, torch.relu, F.leaky_relu, "relu", "relu_")
def _relu_function_gate(alpha, input, *args, **kwargs) -> Tensor:
    return stable_signs(input, alpha)


def _leaky_relu(z: Pair, alpha: float, slope: float) -> Pair:
    # phi(z) = slope z + (1 - slope) relu(z)
    bent = _relu(z, alpha)
    base = F.leaky_relu(z.base, slope)
    if z.difference is None or bent.difference is None:
        return Pair(base)
    return Pair(base, slope * z.difference + (1 - slope) * bent.difference)


@register_rule(nn.LeakyReLU)
def _leaky_relu_module(alpha, module, weights, x) -> Pair:
    return _leaky_relu(x, alpha, module.negative_slope)


@register_rule(F.leaky_relu)
def _leaky_relu_function(alpha, input, negative_slope=0.01, inplace=False) -> Pair:
    return _leaky_relu(input, alpha, negative_slope)


class _SmoothDifference(torch.autograd.Function):
    """A difference whose gradient in v is phi'(z + v/alpha), whatever formula gave its value."""

    @staticmethod
    def forward(ctx, v, z, alpha, difference, slope):
        ctx.save_for_backward(v, z)
        ctx.alpha, ctx.slope = alpha, slope
        if math.isinf(alpha):
            return v * slope(z)
        return difference(v, z, alpha)

    @staticmethod
    def backward(ctx, *grads):
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


def _mean_slope(v: Tensor, z: Tensor, alpha: float, value, slope) -> Tensor:
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
    away = (z >= 0) == (step >= 0)
    z = z.abs()
    size = step.abs()
    # size - |z| - moved, which a large step would round away.
    growth = torch.exp(-2 * torch.where(away, z, (z - size).relu()))
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


def _register(rule, module: type[nn.Module] | None, *others) -> None:
    if module is not None:
        register_rule(module)(lambda alpha, module, weights, x: rule(x, alpha))
    register_rule(*others)(lambda alpha, input, inplace=False: rule(input, alpha))


_register(_tanh, nn.Tanh, torch.tanh, F.tanh, "tanh")
_register(_sigmoid, nn.Sigmoid, torch.sigmoid, F.sigmoid, "sigmoid")
_register(_silu, nn.SiLU, F.silu)
_register(_erf, None, torch.erf, torch.special.erf, "erf")
_register(_exp, None, torch.exp, "exp")
_register(_sin, None, torch.sin, "sin")
_register(_cos, None, torch.cos, "cos")


@register_rule(nn.GELU)
def _gelu_module(alpha, module, weights, x) -> Pair:
    return _gelu_function(alpha, x, module.approximate)


@register_rule(F.gelu)
def _gelu_function(alpha, input, approximate="none") -> Pair:
    return (_gelu_tanh if approximate == "tanh" else _gelu)(input, alpha)


@register_rule(nn.Softplus)
def _softplus_module(alpha, module, weights, x) -> Pair:
    return _softplus(x, alpha, module.beta)


@register_rule(F.softplus)
def _softplus_function(alpha, input, beta=1.0, threshold=20.0) -> Pair:
    return _softplus(input, alpha, beta)
