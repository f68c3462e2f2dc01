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
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tangent.machine.products import add_product, product
from tangent.operations import winograd
from tangent.operations.arithmetic import multilinear
from tangent.operations.registry import Pair
from tangent.operations.table import exact, executed

__all__ = ["FasterLinear", "matrix_product", "plain_call"]

aten = torch.ops.aten


def _moved(base: Tensor, difference: Tensor, alpha: float) -> Tensor:
    return base if math.isinf(alpha) else torch.add(base, difference, alpha=1 / alpha)


class _ConvolutionDifference(torch.autograd.Function):
    """W' u + dW x + db for a convolution, with the two-product backward."""

    @staticmethod
    def forward(
        ctx: Any, u: Any, dw: Any, db: Any, x: Any, w: Any, alpha: float, options: Any
    ) -> Any:
        # W' is made anew for the backward pass: kept for all layers it would double the weights.
        ctx.save_for_backward(u, dw, x, w)
        ctx.alpha, ctx.options = alpha, options
        out = _convolution(x, dw, options, db)
        return out.add_(_convolution(u, _moved(w, dw, alpha), options))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
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


def _convolution(x: Tensor, w: Tensor, options: Any, bias: Tensor | None = None) -> Tensor:
    stride, padding, dilation, groups = options
    return torch.ops.aten.convolution(
        x, w, bias, stride, padding, dilation, False, [0] * len(stride), groups
    )


class _ProductDifference(torch.autograd.Function):
    """u M' + x dM for matrices, with the two-product backward."""

    @staticmethod
    def forward(ctx: Any, u: Any, dm: Any, x: Any, m: Any, alpha: float) -> Any:
        ctx.save_for_backward(u, dm, x, m)
        ctx.alpha = alpha
        out = product(u, _moved(m, dm, alpha).t())
        add_product(out, x, dm.t(), 1)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        u, dm, x, m = ctx.saved_tensors
        gu = gdm = None
        if ctx.needs_input_grad[0]:
            gu = product(grad, _moved(m, dm, ctx.alpha))
        if ctx.needs_input_grad[1]:
            # Transposed, as the weights of linear layers lie in memory.
            gdm = product(grad.t(), _moved(x, u, ctx.alpha).t()).t()
        return gu, gdm, None, None, None


class _Product(torch.autograd.Function):
    """x M + b for matrices, by whichever library is faster, as often differentiable as that."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, m: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, m)
        return product(x, m.t(), b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        x, m = ctx.saved_tensors
        gx = matrix_product(grad, m.t()) if ctx.needs_input_grad[0] else None
        # Transposed, as the weights of linear layers lie in memory.
        gm = matrix_product(grad.t(), x).t() if ctx.needs_input_grad[1] else None
        return gx, gm, grad.sum(0) if ctx.needs_input_grad[2] else None


def matrix_product(x: Tensor, m: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ m``, plus ``bias`` of shape (columns,), to be differentiated by autograd."""
    given = (x, m) if bias is None else (x, m, bias)
    if torch.is_grad_enabled() and any(t.requires_grad for t in given):
        return _Product.apply(x, m, bias)
    return product(x, m.t(), bias)


class FasterLinear(TorchFunctionMode):
    """Within it, linear layers in float32 are `matrix_product`s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.linear and not kwargs and _real(tuple(args[:2])):
            x, weight, *bias = args
            out = matrix_product(x.reshape(-1, x.shape[-1]), weight.t(), *bias)
            return out.view(*x.shape[:-1], len(weight))
        return func(*args, **kwargs)


def plain_call(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on tensors, matrix products by whichever library is faster."""
    if op is aten.mm.default and _real(args):
        return matrix_product(*args)
    if op is aten.addmm.default and not kwargs and args[0].dim() == 1 and _real(args):
        bias, x, m = args
        if bias.shape[0] == m.shape[1]:
            return matrix_product(x, m, bias)
    return executed(op, args, kwargs)


def _real(tensors: tuple[Tensor, ...]) -> bool:
    return all(t.dtype == torch.float32 for t in tensors)


def _with_bias(v: Tensor | None, bias: Pair | None, base: Tensor, shape: Any) -> Tensor | None:
    """Add the bias's difference to ``v``; ``shape`` lines it up with the output."""
    if bias is None or bias.difference is None:
        return v
    db = bias.difference.view(shape)
    return db.expand_as(base) if v is None else v + db


aten = torch.ops.aten


@exact(aten.convolution)
def _convolution_pair(alpha: float, x: Any, weight: Any, bias: Any, *how: Any, _op: Any) -> Pair:
    stride, padding, dilation, transposed, output_padding, groups = how
    spatial = weight.base.dim() - 2
    stride, padding, dilation = (_full(v, spatial) for v in (stride, padding, dilation))
    db = None if bias is None else bias.difference
    shape = (-1,) + (1,) * spatial
    if transposed or x.base.is_complex():
        rest = (stride, padding, dilation, transposed, output_padding, groups)
        out = multilinear(lambda a, b: _op(a, b, None, *rest), alpha, x, weight)
        z = out.base if bias is None else out.base + bias.base.view(shape)
        return Pair(z, _with_bias(out.difference, bias, z, shape))
    options = (stride, padding, dilation, groups)
    both = x.difference is not None and weight.difference is not None
    if both and winograd.suits(x.base, weight.base, options):
        return winograd.convolution_pair(alpha, x, weight, bias)
    z = _convolution(x.base, weight.base, options, None if bias is None else bias.base)
    if weight.difference is None:
        v = None if x.difference is None else _convolution(x.difference, weight.base, options)
        return Pair(z, _with_bias(v, bias, z, shape))
    if x.difference is None:
        return Pair(z, _convolution(x.base, weight.difference, options, db))
    args = (x.difference, weight.difference, db, x.base, weight.base)
    return Pair(z, _ConvolutionDifference.apply(*args, alpha, options))


def _full(value: Any, spatial: int) -> list[int]:
    values = list(value)
    return values * spatial if len(values) == 1 else values


@exact(aten.mm)
def _matrix_product(alpha: float, x: Any, y: Any, *, _op: Any = None) -> Pair:
    z = plain_call(aten.mm.default, (x.base, y.base), {})
    return Pair(z, _moved_product(alpha, x, y))


@exact(aten.addmm)
def _added_matrix_product(
    alpha: float, /, bias: Any, x: Any, y: Any, *, beta: Any = 1, _op: Any = None, **kwargs: Any
) -> Pair:
    scale = kwargs.get("alpha", 1)
    scaled = {} if beta == 1 and scale == 1 else {"beta": beta, "alpha": scale}
    z = plain_call(aten.addmm.default, (bias.base, x.base, y.base), scaled)
    v = _moved_product(alpha, x, y)
    if v is not None and scale != 1:
        v = scale * v
    if bias.difference is not None and beta != 1:
        bias = Pair(bias.base, beta * bias.difference)
    return Pair(z, _with_bias(v, bias, z, bias.base.shape))


def _moved_product(alpha: float, x: Pair, y: Pair) -> Tensor | None:
    u, dm = x.difference, y.difference
    if u is not None and dm is not None:
        if x.base.is_complex() or y.base.is_complex():  # whose gradients have conjugates
            return multilinear(torch.mm, alpha, x, y).difference
        return _ProductDifference.apply(u, dm, x.base, y.base, alpha)
    if u is not None:
        return plain_call(aten.mm.default, (u, y.base), {})
    return None if dm is None else plain_call(aten.mm.default, (x.base, dm), {})
