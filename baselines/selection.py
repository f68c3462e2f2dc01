"""Supervised selection of features by orthogonal least squares (Chen, Cowan and Grant 1991)."""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from baselines.arguments import check_positive
from baselines.linear import checked_classes, indicators
from tangent.machine.bars import counted
from tangent.machine.modes import ordinary_mode
from tangent.machine.statistics import column_statistics

MIN_NORM = 1e-4  # of a feature's own: less of it left over is rounding


def orthogonal_least_squares(
    x: Float[Tensor, "n p"],
    targets: Float[Tensor, "n k"],
    count: int,
    allowed: Bool[Tensor, " p"] | None = None,
) -> tuple[Int[Tensor, "k count"], Float[Tensor, "n k"]]:
    """The features that greedily reduce each target's squared residual most, and the residuals.

    Each feature counts with what of it is orthogonal to those chosen before it, for the same
    target; all targets take a step together, in one product with ``x``.

    Parameters
    ----------
    x : Tensor of shape (n, p)
        Centred columns.
    targets : Tensor of shape (n, k)
        Centred, in the dtype of ``x``.
    count : int
        Features for each target, at most as many as are allowed.
    allowed : Tensor of shape (p,), optional
        Which columns may be chosen; all without it.

    Returns
    -------
    chosen : Tensor of shape (k, count)
        Columns of ``x``, in the order they were chosen.
    residuals : Tensor of shape (n, k)

    Notes
    -----
    ``count`` passes over ``x``, of 2 n p k operations each; holds three arrays of p x k and one of
    n x count x k beside it.
    """
    n, k = targets.shape
    squares = torch.linalg.vector_norm(x, dim=0).square()
    left = squares[:, None].repeat(1, k)  # squared norm of what is orthogonal to the chosen
    if allowed is not None:
        left[~allowed] = 0
    floor = MIN_NORM * squares[:, None]
    residuals = targets.clone()
    products = x.T @ residuals
    basis = x.new_zeros(k, n, count)
    chosen = torch.zeros(k, count, dtype=torch.long)
    for step in counted(range(count), "feature"):
        gain = torch.where(left > floor, products.square() / _positive(left), -1.0)
        best = gain.argmax(dim=0)
        chosen[:, step] = best
        new = x[:, best].T  # (k, n)
        for _ in range(2):  # twice is enough to be orthogonal to rounding
            along = torch.bmm(basis[:, :, :step].transpose(1, 2), new[:, :, None])
            new = new - torch.bmm(basis[:, :, :step], along)[:, :, 0]
        new = new / _positive(torch.linalg.vector_norm(new, dim=1, keepdim=True))
        basis[:, :, step] = new
        size = (new * residuals.T).sum(1)
        residuals -= (size[:, None] * new).T
        correlation = x.T @ new.T
        products -= correlation * size
        left -= correlation.square()
        left[best, torch.arange(k)] = 0
    return chosen, residuals


class OrthogonalLeastSquaresSelector(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Coordinates on the features that tell each class from the rest, orthonormalized.

    For each class in turn the features that greedily explain most of its indicator are selected,
    each orthogonalized against those before; a second round selects, among the features that are
    left, for what the first did not explain (Oyallon and Mallat 2015).

    Parameters
    ----------
    n_selected : int, default=200
        Features for each class and round; cut to a share of the features, and of the rows.
    rounds : int, default=2
    copy : bool, default=True
        ``False`` standardizes the rows given to ``fit`` in place, which saves as much memory as
        they take.

    Attributes
    ----------
    selected_ : list of ndarray
        Features of each class and round.
    mean_, scale_ : ndarray
        Of every feature.
    n_features_in_ : int

    Notes
    -----
    Gives ``rounds * n_classes * n_selected`` coordinates of variance one over the training rows,
    uncorrelated within a class and round. While fitting, holds a standardized copy of X.
    """

    def __init__(self, n_selected: int = 200, *, rounds: int = 2, copy: bool = True) -> None:
        self.n_selected = n_selected
        self.rounds = rounds
        self.copy = copy

    @ordinary_mode
    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Select for the classes of ``y``."""
        self._fitted(X, y)
        return self

    @ordinary_mode
    def fit_transform(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        """As ``fit(X, y).transform(X)``; with ``copy=False`` the only way to the coordinates."""
        return self._projected(self._fitted(X, y))

    def _fitted(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The standardized rows."""
        check_positive(self, "n_selected", "rounds")
        X, y = validate_data(self, X, y, dtype=[np.float32, np.float64], ensure_min_samples=2)
        self.classes_ = checked_classes(y)
        mean, scale = column_statistics(X, np.ones(len(X)))
        self.mean_, self.scale_ = mean.astype(X.dtype), scale.astype(X.dtype)
        rows = np.subtract(X, self.mean_, out=None if self.copy else X)
        rows /= self.scale_
        x = torch.from_numpy(rows)
        residuals = indicators(y, self.classes_)
        residuals = (residuals - residuals.mean(0)).to(x.dtype)
        allowed = torch.linalg.vector_norm(x, dim=0) > (len(x) / 2) ** 0.5  # else a constant
        x[:, ~allowed] = 0
        if not allowed.any():
            allowed[:] = True
        self.selected_, self._coordinates = [], []
        for _ in range(self.rounds):
            count = min(self.n_selected, int(allowed.sum()), len(x) - 1)
            if count == 0:
                break
            chosen, residuals = orthogonal_least_squares(x, residuals, count, allowed)
            for features in chosen:
                self.selected_.append(features.numpy())
                self._coordinates.append(_orthonormalizing(x[:, features]))
            allowed[chosen.flatten()] = False
        self._n_features_out = sum(len(s) for s in self.selected_)
        return rows

    @ordinary_mode
    def transform(self, X: np.ndarray) -> np.ndarray:
        """The coordinates of the rows of ``X``."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float32, np.float64])
        parts = [
            ((X[:, s] - self.mean_[s]) / self.scale_[s]) @ t.astype(X.dtype)
            for s, t in zip(self.selected_, self._coordinates, strict=True)
        ]
        return np.concatenate(parts, axis=1)

    def _projected(self, rows: np.ndarray) -> np.ndarray:
        """The coordinates of rows that are standardized already."""
        return np.concatenate(
            [
                rows[:, s] @ t.astype(rows.dtype)
                for s, t in zip(self.selected_, self._coordinates, strict=True)
            ],
            axis=1,
        )

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float32", "float64"]
        return tags


def _positive(size: Tensor) -> Tensor:
    """What may be divided by: one where there is nothing."""
    return torch.where(size > 0, size, 1.0)


def _orthonormalizing(x: Float[Tensor, "n d"]) -> np.ndarray:
    """The triangular matrix that makes the columns uncorrelated and of variance one, in float64."""
    rows = x.double()
    covariance = rows.T @ rows / len(rows)
    size = float(covariance.diagonal().mean()) or 1.0
    covariance.diagonal().add_(1e-8 * size)  # a column that repeats others is left finite
    factor = torch.linalg.cholesky(covariance)
    eye = torch.eye(len(factor), dtype=torch.float64)
    return torch.linalg.solve_triangular(factor, eye, upper=False).T.contiguous().numpy()
