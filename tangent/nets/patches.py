"""Responses of images to whitened patches: the frozen first layer of `tangent.nets.designed_cnn`.

The filters are those of `tangent.machine.patches`, made without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import wrap_torch_function

from tangent.machine.patches import inverse_contrast, patch_windows
from tangent.operations import Pair, register_rule

_IMAGES = 4  # at once: their responses to a block of filters stay in a core's cache
_FILTERS = 256


def pooled_responses(
    images: Float[Tensor, "n channels height width"],
    weight: Float[Tensor, "values_and_one filters"],
    size: tuple[int, int],
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
    images: Float[Tensor, "n channels height width"], size: tuple[int, int], offset: float
) -> tuple[Tensor, tuple[int, int, int]]:
    """Every patch over its contrast with a one behind it, and (n, rows, columns)."""
    windows = patch_windows(images, size)
    shape = (windows.shape[0], windows.shape[1], windows.shape[2])
    patches = windows.reshape(shape[0] * shape[1] * shape[2], -1)
    rows = patches * inverse_contrast(images, size, offset)
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
    size: tuple[int, int],
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
