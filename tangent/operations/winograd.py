"""3x3 convolutions of pairs with fewer multiplications: Winograd's F(4x4, 3x3).

Tiles of 6x6 inputs and the kernel are transformed, multiplied at 36 places (matrix products over
the channels), and transformed to 4x4 outputs: 36 multiplications where the convolution takes 144.
Zeros at the border of the image are left out of its tiles; an image of 2x2 is a tile of its own,
with 9 multiplications. A pair needs five passes of products on the same tensors, so that the
transforms are shared: that of the input serves base and difference, and those of W0 and dW add up
to that of W0 + dW/alpha. All steps are linear; their adjoints make the backward pass.

Source: Winograd 1980; Lavin and Gray 2016, "Fast algorithms for convolutional neural networks".
The error in float32 is about twice that of the direct convolution (measured with 256 channels).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tangent.operations.registry import Pair
from tangent.operations.toom_cook import POINTS, transforms

__all__ = ["convolution_pair", "suits"]

# Outside, the transforms cost more than the products save (VGG-11 on one core of an AMD EPYC).
_CHANNELS = 64
_ROWS = 64
_ROWS_OF_ONE_TILE = 16
_LARGEST_SIDE = 16
# Transformed, a weight is four times as large: of larger ones the memory counts more.
_LARGEST_WEIGHT = 2**24

# Rows of one matrix product: enough for its speed, few enough for the cache.
_PART = 256


def suits(x: Tensor, weight: Tensor, options: Any) -> bool:
    """Whether a convolution is of the kind, and of a size, that gains from it on this device."""
    stride, padding, dilation, groups = options
    # On meta devices memory is counted.
    if (
        x.device.type not in ("cpu", "meta")
        or x.dtype != torch.float32
        or weight.shape[2:] != (3, 3)
    ):
        return False
    if list(stride) != [1, 1] or list(padding) != [1, 1] or list(dilation) != [1, 1] or groups > 1:
        return False
    n, _, height, width = x.shape
    return (
        height == width <= _LARGEST_SIDE
        and (height == 2 or height % 4 == 0)
        and min(weight.shape[:2]) >= _CHANNELS
        and weight.numel() <= _LARGEST_WEIGHT
        and n * max(height // 4, 1) ** 2 >= (_ROWS_OF_ONE_TILE if height == 2 else _ROWS)
    )


def convolution_pair(alpha: float, x: Pair, weight: Pair, bias: Pair | None) -> Pair:
    """Return the pair of a 3x3 convolution with stride 1 and padding 1, of sides 2 or 4, 8, ....

    Both ``x`` and ``weight`` have a difference.
    """
    biases = (None, None) if bias is None else (bias.base, bias.difference)
    z, v = _Convolution.apply(
        x.base, weight.base, biases[0], x.difference, weight.difference, biases[1], alpha
    )
    return Pair(z, v)


class _Convolution(torch.autograd.Function):
    """W0 x + b0, and W' u + dW x + db with its gradients in u, dW and db.

    Transforms of weights are made anew for the backward pass: kept, they would be four times as
    large as the weights. The batch goes through in parts that a cache holds.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any, b: Any, u: Any, dw: Any, db: Any, alpha: float) -> Any:
        ctx.save_for_backward(x, w, u, dw)
        ctx.alpha = alpha
        scheme = scheme_of(x.shape[2])
        kernel, moving = kernel_of(w, scheme), kernel_of(dw, scheme)
        moved = kernel if math.isinf(alpha) else torch.add(kernel, moving, alpha=1 / alpha)
        kernel, moving, moved = (k.transpose(1, 2) for k in (kernel, moving, moved))
        z, v = _empty_outputs(x, w), _empty_outputs(x, w)
        for x_part, u_part, z_part, v_part in _parts(scheme, x, u, z, v):
            tiles = tiles_of(x_part, scheme)
            outputs_of(_plus(torch.bmm(tiles, kernel), b, scheme), z_part, scheme)
            products = torch.bmm(tiles, moving).baddbmm_(tiles_of(u_part, scheme), moved)
            outputs_of(_plus(products, db, scheme), v_part, scheme)
        ctx.mark_non_differentiable(z)
        return z, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad = grads[1]
        x, w, u, dw = ctx.saved_tensors
        if not math.isinf(ctx.alpha):
            x = torch.add(x, u, alpha=1 / ctx.alpha)
            w = torch.add(w, dw, alpha=1 / ctx.alpha)
        scheme = scheme_of(x.shape[2])
        kernel = kernel_of(w, scheme)
        gu = torch.zeros_like(x, memory_format=torch.channels_last)
        total, gdb = torch.zeros_like(kernel), w.new_zeros(len(w))
        for grad_part, x_part, gu_part in _parts(scheme, grad, x, gu):
            rows = outputs_adjoint(grad_part, scheme)
            tiles_adjoint(torch.bmm(rows, kernel), gu_part, scheme)
            total.baddbmm_(rows.transpose(1, 2), tiles_of(x_part, scheme))
            gdb += rows[scheme.constant].sum(dim=0)  # what the bias was added to
        needs = ctx.needs_input_grad
        gdw = kernel_adjoint(total, scheme) if needs[4] else None
        return None, None, None, gu if needs[3] else None, gdw, gdb if needs[5] else None, None


class Tile(NamedTuple):
    """Where a tile's inputs and outputs lie in the image, and their transforms."""

    inputs: tuple[slice, slice]
    outputs: tuple[slice, slice]
    forth: Float[Tensor, "places inputs"]
    back: Float[Tensor, "outputs places"]


class Scheme(NamedTuple):
    """The tiles of an image and the transform of the kernel."""

    tiles: tuple[Tile, ...]
    kernel: Float[Tensor, "places 9"]
    constant: int
    """A number at this place is the same number at all outputs."""


