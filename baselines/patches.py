"""Convolutional random features on normalized, whitened patches, as matrix products.

The recipe of Coates and Ng (2011, 2012) with filters that are random training patches, the random
features of Recht et al. (2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tangent.machine.threads import over_ranges

TINY = 1e-12


@dataclass(frozen=True)
class PatchFilters:
    """What the features are computed with; CPU tensors."""

    weight: Tensor
    """(patch values + 1, filters): whitening and mean removal folded in; a last row for a one."""
    patch: tuple[int, int]
    """Height and width of a patch."""
    offset: float
    """Added to a patch's squared norm before its root divides the patch."""


def contrast_normalized(
    patches: Float[Tensor, "*rows values"], offset: float
) -> Float[Tensor, "*rows values"]:
    """Each patch less its mean, over the root of its squared norm plus ``offset``."""
    centred = patches - patches.mean(-1, keepdim=True)
    return centred / (centred.square().sum(-1, keepdim=True) + offset).sqrt()


def sampled_patches(
    images: Float[Tensor, "n channels height width"],
    patch: tuple[int, int],
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, "count values"]:
    """``count`` patches from uniformly drawn images and positions, with replacement."""
    n, _, height, width = images.shape
    image = torch.randint(n, (count,), generator=generator)
    top = torch.randint(height - patch[0] + 1, (count,), generator=generator)
    left = torch.randint(width - patch[1] + 1, (count,), generator=generator)
    windows = images.permute(0, 2, 3, 1).unfold(1, patch[0], 1).unfold(2, patch[1], 1)
    return windows[image, top, left].permute(0, 2, 3, 1).reshape(count, -1)


def whitening(
    patches: Float[Tensor, "n values"], eps: float
) -> tuple[Float[Tensor, "values values"], Float[Tensor, " values"]]:
    """The ZCA matrix W (Lambda + eps)^(-1/2) W^T of the patches, and their mean, in float64."""
    rows = patches.double()
    mean = rows.mean(0)
    centred = rows - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    return (vectors / (variances.clamp_min(0) + eps).sqrt()) @ vectors.T, mean


def patch_filters(
    images: Float[Tensor, "n channels height width"],
    *,
    n_filters: int,
    patch: tuple[int, int],
    contrast: float,
    eps: float,
    n_whitening: int,
    generator: torch.Generator,
) -> PatchFilters:
    """Filters drawn from the patches of ``images``, with normalization and whitening folded in.

    Whitening is fitted on ``n_whitening`` patches; each filter is a whitened patch of norm one.
    For a normalized patch q the response is <filter, zca (q - mean)>. The filter meets raw
    patches over their contrast, so it loses its own mean here (q has none), and the constant
    -<filter, zca mean> is a last row for a last column of ones.
    """
    values = images.shape[1] * patch[0] * patch[1]
    offset = contrast**2 * values
    normalized = contrast_normalized(sampled_patches(images, patch, n_whitening, generator), offset)
    zca, mean = whitening(normalized, eps)
    chosen = contrast_normalized(sampled_patches(images, patch, n_filters, generator), offset)
    filters = (chosen.double() - mean) @ zca
    filters = filters / filters.norm(dim=1, keepdim=True).clamp_min(TINY)
    folded = filters @ zca
    constant = -folded @ mean
    folded = folded - folded.mean(1, keepdim=True)
    weight = torch.cat([folded, constant[:, None]], dim=1).T
    return PatchFilters(weight.float().contiguous(), patch, offset)


def pooling_matrix(
    positions: tuple[int, int], grid: tuple[int, int]
) -> Float[Tensor, "cells positions"]:
    """Row c is one on the positions of grid cell c and zero elsewhere."""
    rows, columns = (
        torch.tensor(np.arange(count) * cells // count)
        for count, cells in zip(positions, grid, strict=True)
    )
    cell = (rows[:, None] * grid[1] + columns[None, :]).flatten()
    return F.one_hot(cell, grid[0] * grid[1]).T.float().contiguous()


def patch_features(
    images: Float[Tensor, "n channels height width"],
    filters: PatchFilters,
    *,
    bias: float,
    grid: tuple[int, int],
    out: Float[Tensor, "n 2 cells filters"],
    images_at_once: int = 2,
    filters_at_once: int = 128,
) -> None:
    """Write the two-sided rectified responses, summed over the cells of a grid, into ``out``.

    ``out[:, 0]`` sums max(z - bias, 0) and ``out[:, 1]`` sums max(-z - bias, 0). Two images by
    128 filters keep the responses in a core's cache; the result does not depend on either.
    max(z - b, 0) is max(z, b) - b, so one pass a side rectifies and the constant is taken off
    the pooled sums.
    """
    height, width = images.shape[2] - filters.patch[0] + 1, images.shape[3] - filters.patch[1] + 1
    pooling = pooling_matrix((height, width), grid)
    excess = (bias * pooling.sum(1))[:, None]
    n_filters = filters.weight.shape[1]
    values = filters.weight.shape[0] - 1
    blocks = [
        filters.weight[:, start : start + filters_at_once].contiguous()
        for start in range(0, n_filters, filters_at_once)
    ]

    def write(first: int, last: int) -> None:
        # One set of working arrays for all blocks: fresh memory would cost as much as the products.
        size = min(images_at_once, len(images)) * height * width
        store = images.new_empty(2, size * min(filters_at_once, n_filters))
        rows = images.new_ones(size, values + 1)
        for start in range(first, last, images_at_once):
            part = images[start : min(start + images_at_once, last)]
            used = len(part) * height * width
            _write_rows(rows[:used], part, filters)
            column = 0
            for weight in blocks:
                shape = (used, weight.shape[1])
                z, high = (array[: math.prod(shape)].view(shape) for array in store)
                torch.mm(rows[:used], weight, out=z)
                torch.clamp(z, min=bias, out=high)
                z.clamp_max_(-bias)
                columns = slice(column, column + weight.shape[1])
                for i, (above, below) in enumerate(
                    zip(high.split(height * width), z.split(height * width), strict=True)
                ):
                    cells = out[start + i, :, :, columns]
                    torch.sub(pooling @ above, excess, out=cells[0])
                    torch.neg(pooling @ below, out=cells[1]).sub_(excess)
                column += weight.shape[1]

    over_ranges(write, len(images), images_at_once)


def _write_rows(
    rows: Float[Tensor, "positions values_and_one"],
    images: Float[Tensor, "n channels height width"],
    filters: PatchFilters,
) -> None:
    """Every patch over its contrast; the last column stays as it is.

    The squared norm of a patch less its mean comes from sums over windows of the image, which are
    a hundredth of the work of summing each patch; rounding is far below ``offset``.
    """
    values = rows.shape[1] - 1
    channels_last = images.permute(0, 2, 3, 1).contiguous()  # a patch's row is then one stretch
    windows = channels_last.unfold(1, filters.patch[0], 1).unfold(2, filters.patch[1], 1)
    windows = windows.permute(0, 1, 2, 4, 5, 3)
    rows[:, :values].view(windows.shape).copy_(windows)
    moments = torch.stack([images.mean(1), images.square().mean(1)], dim=1)
    mean, square = F.avg_pool2d(moments, filters.patch, stride=1).unbind(1)
    contrast = (square - mean.square()).clamp_min_(0).mul_(values).add_(filters.offset)
    rows[:, :values].mul_(contrast.rsqrt_().view(-1, 1))
