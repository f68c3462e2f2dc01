"""Responses of images to whitened patches: the frozen first layer of `tangent.nets.designed_cnn`.

A patch is normalized in contrast and ZCA-whitened; filters are random patches of the images,
whitened as well (Coates and Ng 2012). Nothing here looks at a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.overrides import wrap_torch_function

from tangent.operations import Pair, register_rule

__all__ = ["PatchFilters", "patch_filters", "patch_maps", "pooled_responses"]

_TINY = 1e-12
_IMAGES = 4  # at once: their responses to a block of filters stay in a core's cache
_FILTERS = 256


@dataclass(frozen=True)
class PatchFilters:
    """What the responses are computed with.

    Attributes
    ----------
    weight : Tensor of shape (patch values + 1, filters)
        Whitening and the removal of means folded in; the last row meets a column of ones.
    size : int
        Side of a patch.
    offset : float
        Added to a patch's squared norm before its root divides the patch.
    """

    weight: Tensor
    size: int
    offset: float


def _windows(
    images: Float[Tensor, "n channels height width"], size: int
) -> Float[Tensor, "n rows columns size size channels"]:
    """Every patch of every image, as a view."""
    windows = images.permute(0, 2, 3, 1).unfold(1, size, 1).unfold(2, size, 1)
    return windows.permute(0, 1, 2, 4, 5, 3)


def _sampled(
    images: Float[Tensor, "n channels height width"],
    size: int,
    count: int,
    generator: torch.Generator | None,
) -> Float[Tensor, "count values"]:
    """Patches of uniformly drawn images and positions, with replacement."""
    n, _, height, width = images.shape
    image = torch.randint(n, (count,), generator=generator)
    top = torch.randint(height - size + 1, (count,), generator=generator)
    left = torch.randint(width - size + 1, (count,), generator=generator)
    return _windows(images, size)[image, top, left].reshape(count, -1)


def _contrast_normalized(
    patches: Float[Tensor, "rows values"], offset: float
) -> Float[Tensor, "rows values"]:
    centred = patches - patches.mean(-1, keepdim=True)
    return centred / (centred.square().sum(-1, keepdim=True) + offset).sqrt()


def patch_filters(
    images: Float[Tensor, "n channels height width"],
    count: int,
    *,
    size: int = 6,
    contrast: float,
    eps: float = 1e-3,
    sample: int = 100_000,
    generator: torch.Generator | None = None,
) -> PatchFilters:
    """Filters drawn from the patches of images, whitened and of norm one.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)
    count : int
        Filters.
    size : int
        Side of a patch.
    contrast : float
        Standard deviation of a patch's values below which contrast counts as noise.
    eps : float
        Added to the variances of normalized patches before whitening divides by their roots.
    sample : int
        Patches that whitening is measured on.
    generator : torch.Generator, optional
        A CPU generator.

    Returns
    -------
    PatchFilters
        For a normalized patch q and a filter f the response is <f, zca (q - mean)>.
    """
    values = images.shape[1] * size**2
    offset = contrast**2 * values
    images = images.cpu()
    rows = _contrast_normalized(_sampled(images, size, sample, generator), offset).double()
    mean = rows.mean(0)
    centred = rows - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    zca = (vectors / (variances.clamp_min(0) + eps).sqrt()) @ vectors.T
    chosen = _contrast_normalized(_sampled(images, size, count, generator), offset).double()
    filters = (chosen - mean) @ zca
    folded = filters / filters.norm(dim=1, keepdim=True).clamp_min(_TINY) @ zca
    constant = -folded @ mean
    # The filter meets raw patches over their contrast, so it loses its own mean here.
    folded = folded - folded.mean(1, keepdim=True)
    weight = torch.cat([folded, constant[:, None]], dim=1).T
    return PatchFilters(weight.to(images.dtype).contiguous(), size, offset)


def pooled_responses(
    images: Float[Tensor, "n channels height width"],
    weight: Float[Tensor, "values_and_one filters"],
    size: int,
    offset: float,
    bias: float,
    poolings: Sequence[tuple[int, int]],
) -> list[Float[Tensor, "n twice_filters rows columns"]]:
    """Two-sided rectified responses of every patch, averaged over windows.

    Parameters
    ----------
    images, weight, size, offset
        As in `PatchFilters`.
    bias : float
        max(z - bias, 0) for all filters comes first, max(-z - bias, 0) second.
    poolings : sequence of (int, int)
        Side of the windows and stride; a result each.

    Notes
    -----
    ``2 * positions * values * filters`` operations an image; a few images and 256 filters at a
    time stay in the cache, where rectifying and pooling cost less than the products.
    """
    parts = []
    for some in images.split(_IMAGES):
        rows, shape = _normalized_rows(some, size, offset)
        blocks = [
            _rectified_and_pooled((rows @ block).view(*shape, -1), bias, poolings)
            for block in weight.split(_FILTERS, dim=1)
        ]
        parts.append([torch.cat([b[k] for b in blocks], dim=4) for k in range(len(poolings))])
    wholes = [torch.cat(each).flatten(3) for each in zip(*parts, strict=True)]
    return [whole.permute(0, 3, 1, 2) for whole in wholes]


def _normalized_rows(
    images: Float[Tensor, "n channels height width"], size: int, offset: float
) -> tuple[Tensor, tuple[int, int, int]]:
    """Every patch over its contrast with a one behind it, and (n, rows, columns).

    The squared norm of a patch less its mean comes from averages over windows of the image, a
    hundredth of the work of summing each patch; rounding is far below ``offset``.
    """
    windows = _windows(images, size)
    shape = (windows.shape[0], windows.shape[1], windows.shape[2])
    patches = windows.reshape(shape[0] * shape[1] * shape[2], -1)
    moments = torch.stack([images.mean(1), images.square().mean(1)], dim=1)
    mean, square = F.avg_pool2d(moments, size, stride=1).unbind(1)
    contrast = (square - mean.square()).clamp_min(0) * patches.shape[1] + offset
    rows = patches * contrast.rsqrt().reshape(-1, 1)
    return torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1), shape


def _rectified_and_pooled(
    z: Float[Tensor, "n rows columns filters"], bias: float, poolings: Sequence[tuple[int, int]]
) -> list[Float[Tensor, "n cells_down cells_across two filters"]]:
    # max(z - bias, 0) is max(z, bias) - bias: the constant is taken off the averages.
    above, below = z.clamp_min(bias), z.clamp_max(-bias)
    return [
        torch.stack([_averaged(above, *p) - bias, -_averaged(below, *p) - bias], dim=3)
        for p in poolings
    ]


def _averaged(
    x: Float[Tensor, "n rows columns filters"], side: int, stride: int
) -> Float[Tensor, "n cells_down cells_across filters"]:
    """Averages over windows of a map with its channels last, one axis after the other."""
    if side == stride and x.shape[1] % side == x.shape[2] % side == 0:
        n, rows, columns, _ = x.shape
        return x.reshape(n, rows // side, side, columns // side, side, -1).mean((2, 4))
    for axis in (1, 2):
        reach = stride * ((x.shape[axis] - side) // stride) + 1

        def shifted(x: Tensor, start: int, axis: int = axis, reach: int = reach) -> Tensor:
            part = x.narrow(axis, start, reach)
            return part[:, ::stride] if axis == 1 else part[:, :, ::stride]

        total = shifted(x, 0)
        for start in range(1, side):
            total = total + shifted(x, start)
        x = total
    return x / side**2


@wrap_torch_function(lambda images, *_: (images,))
def patch_maps(
    images: Float[Tensor, "n channels height width"],
    weight: Float[Tensor, "values_and_one filters"],
    size: int,
    offset: float,
    bias: float,
    pooling: tuple[int, int],
) -> Float[Tensor, "n twice_filters rows columns"]:
    """As `pooled_responses` with one pooling; one operation for whoever looks into a network."""
    return pooled_responses(images, weight, size, offset, bias, (pooling,))[0]


@register_rule(patch_maps)
def _patch_maps_rule(alpha: float, images: Pair, weight: Pair | Tensor, *options: Any) -> Pair:
    if images.difference is not None:
        raise ValueError("patch maps are frozen: nothing that moves may come before them")
    return Pair(patch_maps(images.base, getattr(weight, "base", weight), *options))
