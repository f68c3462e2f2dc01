"""A Gaussian kernel machine on standardized features, exact or with landmarks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import solve_triangular
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from baselines.arguments import Ridges, Seed
from baselines.iterative_ridge import PackedKernel, iterative_kernel_ridge
from baselines.linear import (
    N_KEPT,
    Block,
    FitsBlocks,
    checked_alphas,
    gathered,
    indicators,
    scores_to_decision,
    tensor,
)
from baselines.moments import Moments, Rows, primal_ridge
from baselines.weighted_ridge import weighted_kernel_ridge
from tangent.machine.bars import counted
from tangent.machine.modes import ordinary_mode
from tangent.machine.statistics import column_statistics
from tangent.solve.cholesky import factor_in_place

SOLVERS = ("auto", "cholesky", "conjugate")
N_FACTORS = 15_000  # rows up to which "auto" takes factors


def gaussian_kernel(
    a: Float[Tensor, "n p"], b: Float[Tensor, "m p"], gamma: float
) -> Float[Tensor, "n m"]:
    """exp(-gamma |a - b|^2), in the dtype of the inputs."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    distances = torch.addmm(squares, a, b.T, alpha=-2).clamp_min_(0)
    return distances.mul_(-gamma).exp_()


class GaussianKernelHead(FitsBlocks, ClassifierMixin, BaseEstimator):
    """Kernel ridge regression on class indicators with a Gaussian kernel.

    Features are standardized on the training rows; the kernel is
    exp(-|x - x'|^2 / (2 width^2 p)) for p features, so a width of one is the mean norm of a row.

    Parameters
    ----------
    width : float, default=1.0
        In units of the root of the number of features. It matters: tune it in [0.3, 2].
    alpha : float or tuple of float, default=(0.01, 0.03, 0.1, 0.3)
        Added to the diagonal of the kernel, which is one. Of several, the one with the best
        leave-one-out accuracy is taken, at a tie the one with the least generalized
        cross-validation error. Leave-one-out is in closed form, exact with factors; else every
        leverage is taken at the mean, with landmarks on some 5,000 rows.
    n_landmarks : int, optional
        Solve on the span of this many random training rows (Nystrom); ``None`` is exact.
    solver : {"auto", "cholesky", "conjugate"}, default="auto"
        Of the exact method: factors, or conjugate gradients to a residual of 0.3%. "auto" takes
        factors up to 15,000 rows.
    random_state : int, RandomState or None
        Chooses the landmarks, and the preconditioner of conjugate gradients.

    Attributes
    ----------
    classes_ : ndarray
    rows_ : ndarray
        Standardized training rows or landmarks.
    dual_coef_ : ndarray of shape (rows, n_classes)
    alpha_ : float
    gcv_ : dict
        Generalized cross-validation error of each candidate.
    left_out_accuracy_ : dict
        Leave-one-out accuracy on the training rows of each candidate; empty for one alone.
    jitter_ : float
        Added to the landmarks' kernel so that its factor exists; 0 in the exact method.
    n_features_in_ : int

    Notes
    -----
    Factors: n^2 values in the features' dtype and n^2 in float64, for each alpha n^3 / 6
    multiply-adds and, where there are several, as many again. Conjugate gradients: n^2 / 2 values
    in float32 beside the rows, 5 GB for 50,000, and n^2 p / 2 multiply-adds to make them; the
    solution, in float32 as well, costs little beside that.
    Leave-one-out accuracy wants smaller alphas than the squared error does: on 10,000 CIFAR-10
    images they are half a point of test accuracy apart. Landmarks: rows are kept once, m^2
    twice, and n m (p + m) multiply-adds.
    """

    def __init__(
        self,
        width: float = 1.0,
        *,
        alpha: Ridges = (0.01, 0.03, 0.1, 0.3),
        n_landmarks: int | None = None,
        solver: Literal["auto", "cholesky", "conjugate"] = "auto",
        random_state: Seed = None,
    ) -> None:
        self.width = width
        self.alpha = alpha
        self.n_landmarks = n_landmarks
        self.solver = solver
        self.random_state = random_state

    @ordinary_mode
    def fit_blocks(self, blocks: Iterable[Block], classes: np.ndarray, n_rows: int) -> Self:
        """As ``fit``, for rows that come in blocks; they are kept, in the dtype they come in."""
        if not isinstance(self.width, (int, float, np.number)) or not self.width > 0:
            raise ValueError(f"width must be a number above 0; got {self.width!r}")
        landmarks = self.n_landmarks
        if landmarks is not None and not (
            isinstance(landmarks, (int, np.integer)) and landmarks > 0
        ):
            raise ValueError(f"n_landmarks must be an integer above 0 or None; got {landmarks!r}")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {SOLVERS}; got {self.solver!r}")
        alphas = checked_alphas(self.alpha)
        self.classes_ = classes
        x, y, weight = gathered(blocks, n_rows)
        self.n_features_in_ = x.shape[1]
        targets = indicators(y, classes)
        share = weight / weight.sum()
        mean, scale = column_statistics(x, weight)
        self.mean_, self.scale_ = mean.astype(x.dtype), scale.astype(x.dtype)
        x -= self.mean_  # in place: x may be half of the memory
        x /= self.scale_
        self.gcv_: dict[float, float] = {}
        self.left_out_accuracy_: dict[float, float] = {}
        self._gamma = 1 / (2 * float(self.width) ** 2 * x.shape[1])
        self.intercept_ = share @ targets.numpy()
        centred = targets - torch.from_numpy(self.intercept_)
        if landmarks is None:
            self._fit_exact(x, centred.numpy(), weight, alphas)
        else:
            self._fit_landmarks(int(landmarks), x, centred, weight, alphas)
        return self

    @ordinary_mode
    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Scores of shape (n, n_classes); for two classes (n,), positive for the second."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float32, np.float64])
        rows = tensor(self.rows_)
        dual = torch.from_numpy(self.dual_coef_)
        scores = np.empty((len(X), len(self.classes_)))
        for part in _blocks_of(len(X)):
            x = torch.from_numpy((X[part].astype(self.rows_.dtype) - self.mean_) / self.scale_)
            scores[part] = gaussian_kernel(x, rows, self._gamma).to(dual.dtype) @ dual
        return scores_to_decision(scores + self.intercept_)

    def _fit_exact(
        self, x: np.ndarray, targets: np.ndarray, weight: np.ndarray, alphas: tuple[float, ...]
    ) -> None:
        used = weight > 0
        if not used.all():
            x, targets, weight = x[used], targets[used], weight[used]
        factors = self.solver == "cholesky" or (self.solver == "auto" and len(x) <= N_FACTORS)
        if factors:
            kernel = torch.zeros(len(x), len(x), dtype=torch.from_numpy(x).dtype)
            for part, block in self._upper_triangle(x):
                kernel[part, part.start :] = block
            solution = weighted_kernel_ridge(kernel, targets, weight, alphas)
        else:
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            root = torch.from_numpy(np.sqrt(weight)).float()
            blocks = (
                block.float().mul_(root[part, None]).mul_(root[part.start :])
                for part, block in self._upper_triangle(x)
            )
            solution = iterative_kernel_ridge(
                PackedKernel(blocks),
                targets,
                weight,
                alphas,
                generator=torch.Generator().manual_seed(seed),
            )
        self.alpha_, self.dual_coef_ = solution.alpha, solution.dual
        self.gcv_, self.left_out_accuracy_ = solution.gcv, solution.accuracies
        self.rows_, self.jitter_ = x, 0.0

    def _upper_triangle(self, x: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
        """Rows of the kernel from the diagonal on, in blocks: all that is read."""
        rows = torch.from_numpy(x)
        for part in counted(_blocks_of(len(x), 1024), "rows of the kernel"):
            yield part, gaussian_kernel(rows[part], rows[part.start :], self._gamma)

    def _fit_landmarks(
        self,
        n_landmarks: int,
        x: np.ndarray,
        targets: Tensor,
        weight: np.ndarray,
        alphas: tuple[float, ...],
    ) -> None:
        """Ridge on K(x, landmarks) L^-T with L L^T the landmarks' kernel."""
        random = check_random_state(self.random_state)
        count = min(n_landmarks, len(x))
        chosen = np.sort(random.choice(len(x), count, replace=False))
        landmarks = torch.from_numpy(x[chosen])
        factor, self.jitter_ = _jittered_factor(_kernel_in_float64(landmarks, self._gamma))
        inverse = solve_triangular(factor, np.eye(count), lower=True, overwrite_b=True)
        to_features = torch.from_numpy(inverse.T.copy()).to(landmarks.dtype)
        rows, moments = torch.from_numpy(x), None
        step, kept = -(-len(x) // N_KEPT), []
        for part in counted(_blocks_of(len(x)), "block of rows"):
            features = gaussian_kernel(rows[part], landmarks, self._gamma) @ to_features
            moments = moments or Moments.like(features, targets.shape[1])
            moments.add(features, targets[part], torch.from_numpy(weight[part]))
            each = slice(part.start, part.stop, step)
            kept.append((features[::step].clone(), targets[each], torch.from_numpy(weight[each])))
        assert moments is not None
        n = moments.weight
        relative = tuple(alpha / n for alpha in alphas)
        seen = Rows(*map(torch.cat, zip(*kept, strict=True)))
        solution = primal_ridge(moments, relative, standardize=False, rows=seen)
        if len(alphas) > 1:
            self.gcv_, self.left_out_accuracy_ = (
                {a: values[r] for a, r in zip(alphas, relative, strict=True)}
                for values in (solution.scores, solution.accuracies)
            )
        self.alpha_ = dict(zip(relative, alphas, strict=True))[solution.alpha]
        self.rows_ = x[chosen]
        self.dual_coef_ = inverse.T @ solution.coef
        self.intercept_ = self.intercept_ + solution.intercept


def _blocks_of(n: int, size: int = 2048) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


def _kernel_in_float64(rows: Float[Tensor, "m p"], gamma: float) -> np.ndarray:
    """The rows' kernel, without a float64 copy of all of them."""
    kernel = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for columns in rows.split(2048, dim=1):
        block = columns.double()
        kernel.addmm_(block, block.T)
    squares = kernel.diagonal().clone()
    kernel.mul_(-2).add_(squares).add_(squares[:, None]).clamp_min_(0)
    return kernel.mul_(-gamma).exp_().numpy()


def _jittered_factor(kernel: np.ndarray) -> tuple[np.ndarray, float]:
    """Lower Cholesky factor of the kernel plus the least jitter that gives it one."""
    for jitter in (1e-10, 1e-8, 1e-6, 1e-4):
        shifted = np.asfortranarray(kernel.copy().T)
        shifted[np.diag_indices_from(shifted)] += jitter
        with contextlib.suppress(np.linalg.LinAlgError):
            factor_in_place(shifted)
            return np.tril(shifted), jitter
    raise np.linalg.LinAlgError("the landmarks' kernel has no Cholesky factor; take fewer")
