"""Rules for operations that are affine in the input and in the weights.

With x' = x + u/alpha and W' = W0 + dW/alpha the scaled difference of W x is

    alpha (W' x' - W0 x) = W' u + dW x,

two products forward. Its gradients are W'^T g for u and g x'^T for dW, two products backward:
with the base W0 x that makes five passes, where training the network itself takes three. Autograd
left alone would take six (it differentiates W0 u, dW x and dW u apart).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tangent.difference import winograd
from tangent.difference.pair import Pair, register_rule
from tangent.pointwise import subsampled

__all__: list[str] = []


def _moved(base: Tensor, difference: Tensor, alpha: float) -> Tensor:
    return base if math.isinf(alpha) else torch.add(base, difference, alpha=1 / alpha)


class _ConvolutionDifference(torch.autograd.Function):
    """W' u + dW x + db for a convolution, with the two-product backward."""

    @staticmethod
    def forward(ctx, u, dw, db, x, w, alpha, options):
        # W' is made anew for the backward pass: kept for all layers it would double the weights.
        ctx.save_for_backward(u, dw, x, w)
        ctx.alpha, ctx.options = alpha, options
        out = _convolution(x, dw, options, db)
        return out.add_(_convolution(u, _moved(w, dw, alpha), options))

    @staticmethod
    def backward(ctx, *grads):
        (grad,) = grads
        u, dw, x, w = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        gu, gdw, gdb = torch.ops.aten.convolution_backward(
            grad,
            _moved(x, u, ctx.alpha),
            _moved(w, dw, ctx.alpha),
            [w.shape[0]],
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            groups,
            list(ctx.needs_input_grad[:3]),
        )
        return gu, gdw, gdb, None, None, None, None


def _convolution(x: Tensor, w: Tensor, options, bias: Tensor | None = None) -> Tensor:
    stride, padding, dilation, groups = options
    return torch.ops.aten.convolution(
        x, w, bias, stride, padding, dilation, False, [0] * len(stride), groups
    )


class _LinearDifference(torch.autograd.Function):
    """u W'^T + x dW^T, with the two-product backward."""

    @staticmethod
    def forward(ctx, u, dw, x, w, alpha):
        ctx.save_for_backward(u, dw, x, w)
        ctx.alpha = alpha
        return F.linear(u, _moved(w, dw, alpha)).add_(F.linear(x, dw))

    @staticmethod
    def backward(ctx, *grads):
        (grad,) = grads
        u, dw, x, w = ctx.saved_tensors
        gu = gdw = None
        if ctx.needs_input_grad[0]:
            gu = grad @ _moved(w, dw, ctx.alpha)
        if ctx.needs_input_grad[1]:
            gdw = grad.flatten(0, -2).T @ _moved(x, u, ctx.alpha).flatten(0, -2)
        return gu, gdw, None, None, None


def _as_pair(value: Any) -> Pair | None:
    return value if value is None or isinstance(value, Pair) else Pair(value)


def _with_bias(v: Tensor | None, bias: Pair | None, base: Tensor, shape) -> Tensor | None:
    """Add the bias's difference to ``v``; ``shape`` lines it up with the output."""
    if bias is None or bias.difference is None:
        return v
    db = bias.difference.view(shape)
    return db.expand_as(base) if v is None else v + db


def _convolution_pair(alpha, x, weight, bias, stride, padding, dilation, groups) -> Pair:
    x, weight, bias = _as_pair(x), _as_pair(weight), _as_pair(bias)
    spatial = weight.base.dim() - 2
    if x.base.dim() != spatial + 2:
        raise ValueError(
            f"a convolution takes a batch, {spatial + 2} dimensions; got {tuple(x.base.shape)}"
        )
    if (part := subsampled(x.base, weight.base, stride, padding, spatial)) is not None:
        moved = x.difference
        if moved is not None:
            moved = subsampled(moved, weight.base, stride, padding, spatial)
        x, stride, dilation = Pair(part, moved), 1, 1
    options = (*_options(spatial, stride, padding, dilation, weight.base), groups)
    both = x.difference is not None and weight.difference is not None
    if both and winograd.suits(x.base, weight.base, options):
        return winograd.convolution_pair(alpha, x, weight, bias)
    z = _convolution(x.base, weight.base, options, None if bias is None else bias.base)
    db = None if bias is None else bias.difference
    if weight.difference is None:
        v = None if x.difference is None else _convolution(x.difference, weight.base, options)
        return Pair(z, _with_bias(v, bias, z, (-1,) + (1,) * spatial))
    if x.difference is None:
        return Pair(z, _convolution(x.base, weight.difference, options, db))
    args = (x.difference, weight.difference, db, x.base, weight.base)
    return Pair(z, _ConvolutionDifference.apply(*args, alpha, options))


def _options(spatial: int, stride, padding, dilation, weight: Tensor):
    def full(value):
        return [value] * spatial if isinstance(value, int) else list(value)

    stride, dilation = full(stride), full(dilation)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(t % 2 for t in total):
            raise ValueError("padding='same' needs odd kernels here; pad the input instead")
        padding = [t // 2 for t in total]
    return stride, full(padding), dilation


def _linear_pair(alpha, x, weight, bias=None) -> Pair:
    x, weight, bias = _as_pair(x), _as_pair(weight), _as_pair(bias)
    z = F.linear(x.base, weight.base, None if bias is None else bias.base)
    v = None
    if x.difference is not None and weight.difference is not None:
        v = _LinearDifference.apply(x.difference, weight.difference, x.base, weight.base, alpha)
    elif x.difference is not None:
        v = F.linear(x.difference, weight.base)
    elif weight.difference is not None:
        v = F.linear(x.base, weight.difference)
    return Pair(z, _with_bias(v, bias, z, (-1,)))


@register_rule(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _convolution_module(alpha, module, weights, x) -> Pair:
    if module.padding_mode != "zeros":
        raise ValueError(
            f"padding_mode must be 'zeros'; got {module.padding_mode!r}; pad the input instead"
        )
    return _convolution_pair(
        alpha,
        x,
        weights["weight"],
        weights["bias"],
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
    )


@register_rule(F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d)
def _convolution_function(
    alpha, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1
) -> Pair:
    return _convolution_pair(alpha, input, weight, bias, stride, padding, dilation, groups)


@register_rule(nn.Linear)
def _linear_module(alpha, module, weights, x) -> Pair:
    return _linear_pair(alpha, x, weights["weight"], weights["bias"])


@register_rule(F.linear)
def _linear_function(alpha, input, weight, bias=None) -> Pair:
    return _linear_pair(alpha, input, weight, bias)


@register_rule(nn.Embedding)
def _embedding_module(alpha, module, weights, index) -> Pair:
    if module.max_norm is not None:
        raise ValueError("an embedding with max_norm changes its weights as it reads them")
    return _embedding_function(alpha, index, weights["weight"], module.padding_idx)


@register_rule(F.embedding)
def _embedding_function(alpha, input, weight, padding_idx=None, *args, **kwargs) -> Pair:
    index = input.base if isinstance(input, Pair) else input
    weight = _as_pair(weight)
    difference = weight.difference
    if difference is not None:
        difference = F.embedding(index, difference, padding_idx)
    return Pair(F.embedding(index, weight.base), difference)
