"""3x3 convolutions of pairs with fewer multiplications: Winograd's F(2x2, 3x3).

Tiles of 4x4 inputs and the kernel are transformed, multiplied at 16 places (matrix products over
the channels), and transformed to 2x2 outputs: 16 multiplications where the convolution takes 36.
A pair needs five passes of products on the same tensors, so that the transforms are shared: that
of the input serves base and difference, and those of W0 and dW add up to that of W0 + dW/alpha.
All steps are linear; their adjoints make the backward pass.

Source: Winograd 1980; Lavin and Gray 2016, "Fast algorithms for convolutional neural networks",
equations (9)-(15). The additions cost float32 no accuracy: measured on VGG-11's layers the error
is below that of the direct convolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from tangent.difference.pair import Pair

__all__ = ["convolution_pair", "suits"]

# Below, the transforms cost more than the products save (VGG-11 on one core of an AMD EPYC).
_CHANNELS = 128
_TILES = 64
_LARGEST_SIDE = 8


def suits(x: Tensor, weight: Tensor, options) -> bool:
    """Whether a convolution is of the kind, and of a size, that gains from it on this device."""
    stride, padding, dilation, groups = options
    if x.device.type != "cpu" or x.dtype != torch.float32 or weight.shape[2:] != (3, 3):
        return False
    if list(stride) != [1, 1] or list(padding) != [1, 1] or list(dilation) != [1, 1] or groups > 1:
        return False
    n, _, height, width = x.shape
    return (
        height % 2 == width % 2 == 0
        and max(height, width) <= _LARGEST_SIDE
        and min(weight.shape[:2]) >= _CHANNELS
        and n * (height // 2) * (width // 2) >= _TILES
    )


def convolution_pair(alpha: float, x: Pair, weight: Pair, bias: Pair | None) -> Pair:
    """Return the pair of a 3x3 convolution with stride 1 and padding 1, of even sides.

    Both ``x`` and ``weight`` have a difference.
    """
    biases = (None, None) if bias is None else (bias.base, bias.difference)
    z, v = _Convolution.apply(
        x.base, weight.base, biases[0], x.difference, weight.difference, biases[1], alpha
    )
    return Pair(z, v)


class _Convolution(torch.autograd.Function):
    """W0 x + b0, and W' u + dW x + db with its gradients in u, dW and db.

    Transforms of weights are made anew for the backward pass: kept, they would be twice as large
    as the weights. The batch goes through in parts that a cache holds.
    """

    @staticmethod
    def forward(ctx, x, w, b, u, dw, db, alpha):
        ctx.save_for_backward(x, w, u, dw)
        ctx.alpha = alpha
        kernel, moving = kernel_of(w), kernel_of(dw)
        moved = kernel if math.isinf(alpha) else torch.add(kernel, moving, alpha=1 / alpha)
        kernel, moving, moved = (k.transpose(1, 2) for k in (kernel, moving, moved))
        z, v = _empty_outputs(x, w), _empty_outputs(x, w)
        for x_part, u_part, z_part, v_part in _parts(x, u, z, v):
            tiles = tiles_of(x_part)
            outputs_of(_plus(torch.bmm(tiles, kernel), b), z_part)
            products = torch.bmm(tiles, moving).baddbmm_(tiles_of(u_part), moved)
            outputs_of(_plus(products, db), v_part)
        ctx.mark_non_differentiable(z)
        return z, v

    @staticmethod
    def backward(ctx, *grads):
        grad = grads[1]
        x, w, u, dw = ctx.saved_tensors
        if not math.isinf(ctx.alpha):
            x = torch.add(x, u, alpha=1 / ctx.alpha)
            w = torch.add(w, dw, alpha=1 / ctx.alpha)
        kernel = kernel_of(w)
        gu, total, gdb = torch.empty_like(x), torch.zeros_like(kernel), w.new_zeros(len(w))
        for grad_part, x_part, gu_part in _parts(grad, x, gu):
            rows = outputs_adjoint(grad_part)
            gu_part.copy_(tiles_adjoint(torch.bmm(rows, kernel), x_part.shape))
            total.baddbmm_(rows.transpose(1, 2), tiles_of(x_part))
            gdb += rows[_CONSTANT].sum(dim=0)  # what the bias was added to
        needs = ctx.needs_input_grad
        gdw = kernel_adjoint(total) if needs[4] else None
        return None, None, None, gu if needs[3] else None, gdw, gdb if needs[5] else None, None


def _empty_outputs(x: Tensor, w: Tensor) -> Tensor:
    n, _, height, width = x.shape
    return x.new_empty(n, height, width, len(w)).permute(0, 3, 1, 2)


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of the batch with about a million numbers in tiles, and 256 tiles at least."""
    _, c, height, width = tensors[0].shape
    tiles = height * width // 4
    n = max(256 // tiles, 2**20 // (16 * tiles * c), 1)
    return zip(*(t.split(n) for t in tensors), strict=True)


def _plus(products: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        products[_CONSTANT] += bias
    return products


# A constant at this place of the 16 is the same constant at all four outputs.
_CONSTANT = 5


def _channels_inside(x: Tensor) -> Tensor:
    """(n, c, h, w) as (n, h, w, c), without a copy where the channels are last in memory."""
    return x.permute(0, 2, 3, 1)


def tiles_of(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "16 t c"]:
    """B^T d B for every 4x4 tile d of ``x`` with a border of zeros, tiles two apart."""
    n, c, h, w = x.shape
    th, tw = h // 2, w // 2
    padded = x.new_zeros(n, h + 2, w + 2, c)
    padded[:, 1:-1, 1:-1] = _channels_inside(x)
    rows = x.new_empty(4, n, th, w + 2, c)
    _input_transform([padded[:, i : i + h : 2] for i in range(3)] + [padded[:, 3::2]], list(rows))
    tiles = x.new_empty(4, 4, n, th, tw, c)
    columns = [rows[:, :, :, i : i + w : 2] for i in range(3)] + [rows[:, :, :, 3::2]]
    _input_transform(columns, list(tiles.unbind(1)))
    return tiles.view(16, n * th * tw, c)


def _input_transform(d: list[Tensor], out: list[Tensor]) -> None:
    torch.sub(d[0], d[2], out=out[0])
    torch.add(d[1], d[2], out=out[1])
    torch.sub(d[2], d[1], out=out[2])
    torch.sub(d[1], d[3], out=out[3])


def tiles_adjoint(tiles: Float[Tensor, "16 t c"], shape: torch.Size) -> Float[Tensor, "n c h w"]:
    """Return the adjoint of `tiles_of`: tiles transformed back and added where they overlap."""
    n, c, h, w = shape
    th, tw = h // 2, w // 2
    parts = tiles.view(4, 4, n, th, tw, c)
    rows = tiles.new_zeros(4, n, th, w + 2, c)
    columns = [rows[:, :, :, i : i + w : 2] for i in range(3)] + [rows[:, :, :, 3::2]]
    _input_adjoint(list(parts.unbind(1)), columns)
    padded = tiles.new_zeros(n, h + 2, w + 2, c)
    _input_adjoint(list(rows), [padded[:, i : i + h : 2] for i in range(3)] + [padded[:, 3::2]])
    return padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


def _input_adjoint(tiles: list[Tensor], out: list[Tensor]) -> None:
    """Add B times the four rows of ``tiles`` to the places they came from."""
    out[0].add_(tiles[0])
    out[1].add_(tiles[1]).sub_(tiles[2]).add_(tiles[3])
    out[2].sub_(tiles[0]).add_(tiles[1]).add_(tiles[2])
    out[3].sub_(tiles[3])


def outputs_of(products: Float[Tensor, "16 t k"], out: Float[Tensor, "n k h w"]) -> None:
    """Write A^T m A for every tile of products m, 2x2 outputs each, into ``out``."""
    n, k, h, w = out.shape
    th, tw = h // 2, w // 2
    m = products.view(4, 4, n, th, tw, k)
    half = products.new_empty(4, 2, n, th, tw, k)
    _output_transform(list(m.unbind(1)), list(half.unbind(1)))
    places = _channels_inside(out).view(n, th, 2, tw, 2, k).permute(2, 4, 0, 1, 3, 5)
    _output_transform(list(half), list(places))


def _output_transform(m: list[Tensor], out: list[Tensor]) -> None:
    torch.add(m[0], m[1], out=out[0]).add_(m[2])
    torch.sub(m[1], m[2], out=out[1]).sub_(m[3])


def outputs_adjoint(grad: Float[Tensor, "n k h w"]) -> Float[Tensor, "16 t k"]:
    """Return the adjoint of `outputs_of`."""
    n, k, h, w = grad.shape
    th, tw = h // 2, w // 2
    inside = _channels_inside(grad).reshape(n, th, 2, tw, 2, k).permute(2, 4, 0, 1, 3, 5)
    half = grad.new_empty(4, 2, n, th, tw, k)
    _output_adjoint(list(inside), list(half))
    rows = grad.new_empty(4, 4, n, th, tw, k)
    _output_adjoint(list(half.unbind(1)), list(rows.unbind(1)))
    return rows.view(16, n * th * tw, k)


def _output_adjoint(y: list[Tensor], out: list[Tensor]) -> None:
    out[0].copy_(y[0])
    torch.add(y[0], y[1], out=out[1])
    torch.sub(y[0], y[1], out=out[2])
    torch.neg(y[1], out=out[3])


def _kernel_matrix(like: Tensor) -> Float[Tensor, "16 9"]:
    g = like.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.kron(g, g)


def kernel_of(weight: Float[Tensor, "k c 3 3"]) -> Float[Tensor, "16 k c"]:
    """G g G^T for every 3x3 kernel g."""
    k, c = weight.shape[:2]
    flat = weight.permute(2, 3, 0, 1).reshape(9, k * c)
    return (_kernel_matrix(weight) @ flat).view(16, k, c)


def kernel_adjoint(grad: Float[Tensor, "16 k c"]) -> Float[Tensor, "k c 3 3"]:
    """Return the adjoint of `kernel_of`."""
    _, k, c = grad.shape
    return (_kernel_matrix(grad).T @ grad.view(16, -1)).view(3, 3, k, c).permute(2, 3, 0, 1)
