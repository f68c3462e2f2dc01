"""Rules for smooth activations: alpha (phi(z + v/alpha) - phi(z)) without the cancellation.

Products of factors that do not cancel (expm1, log1p), or v times the mean of phi' between z and
z + v/alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tangent.operations.registry import Pair

__all__ = [
    "cos",
    "erf",
    "exp",
    "gelu",
    "gelu_tanh",
    "sigmoid",
    "silu",
    "sin",
    "smooth_rule",
    "softplus_one",
    "tanh",
]

Elementwise = Callable[[Tensor], Tensor]


class _SmoothDifference(torch.autograd.Function):
    """A difference whose gradient in v is phi'(z + v/alpha), whatever formula gave its value."""

    @staticmethod
    def forward(ctx: Any, v: Any, z: Any, alpha: float, difference: Any, slope: Any) -> Any:
        ctx.save_for_backward(v, z)
        ctx.alpha, ctx.slope = alpha, slope
        if math.isinf(alpha):
            return _in_blocks(lambda v, z: v * slope(z), v, z)
        return _in_blocks(lambda v, z: difference(v, z, alpha), v, z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        def pulled(grad: Tensor, v: Tensor, z: Tensor) -> Tensor:
            return grad * ctx.slope(Pair(z, v).moved(ctx.alpha))

        return _in_blocks(pulled, grads[0], *ctx.saved_tensors), None, None, None, None


_BLOCK = 2**16  # entries whose intermediate results a core's own cache holds


def _in_blocks(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A function of entries, some at a time: a formula of many steps stays in the cache."""
    first = tensors[0]
    alike = all(t.shape == first.shape and t.is_contiguous() for t in tensors)
    if not alike or first.numel() <= _BLOCK or first.device.type != "cpu":
        return function(*tensors)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return function(*tensors)
    out = torch.empty_like(first)
    for to, *parts in zip(*(t.view(-1).split(_BLOCK) for t in (out, *tensors)), strict=True):
        to.copy_(function(*parts))
    return out


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


def _exp_difference(v: Tensor, z: Tensor, alpha: float) -> Tensor:
    # By the larger of both: a long way up from a small one would be infinity times zero.
    step = v / alpha
    return -alpha * torch.sign(v) * torch.exp(z + step.clamp(min=0)) * torch.expm1(-step.abs())


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


def _normal(z: Tensor) -> Tensor:
    """Distribution function of the normal law; digits are kept in the lower tail."""
    return torch.erfc(z * -math.sqrt(0.5)) / 2


_DENSITY = 1 / math.sqrt(2 * math.pi)
# Largest step times max(1, |z|), and the nodes that give the mean density over such a step to
# 1e-15, or to 1e-8 for float32 (found against 24 nodes, |z| up to 9).
_NODES = ((1e-4, 2), (1e-2, 3), (0.1, 4), (0.25, 5), (0.5, 6), (1.0, 8))
_NODES_FLOAT32 = ((0.05, 2), (0.25, 3), (0.5, 4), (1.0, 5))


def _normal_rise(step: Tensor, z: Tensor) -> tuple[Tensor, Tensor | None]:
    """(Phi(z + step) - Phi(z)) / step, and where steps are long also Phi's rise itself.

    The rise is None where no step is long; else it is to be taken where it is not NaN.
    """
    reach = step.abs() * z.abs().clamp(min=1)
    largest = reach.max().item() if reach.numel() and not reach.is_meta else 0.0
    table = _NODES if z.dtype == torch.float64 else _NODES_FLOAT32
    points, weights = np.polynomial.legendre.leggauss(
        next((nodes for limit, nodes in table if largest <= limit), table[-1][1])
    )
    mean = torch.zeros_like(z)
    for point, weight in zip(points, weights, strict=True):
        at = torch.add(z, step, alpha=(float(point) + 1) / 2)
        mean.add_(at.square_().mul_(-0.5).exp_(), alpha=float(weight) / 2 * _DENSITY)
    if largest <= table[-1][0]:
        return mean, None
    # Two values of one tail differ by a factor: subtracting them loses nothing.
    side = 1 - 2 * (z > 0).to(z)
    rise = side * (_normal(side * (z + step)) - _normal(side * z))
    return mean, rise.masked_fill_(reach <= table[-1][0], math.nan)


def _gelu_difference(v: Tensor, z: Tensor, alpha: float) -> Tensor:
    # z' Phi(z') - z Phi(z) = (z' - z) Phi(z') + z (Phi(z') - Phi(z))
    step = v / alpha
    mean, rise = _normal_rise(step, z)
    slope = _normal(z + step).addcmul_(z, mean)
    if rise is None:
        return slope.mul_(v)
    far = v * _normal(z + step) + alpha * z * rise
    return torch.where(rise.isnan(), slope * v, far)


def _gelu_slope(z: Tensor) -> Tensor:
    density = torch.exp(-0.5 * z * z) * _DENSITY  # not in place: gradients may have gradients
    return _normal(z).addcmul_(z, density)


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


tanh = smooth_rule(torch.tanh, lambda z: 1 - torch.tanh(z) ** 2, _tanh_difference)
sigmoid = smooth_rule(
    torch.sigmoid, lambda z: torch.sigmoid(z) * torch.sigmoid(-z), _sigmoid_difference
)
silu = smooth_rule(F.silu, _silu_slope, _silu_difference)
gelu = smooth_rule(F.gelu, _gelu_slope, _gelu_difference)
gelu_tanh = smooth_rule(
    lambda z: F.gelu(z, approximate="tanh"), _gelu_tanh_slope, _gelu_tanh_difference
)
erf = smooth_rule(torch.erf, lambda z: 2 / math.sqrt(math.pi) * torch.exp(-z * z))
exp = smooth_rule(torch.exp, torch.exp, _exp_difference)
sin = smooth_rule(torch.sin, torch.cos)
cos = smooth_rule(torch.cos, lambda z: -torch.sin(z))
softplus_one = smooth_rule(F.softplus, torch.sigmoid, _softplus_difference)
