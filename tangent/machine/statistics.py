"""Mean and scale of every feature or channel: one rule for all estimators, in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike

_BLOCK = 2**23  # numbers in float64 at once


def checked_weights(sample_weight: ArrayLike, n: int) -> Float[np.ndarray, " n"]:
    """Weights of ``n`` rows in float64; one number is that of every row.

    Raises
    ------
    ValueError
        If there are others than ``n``, or one is negative, infinite or NaN, or all are zero.
    """
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.ndim == 0:
        weights = np.full(n, float(weights))
    if weights.shape != (n,):
        raise ValueError(f"sample_weight must have shape ({n},), as y; got {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            "sample_weight must be finite and at least 0; got values from "
            f"{weights.min():.3g} to {weights.max():.3g}"
        )
    if not weights.sum() > 0:
        raise ValueError("sample_weight must be positive somewhere; every weight is zero")
    return weights


def rounding(dtype: np.dtype | type) -> float:
    """Relative deviation up to which numbers of ``dtype`` are taken for one number.

    Sums that float64 features come from round by thousands of its spacings, and there is room for
    them; in float32 there is room for ten.
    """
    if dtype == np.float32:
        return 10 * float(np.finfo(np.float32).eps)
    return 1e4 * float(np.finfo(np.float64).eps)


def scale_or_one(
    deviation: Float[np.ndarray, " p"], size: Float[np.ndarray, " p"], dtype: np.dtype
) -> Float[np.ndarray, " p"]:
    """Deviations, with 1 for a constant, which has nothing to scale.

    Constant is what deviates by no more than the rounding, in ``dtype``, of numbers of ``size``:
    relative, so that features times any factor are the same features.
    """
    return np.where(deviation <= rounding(dtype) * np.abs(size), 1.0, deviation)


def column_statistics(
    X: Shaped[np.ndarray, "n p"], weights: Float[np.ndarray, " n"], channels: int | None = None
) -> tuple[Float[np.ndarray, " groups"], Float[np.ndarray, " groups"]]:
    """Weighted mean and scale (see `scale_or_one`) of every column, or of groups of columns.

    Columns are shifted by a row of their own and divided by their range before they are squared,
    so that neither a large mean nor large or tiny units cost digits.

    Parameters
    ----------
    X : ndarray of shape (n, p)
        Of any real dtype.
    weights : ndarray of shape (n,)
    channels : int, optional
        Statistics of so many groups of neighbouring columns instead.
    """
    share, first = weights / weights.sum(), X[0].astype(np.float64)
    reach = np.zeros(X.shape[1])
    for _, block in _shifted(X, first):
        np.maximum(reach, np.abs(block).max(axis=0), out=reach)
    unit = np.where(reach > 0, reach, 1.0)
    away, variance = np.zeros_like(reach), np.zeros_like(reach)
    for rows, block in _shifted(X, first):
        away += share[rows] @ (block / unit)
    for rows, block in _shifted(X, first):
        variance += share[rows] @ (block / unit - away) ** 2
    mean, deviation = first + away * unit, np.sqrt(variance) * unit
    if channels is not None:
        mean, deviation = _of_groups(mean, deviation, channels)
    return mean, scale_or_one(deviation, mean, X.dtype)


def _shifted(X: np.ndarray, first: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    size = max(1, _BLOCK // X.shape[1])
    for start in range(0, len(X), size):
        rows = slice(start, start + size)
        yield rows, X[rows] - first


def _of_groups(
    mean: np.ndarray, deviation: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    means, deviations = mean.reshape(groups, -1), deviation.reshape(groups, -1)
    centre = means.mean(axis=1)
    apart = means - centre[:, None]
    unit = np.maximum(np.abs(apart).max(axis=1), deviations.max(axis=1))
    unit = np.where(unit > 0, unit, 1.0)[:, None]
    squares = ((apart / unit) ** 2 + (deviations / unit) ** 2).mean(axis=1)
    return centre, np.sqrt(squares) * unit[:, 0]