@functools.cache
def scheme_of(side: int) -> Scheme:
    """Return the tiles of a square image: one of 2x2, or (side / 4)^2 with 4x4 outputs each.

    Matrices are in float64 on the CPU and converted where they are used: a few hundred numbers.
    """
    if side == 2:
        # y0 = w1 (x0 + x1) + (w2 - w1) x1, y1 = w1 (x0 + x1) + (w0 - w1) x0.
        inputs = [(slice(0, 2), np.array([[1, 1], [0, 1], [1, 0]]))]
        kernel = np.array([[0, 1, 0], [0, -1, 1], [1, -1, 0]])
        back = np.array([[1, 1, 0], [1, 0, 1]])
        constant = 0
    else:
        kernel, forth, back = transforms(4)
        starts = range(-1, side - 1, 4)
        inside = [slice(max(s, 0), min(s + 6, side)) for s in starts]
        inputs = [
            (i, forth[:, i.start - s : i.stop - s]) for s, i in zip(starts, inside, strict=True)
        ]
        constant = POINTS.index(1.0)
    m, places = back.shape
    tiles = tuple(
        Tile(
            (rows, columns),
            (slice(i * m, i * m + m), slice(j * m, j * m + m)),
            _square(over_rows, over_columns),
            _square(back, back),
        )
        for i, (rows, over_rows) in enumerate(inputs)
        for j, (columns, over_columns) in enumerate(inputs)
    )
    return Scheme(tiles, _square(kernel, kernel), constant * places + constant)


def _square(rows: np.ndarray, columns: np.ndarray) -> Tensor:
    return torch.from_numpy(np.kron(rows, columns).astype(np.float64))


def _empty_outputs(x: Tensor, w: Tensor) -> Tensor:
    n, _, height, width = x.shape
    return x.new_empty(n, height, width, len(w)).permute(0, 3, 1, 2)


def _parts(scheme: Scheme, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    n = max(_PART // len(scheme.tiles), 1)
    return zip(*(t.split(n) for t in tensors), strict=True)


def _plus(products: Tensor, bias: Tensor | None, scheme: Scheme) -> Tensor:
    if bias is not None:
        products[scheme.constant] += bias
    return products


def _pixels(x: Float[Tensor, "n c h w"], where: tuple[slice, slice]) -> Float[Tensor, "n p c"]:
    """A window as rows of channels, without a copy where it is all of an image, channels last."""
    return x[:, :, where[0], where[1]].permute(0, 2, 3, 1).flatten(1, 2)


def _mixed(matrix: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    """``matrix`` times every (p, c) of ``rows``."""
    batch = matrix.to(rows).expand(len(rows), *matrix.shape)
    return torch.bmm(batch, rows) if out is None else torch.bmm(batch, rows, out=out)


def tiles_of(x: Float[Tensor, "n c h w"], scheme: Scheme) -> Float[Tensor, "places t c"]:
    """B^T d B for every tile d of ``x``; t counts tiles, then images."""
    n, c = x.shape[:2]
    tiles = x.new_empty(len(scheme.tiles), n, len(scheme.kernel), c)
    for tile, out in zip(scheme.tiles, tiles, strict=True):
        _mixed(tile.forth, _pixels(x, tile.inputs), out)
    return tiles.flatten(0, 1).transpose(0, 1)


def tiles_adjoint(
    tiles: Float[Tensor, "places t c"], out: Float[Tensor, "n c h w"], scheme: Scheme
) -> None:
    """Add the adjoint of `tiles_of` to ``out``, which is zero at first."""
    for tile, part in zip(scheme.tiles, tiles.chunk(len(scheme.tiles), dim=1), strict=True):
        window = out[:, :, tile.inputs[0], tile.inputs[1]].permute(0, 2, 3, 1)
        window += _mixed(tile.forth.T, part.transpose(0, 1)).view(window.shape)


def outputs_of(
    products: Float[Tensor, "places t k"], out: Float[Tensor, "n k h w"], scheme: Scheme
) -> None:
    """Write A^T m A for the products m of every tile into ``out``."""
    for tile, part in zip(scheme.tiles, products.chunk(len(scheme.tiles), dim=1), strict=True):
        window = out[:, :, tile.outputs[0], tile.outputs[1]].permute(0, 2, 3, 1)
        window.copy_(_mixed(tile.back, part.transpose(0, 1)).view(window.shape))


def outputs_adjoint(grad: Float[Tensor, "n k h w"], scheme: Scheme) -> Float[Tensor, "places t k"]:
    """Return the adjoint of `outputs_of`."""
    n, k = grad.shape[:2]
    rows = grad.new_empty(len(scheme.tiles), n, len(scheme.kernel), k)
    for tile, out in zip(scheme.tiles, rows, strict=True):
        _mixed(tile.back.T, _pixels(grad, tile.outputs), out)
    return rows.flatten(0, 1).transpose(0, 1)


def kernel_of(weight: Float[Tensor, "k c 3 3"], scheme: Scheme) -> Float[Tensor, "places k c"]:
    """G g G^T for every 3x3 kernel g."""
    k, c = weight.shape[:2]
    flat = weight.permute(2, 3, 0, 1).reshape(9, k * c)
    return (scheme.kernel.to(flat) @ flat).view(-1, k, c)


def kernel_adjoint(grad: Float[Tensor, "places k c"], scheme: Scheme) -> Float[Tensor, "k c 3 3"]:
    """Return the adjoint of `kernel_of`."""
    places, k, c = grad.shape
    return (scheme.kernel.T.to(grad) @ grad.view(places, -1)).view(3, 3, k, c).permute(2, 3, 0, 1)
