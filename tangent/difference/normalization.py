"""Rules for normalizations that keep inputs apart: batch norm in evaluation mode, layer and
group norm, softmax."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tangent.difference.pair import Pair, register_rule

__all__: list[str] = []


def _as_pair(value) -> Pair | None:
    return value if value is None or isinstance(value, Pair) else Pair(value)


def _scaled_and_shifted(alpha: float, n: Pair, weight, bias, shape) -> Pair:
    """n * weight + bias with every factor a pair; ``shape`` lines the parameters up with n."""
    base, difference = n
    weight, bias = _as_pair(weight), _as_pair(bias)
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


def _standardized(alpha: float, x: Pair, dims: tuple[int, ...], eps: float) -> Pair:
    """(x - mean) / sqrt(var + eps) over ``dims``: the change of variance is a product, not a
    difference of squares, and that of 1/sqrt follows from it without a subtraction."""
    c = x.base - x.base.mean(dims, keepdim=True)
    s = c.square().mean(dims, keepdim=True) + eps
    r = s.rsqrt()
    if x.difference is None:
        return Pair(c * r)
    dc = x.difference - x.difference.mean(dims, keepdim=True)
    moved = c if math.isinf(alpha) else c + dc / alpha
    ds = (dc * (c + moved)).mean(dims, keepdim=True)
    s_moved = s if math.isinf(alpha) else moved.square().mean(dims, keepdim=True) + eps
    r_moved = s_moved.rsqrt()
    dr = -ds * r * r_moved / (s.sqrt() + s_moved.sqrt())
    return Pair(c * r, dc * r_moved + c * dr)


@register_rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def _batch_norm_module(alpha, module, weights, x) -> Pair:
    if module.training or module.running_mean is None:
        raise ValueError(
            "batch norm in training mode mixes the inputs of a batch; call model.eval() with "
            "running statistics, or take a network without it"
        )
    return _batch_norm(
        alpha,
        x,
        module.running_mean,
        module.running_var,
        weights["weight"],
        weights["bias"],
        eps=module.eps,
    )


@register_rule(F.batch_norm)
def _batch_norm(
    alpha, input, running_mean, running_var, weight=None, bias=None, training=False,
    momentum=0.1, eps=1e-5,
) -> Pair:  # fmt: skip
    if training:
        raise ValueError("batch norm in training mode mixes the inputs of a batch; call eval()")
    shape = (-1,) + (1,) * (input.base.dim() - 2)
    mean, variance = (t.base if isinstance(t, Pair) else t for t in (running_mean, running_var))
    scale = (variance + eps).rsqrt().view(shape)
    v = input.difference
    n = Pair((input.base - mean.view(shape)) * scale, None if v is None else v * scale)
    return _scaled_and_shifted(alpha, n, weight, bias, shape)


@register_rule(nn.LayerNorm)
def _layer_norm_module(alpha, module, weights, x) -> Pair:
    shape = module.normalized_shape
    return _layer_norm(alpha, x, shape, weights["weight"], weights["bias"], module.eps)


@register_rule(F.layer_norm)
def _layer_norm(alpha, input, normalized_shape, weight=None, bias=None, eps=1e-5) -> Pair:
    shape = tuple(normalized_shape)
    dims = tuple(range(input.base.dim() - len(shape), input.base.dim()))
    return _scaled_and_shifted(alpha, _standardized(alpha, input, dims, eps), weight, bias, shape)


@register_rule(nn.GroupNorm)
def _group_norm_module(alpha, module, weights, x) -> Pair:
    return _group_norm(alpha, x, module.num_groups, weights["weight"], weights["bias"], module.eps)


@register_rule(F.group_norm)
def _group_norm(alpha, input, num_groups, weight=None, bias=None, eps=1e-5) -> Pair:
    shape = input.base.shape

    def grouped(t: Tensor) -> Tensor:
        return t.reshape(shape[0], num_groups, -1)

    v = input.difference
    pair = Pair(grouped(input.base), None if v is None else grouped(v))
    n = _standardized(alpha, pair, (2,), eps)
    n = Pair(n.base.view(shape), None if n.difference is None else n.difference.view(shape))
    return _scaled_and_shifted(alpha, n, weight, bias, (-1,) + (1,) * (len(shape) - 2))


@register_rule(nn.Softmax)
def _softmax_module(alpha, module, weights, x) -> Pair:
    return _softmax(alpha, x, module.dim)


@register_rule(F.softmax, torch.softmax, "softmax")
def _softmax(alpha, input, dim=None, **kwargs) -> Pair:
    if dim is None:
        raise ValueError("softmax needs dim; got None")
    p = torch.softmax(input.base, dim)
    v = input.difference
    if v is None:
        return Pair(p)
    if math.isinf(alpha):
        return Pair(p, p * (v - (p * v).sum(dim, keepdim=True)))
    # p'_i - p_i = p_i (e_i - sum_j p_j e_j) / (1 + sum_j p_j e_j) with e = expm1(step); a common
    # shift of the steps changes nothing and keeps the exponentials below one.
    step = v / alpha
    rise = torch.expm1(step - step.amax(dim, keepdim=True).detach())
    mean = (p * rise).sum(dim, keepdim=True)
    return Pair(p, alpha * p * (rise - mean) / (1 + mean))
