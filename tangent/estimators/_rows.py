"""Rows, weights and normalization before a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tangent.machine.statistics import checked_weights, column_statistics


def float_of(X: Any) -> type:
    """The dtype of what is returned for rows ``X``: float32 for float32, else float64."""
    return np.float32 if getattr(X, "dtype", None) == np.float32 else np.float64


def sample_weights(sample_weight: ArrayLike | None, n: int) -> np.ndarray:
    """Return the weights as float64 of shape (n,), checked; ones for None."""
    if sample_weight is None:
        return np.ones(n)
    return checked_weights(sample_weight, n)


def merged_rows(
    X: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge equal rows of ``X``: their weights add up, their targets (n, k) are averaged.

    The fit is the same, the kernel is no longer singular, and leaving one out leaves out every
    copy of a row, which would otherwise give its answer away. Rows of weight 0 are dropped.
    """
    kept = weights > 0
    X, y, weights = X[kept], y[kept], weights[kept]
    _, first, group = np.unique(_keys(X), return_index=True, return_inverse=True)
    if len(first) == len(X):
        return X, y, weights
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    group = place[group]
    total = np.bincount(group, weights)
    sums = np.zeros((len(first), y.shape[1]))
    np.add.at(sums, group, weights[:, None] * y)
    return X[first[order]], sums / total[:, None], total


def first_rows(X: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Where the rows of `merged_rows` first stand in ``X``."""
    kept = np.flatnonzero(weights > 0)
    _, first = np.unique(_keys(X[kept]), return_index=True)
    return kept[np.sort(first)]


def _keys(X: np.ndarray) -> np.ndarray:
    """Rows as opaque bytes: adding 0 turns -0.0 into 0.0, which compares equal."""
    rows = np.ascontiguousarray(X + 0)
    return rows.view(np.dtype((np.void, X.dtype.itemsize * X.shape[1]))).ravel()


def weighted_normalization(
    X: np.ndarray, weights: np.ndarray, shape: tuple[int, ...], normalize: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale by feature, or by channel of images, repeated for every feature.

    Of tokens (int64), and where they are not asked for, there are none: zeros and ones.
    """
    if not normalize or X.dtype == np.int64:
        return np.zeros(X.shape[1]), np.ones(X.shape[1])
    channels = shape[0] if len(shape) == 3 else None
    mean, scale = column_statistics(X, weights, channels)
    pixels = X.shape[1] // len(mean)
    return np.repeat(mean, pixels), np.repeat(scale, pixels)


def row_tensor(
    X: np.ndarray, mean: np.ndarray, scale: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Return normalized rows as inputs of ``shape``; tokens (int64) as they are."""
    if X.dtype == np.int64:
        return torch.from_numpy(X).reshape(len(X), *shape)
    return torch.from_numpy((X - mean) / scale).to(dtype).reshape(len(X), *shape)
