"""Convolutional random features on normalized, whitened patches, as matrix products."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tangent.machine.patches import PatchFilters, inverse_contrast, patch_windows
from tangent.machine.threads import over_ranges


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
    height, width = images.shape[2] - filters.size[0] + 1, images.shape[3] - filters.size[1] + 1
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
    """Every patch over its contrast; the last column stays as it is."""
    values = rows.shape[1] - 1
    channels_last = images.permute(0, 2, 3, 1).contiguous()  # a patch's row is then one stretch
    windows = patch_windows(channels_last.permute(0, 3, 1, 2), filters.size)
    rows[:, :values].view(windows.shape).copy_(windows)
    rows[:, :values].mul_(inverse_contrast(images, filters.size, filters.offset))
