"""Normal equations of ridge regression, accumulated over blocks of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import cho_solve
from torch import Tensor

from tangent.machine.statistics import rounding
from tangent.solve.cholesky import factor_in_place, inverse_diagonal, squared_norms

N_PROBES = 30
N_EXACT = 1000


@dataclass
class Moments:
    """Weighted sums of products of features and targets.

    Features are shifted by the first block's mean before they are multiplied, so that float32
    products lose no digits to a large mean; the exact means are put right at the end.
    """

    shift: Tensor
    gram: Tensor
    """(p, p), upper triangle only; dtype of the features."""
    squares: Tensor
    """Its diagonal, in float64 like the other sums."""
    sum_x: Tensor
    cross: Tensor
    sum_y: Tensor
    sum_yy: Tensor
    weight: float = 0.0

    @classmethod
    def like(cls, x: Float[Tensor, "n p"], n_targets: int) -> Moments:
        """No rows yet; ``x`` is the first block, read for its mean and dtype."""
        p = x.shape[1]
        return cls(
            shift=x.mean(0),
            gram=x.new_zeros(p, p),
            squares=torch.zeros(p, dtype=torch.float64),
            sum_x=torch.zeros(p, dtype=torch.float64),
            cross=torch.zeros(p, n_targets, dtype=torch.float64),
            sum_y=torch.zeros(n_targets, dtype=torch.float64),
            sum_yy=torch.zeros(n_targets, dtype=torch.float64),
        )

    def add(
        self,
        x: Float[Tensor, "n p"],
        y: Float[Tensor, "n k"],
        weight: Float[Tensor, " n"] | None = None,
        *,
        columns: int = 1024,
    ) -> None:
        """Add the rows of one block; the work is (p^2 + p columns) multiply-adds a row."""
        x = (x - self.shift).to(self.gram.dtype)
        weighted = x if weight is None else x * weight[:, None].to(x.dtype)
        for start in range(0, x.shape[1], columns):
            rows = slice(start, start + columns)
            self.gram[rows, start:].addmm_(weighted[:, rows].T, x[:, start:])
            self.squares[rows] += (weighted[:, rows] * x[:, rows]).sum(0, dtype=torch.float64)
        wy = y.double() if weight is None else y.double() * weight[:, None].double()
        self.sum_x += weighted.sum(0, dtype=torch.float64)
        self.cross += (x.T @ wy.to(x.dtype)).double()
        self.sum_y += wy.sum(0)
        self.sum_yy += (wy * y.double()).sum(0)
        self.weight += len(x) if weight is None else float(weight.double().sum())


@dataclass(frozen=True)
class RidgeSolution:
    """Weights on standardized features, folded back to the features as they came."""

    coef: np.ndarray
    """(p, k), float64."""
    intercept: np.ndarray
    """(k,), float64."""
    alpha: float
    """The ridge taken, a multiple of the number of rows."""
    scores: dict[float, float]
    """Generalized cross-validation score of each ridge tried."""
    accuracies: dict[float, float]
    """Leave-one-out accuracy of each ridge tried, where rows were there to tell it."""


class Rows(NamedTuple):
    """Some rows: features, indicators and weights."""

    x: Tensor
    y: Tensor
    weight: Tensor


def probes(size: int) -> np.ndarray:
    """Columns z for which the sum of z^T A^-1 z is the trace of A^-1, or estimates it.

    Exact (the unit vectors) up to 1,000 rows; above, thirty vectors of random signs, the same
    ones always, so that the same data give the same choice of ridge.
    """
    if size <= N_EXACT:
        return np.eye(size)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(size, N_PROBES))
    return signs / np.sqrt(N_PROBES)


def left_out_accuracy(
    targets: np.ndarray, residuals: np.ndarray, leverages: np.ndarray, weight: np.ndarray
) -> float:
    """Share of rows that the machine fitted without them puts in their class, in closed form.

    A row of weight two counts as the row twice, of which one is left out.

    Parameters
    ----------
    targets, residuals : ndarray of shape (n, k)
        Indicators, and what the fitted machine leaves of them.
    leverages : ndarray of shape (n,)
        Diagonal of the matrix that takes targets to fitted scores.
    weight : ndarray of shape (n,)
    """
    kept = np.maximum(1 - leverages / weight, 1 - leverages)  # lighter than one: all of the row
    scores = targets - residuals / kept[:, None]
    return float(np.average(scores.argmax(1) == targets.argmax(1), weights=weight))


def best_of(scores: dict[float, float], accuracies: dict[float, float]) -> float:
    """The candidate of highest accuracy, then least cross-validation error, then least."""
    return min(scores, key=lambda a: (-accuracies.get(a, 0.0), scores[a], a))


def gcv(residual: float, trace: float, weight: float) -> float:
    """Generalized cross-validation: mean squared residual over (1 - (1 + trace) / n)^2.

    Leave-one-out with every leverage at its mean (Golub, Heath and Wahba 1979); the one is the
    intercept's degree of freedom.
    """
    freedom = 1 - (1 + trace) / weight
    return residual / weight / freedom**2 if freedom > 0 else float("inf")


def primal_ridge(
    moments: Moments,
    alphas: tuple[float, ...],
    *,
    standardize: bool = True,
    rows: Rows | None = None,
) -> RidgeSolution:
    """Ridge from the normal equations; float64 Cholesky, one factorization a candidate.

    Holds one float64 matrix of p x p beside the moments. The trace that generalized
    cross-validation needs is estimated with random probes above 1,000 features. With ``rows``,
    some or all of those in the moments, the ridge is taken by leave-one-out accuracy on them, each
    with its own leverage: p^2 / 2 multiply-adds a row and a candidate.
    """
    n = moments.weight
    mean = (moments.sum_x / n).numpy()
    mean_y = (moments.sum_y / n).numpy()
    variance = moments.squares.numpy() / n - mean**2
    scale = np.ones_like(mean)
    if standardize:
        dtype = moments.gram.numpy().dtype
        scale = _scales(variance, mean + moments.shift.double().numpy(), dtype, mean)
    target = moments.cross.numpy() - n * np.outer(mean, mean_y)
    target /= scale[:, None]
    total = float((moments.sum_yy / n).numpy().sum() - mean_y @ mean_y) * n
    p = len(mean)
    several = len(alphas) > 1
    right = np.concatenate([target, probes(p)], axis=1) if several else target
    shift = mean + moments.shift.double().numpy()
    coefs, scores, accuracies = {}, {}, {}
    for alpha in alphas:
        matrix = _normal_matrix(moments, mean, scale, alpha * n)
        factor_in_place(matrix.T)
        solved = cho_solve((matrix.T, True), right, check_finite=False)
        weights = solved[:, : target.shape[1]]
        coefs[alpha], scores[alpha] = weights / scale[:, None], float("nan")
        if not several:
            continue
        residual = total - float((weights * target).sum()) - alpha * n * (weights**2).sum()
        inverse = (right[:, target.shape[1] :] * solved[:, target.shape[1] :]).sum()
        trace = float(p - alpha * n * inverse)
        scores[alpha] = gcv(float(residual), trace, n)
        if rows is not None:
            x, y, weight = rows.x, rows.y, rows.weight.numpy()
            coef = torch.from_numpy(coefs[alpha]).to(x.dtype)
            left = y.numpy() - mean_y + shift @ coefs[alpha] - (x @ coef).double().numpy()
            leverages = weight * (1 / n + _row_leverages(matrix.T, x, shift, scale))
            used = weight > 0
            accuracies[alpha] = left_out_accuracy(
                y.numpy()[used], left[used], leverages[used], weight[used]
            )
        del matrix
    alpha = best_of(scores, accuracies)
    intercept = mean_y - shift @ coefs[alpha]
    return RidgeSolution(coefs[alpha], intercept, alpha, scores, accuracies)


def _normal_matrix(
    moments: Moments, mean: np.ndarray, scale: np.ndarray, ridge: float
) -> np.ndarray:
    """Moments of standardized features and the ridge, in the upper triangle (LAPACK's lower)."""
    matrix = moments.gram.to(torch.float64, copy=True).numpy()
    matrix[np.diag_indices(len(mean))] = moments.squares.numpy()
    for i in range(len(mean)):
        matrix[i, i:] -= (moments.weight * mean[i]) * mean[i:]
        matrix[i, i:] /= scale[i] * scale[i:]
        matrix[i, i] += ridge
    return matrix


def _row_leverages(
    factor: np.ndarray, x: Tensor, shift: np.ndarray, scale: np.ndarray, *, rows: int = 512
) -> np.ndarray:
    """``z^T A^-1 z`` of standardized rows z, in blocks, without the intercept's part."""
    mean, deviation = torch.from_numpy(shift), torch.from_numpy(scale)
    return np.concatenate(
        [squared_norms(factor, ((part.double() - mean) / deviation).T) for part in x.split(rows)]
    )


def dual_ridge(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n k"],
    weight: Float[Tensor, " n"] | None,
    alphas: tuple[float, ...],
    *,
    standardize: bool = True,
    columns: int = 4096,
    rows: int = 1024,
) -> RidgeSolution:
    """The same ridge from the n x n matrix of inner products; for fewer rows than features."""
    weights_ = torch.ones(len(x), dtype=torch.float64) if weight is None else weight.double()
    n = float(weights_.sum())
    root = weights_.sqrt()
    # In column blocks throughout: a float64 copy of x would not fit where x only just does.
    parts = [slice(s, s + columns) for s in range(0, x.shape[1], columns)]
    mean, scale = _mean_and_scale(x, weights_ / n, parts)
    if not standardize:
        scale = torch.ones_like(mean)
    kernel = x.new_zeros(len(x), len(x))
    for part in parts:
        _add_products(kernel, _standardized(x, mean, scale, root, part), rows)
    mean_y = (weights_ / n) @ y.double()
    target = ((y.double() - mean_y) * root[:, None]).numpy()
    used = weights_.numpy() > 0
    duals, scores, accuracies = {}, {}, {}
    for alpha in alphas:
        matrix = kernel.to(torch.float64, copy=True).numpy()
        matrix[np.diag_indices_from(matrix)] += alpha * n
        factor_in_place(matrix.T)
        dual = duals[alpha] = cho_solve((matrix.T, True), target, check_finite=False)
        scores[alpha] = float("nan")
        if len(alphas) > 1:
            leverages = 1 - alpha * n * inverse_diagonal(matrix.T)
            squares = float((alpha * n) ** 2 * (dual**2).sum())
            scores[alpha] = gcv(squares, float(leverages.sum()), n)
            accuracies[alpha] = left_out_accuracy(
                y.numpy()[used],
                (alpha * n * dual / np.maximum(root.numpy(), 1e-150)[:, None])[used],
                (leverages + weights_.numpy() / n)[used],
                weights_.numpy()[used],
            )
        del matrix
    alpha = best_of(scores, accuracies)
    dual = duals[alpha]
    dual_t = torch.from_numpy(np.ascontiguousarray(dual)).to(x.dtype)
    coef = torch.cat(
        [
            (_standardized(x, mean, scale, root, part).T @ dual_t).double() / scale[part, None]
            for part in parts
        ]
    ).numpy()
    intercept = mean_y.numpy() - mean.numpy() @ coef
    return RidgeSolution(coef, intercept, alpha, scores, accuracies)


def _add_products(kernel: Tensor, block: Tensor, rows: int) -> None:
    """Add the block's inner products to the upper triangle, all that the factorization reads."""
    for top in range(0, len(block), rows):
        kernel[top : top + rows, top:].addmm_(block[top : top + rows], block[top:].T)


def _standardized(x: Tensor, mean: Tensor, scale: Tensor, root: Tensor, columns: slice) -> Tensor:
    """Weighted, standardized columns in the dtype of ``x``."""
    shifted = x[:, columns] - mean[columns].to(x.dtype)
    return shifted.div_(scale[columns].to(x.dtype)).mul_(root[:, None].to(x.dtype))


def _mean_and_scale(x: Tensor, share: Tensor, parts: list[slice]) -> tuple[Tensor, Tensor]:
    """Of every column, in blocks of them."""
    means, variances = zip(*(_column_moments(x[:, part], share) for part in parts), strict=True)
    mean, variance = torch.cat(means), torch.cat(variances)
    scale = _scales(variance.numpy(), mean.numpy(), x.numpy().dtype)
    return mean, torch.from_numpy(scale)


def _column_moments(x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    block = x.double()
    mean = share @ block
    return mean, share @ (block - mean).square_()


def _scales(
    variance: np.ndarray, mean: np.ndarray, dtype: np.dtype, shifted: np.ndarray | float = 0.0
) -> np.ndarray:
    """Standard deviations; one where a feature is constant up to rounding.

    ``shifted`` is the mean of what was squared in ``dtype``, whose square was then subtracted.
    """
    noise = (rounding(dtype) * mean) ** 2 + np.finfo(dtype).eps * shifted**2
    return np.sqrt(np.where(variance > noise, variance, 1.0))
