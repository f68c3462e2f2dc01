"""Ridge on class indicators as a classifier that reads its rows in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import NamedTuple, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from baselines.arguments import Ridges
from baselines.moments import Moments, RidgeSolution, Rows, dual_ridge, primal_ridge
from tangent.machine.modes import ordinary_mode
from tangent.machine.statistics import checked_weights

_LARGEST = 1e145  # whose squares float64 adds over ten thousand million rows
N_KEPT = 5_000  # rows of a stream that leave-one-out accuracy is measured on


class Block(NamedTuple):
    """Some rows: features, labels, and weights (``None`` is all ones)."""

    X: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray | None = None


def checked_alphas(alpha: object) -> tuple[float, ...]:
    """The candidates as a tuple; one number is a single candidate."""
    candidates = (alpha,) if isinstance(alpha, (int, float, np.number)) else tuple(alpha)  # type: ignore[arg-type]
    good = candidates and all(
        isinstance(a, (int, float, np.number)) and 0 < a < np.inf for a in candidates
    )
    if not good:
        raise ValueError(f"alpha must be a number above 0 or several of them; got {alpha!r}")
    return tuple(float(a) for a in candidates)


def checked_classes(y: np.ndarray, sample_weight: np.ndarray | None = None) -> np.ndarray:
    """The sorted labels; at least two, of weight above zero."""
    check_classification_targets(y)
    classes = np.unique(y if sample_weight is None else y[sample_weight > 0])
    if sample_weight is not None and len(classes) > 1:
        classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(
            f"y must have at least two classes; got {len(classes)} class ({classes.tolist()}): "
            "a classifier needs an example of each"
        )
    return classes


def indicators(y: np.ndarray, classes: np.ndarray) -> Tensor:
    """One-hot rows in float64."""
    unknown = np.setdiff1d(y, classes)
    if len(unknown):
        raise ValueError(
            f"y must hold only labels of classes {classes.tolist()}; got {unknown.tolist()}"
        )
    hot = np.zeros((len(y), len(classes)))
    hot[np.arange(len(y)), np.searchsorted(classes, y)] = 1
    return torch.from_numpy(hot)


def tensor(X: np.ndarray) -> Tensor:
    """The array as a tensor, copied only where torch could not share it."""
    return torch.from_numpy(X if X.flags.writeable and X.flags.c_contiguous else X.copy())


def gathered(blocks: Iterable[Block], n_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All rows, labels and weights; the rows in one array that is ours to change."""
    x, labels, weight, filled = np.empty((0, 0)), [], np.ones(n_rows), 0
    for block in blocks:
        if filled == 0:
            x = np.empty((n_rows, block.X.shape[1]), block.X.dtype)
        rows = slice(filled, filled + len(block.X))
        x[rows] = block.X
        labels.append(block.y)
        if block.sample_weight is not None:
            weight[rows] = block.sample_weight
        filled += len(block.X)
    return x, np.concatenate(labels), weight


def scores_to_decision(scores: np.ndarray) -> np.ndarray:
    """One column of margins for two classes, all columns for more."""
    return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores


def checked_magnitude(X: np.ndarray) -> np.ndarray:
    """``X``, unless sums of its squares would leave float64: a scale of infinity, answers of 0."""
    top = max(float(X.max(initial=0)), -float(X.min(initial=0)))
    if top > _LARGEST:
        raise ValueError(
            f"X must be small enough for its squares to be added in float64, at most "
            f"{_LARGEST:g}; it reaches {top:.3g}; divide it by a constant"
        )
    return X


def finite_scores(scores: np.ndarray, X: np.ndarray) -> np.ndarray:
    """``scores`` of the rows ``X``, refused where one is not finite: NaN is no class."""
    if not np.isfinite(scores).all():
        raise ValueError(
            f"X must be in the units of the training rows: its values reach {np.abs(X).max():.3g}, "
            "and the scores at them are not finite; rescale these rows, or pass float64"
        )
    return scores


def weights_of(sample_weight: np.ndarray | None, X: np.ndarray) -> np.ndarray | None:
    """Checked weights, ``None`` for all ones."""
    return None if sample_weight is None else checked_weights(sample_weight, len(X))


def _every(block: Block, step: int) -> Block:
    """Every ``step``-th row of the block, copied."""
    weight = block.sample_weight
    return Block(
        block.X[::step].copy(), block.y[::step], None if weight is None else weight[::step].copy()
    )


def _checked_block(block: Block) -> Block:
    checked_magnitude(block.X)
    return block


class PredictsLargest:
    """``predict`` of a classifier that has ``decision_function``."""

    classes_: np.ndarray
    decision_function: Callable[..., np.ndarray]

    @ordinary_mode
    def predict(self, X: np.ndarray) -> np.ndarray:
        """The label with the largest score."""
        scores = self.decision_function(X)
        chosen = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[chosen]


class FitsBlocks(PredictsLargest):
    """``fit`` of a classifier that has ``fit_blocks``: all rows are one block."""

    fit_blocks: Callable[..., Self]

    @ordinary_mode
    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Self:
        """Solve for all rows at once. ``sample_weight`` 2 is a row twice."""
        X, y = validate_data(self, X, y, dtype=[np.float32, np.float64])
        weight = weights_of(sample_weight, X)
        classes = checked_classes(y, weight)
        return self.fit_blocks([Block(X, y, weight)], classes, len(X))


class RidgeHead(FitsBlocks, ClassifierMixin, BaseEstimator):
    """Ridge regression on centred class indicators of standardized features.

    Normal equations are accumulated over blocks of rows and solved by Cholesky in float64; with
    fewer rows than features the n x n system is solved instead, which gives the same answer.

    Parameters
    ----------
    alpha : float or tuple of float, default=(0.01, 0.03, 0.1, 0.3, 1.0)
        Ridge as a multiple of the number of rows, on features of variance one. Of several (a
        factorization each) the one with the best leave-one-out accuracy is taken, at a tie the one
        with the least generalized cross-validation error. Leave-one-out is in closed form and
        exact, every row with its own leverage; with more rows than features it is counted on some
        5,000 of them. After ``partial_fit``, which keeps no rows, generalized cross-validation
        decides.
    standardize : bool, default=True
        Divide each feature by its standard deviation; the mean is removed in any case.

    Attributes
    ----------
    classes_ : ndarray
    coef_ : ndarray of shape (n_features, n_classes)
    intercept_ : ndarray of shape (n_classes,)
    alpha_ : float
        The ridge taken.
    gcv_ : dict
        Generalized cross-validation error of each candidate.
    left_out_accuracy_ : dict
        Leave-one-out accuracy on the training rows of each candidate.
    n_features_in_ : int

    Notes
    -----
    Memory beside the features of one block: p^2 values in their dtype and p^2 in float64, and
    5,000 rows where several candidates are tried (primal), or n p + n^2 and n^2 (dual). Rows that
    are mirror images of one another are not independent: with doubled data, leaving one out leans
    towards small ridges.
    """

    def __init__(
        self, alpha: Ridges = (0.01, 0.03, 0.1, 0.3, 1.0), *, standardize: bool = True
    ) -> None:
        self.alpha = alpha
        self.standardize = standardize

    @ordinary_mode
    def fit_blocks(self, blocks: Iterable[Block], classes: np.ndarray, n_rows: int) -> Self:
        """Solve for rows that come in blocks, each read once.

        Parameters
        ----------
        blocks : iterable of Block
            Rows as ``fit`` takes them, checked by the caller.
        classes : ndarray
            All labels, sorted.
        n_rows : int
            Rows in all: fewer than features, and the blocks are kept for the dual system.
        """
        alphas = checked_alphas(self.alpha)
        self.classes_ = classes
        self._moments: Moments | None = None
        remaining = map(_checked_block, blocks)
        first = next(remaining)
        self.n_features_in_ = first.X.shape[1]
        if n_rows < self.n_features_in_:
            x, labels, weight = gathered(chain([first], remaining), n_rows)
            y, w = indicators(labels, classes), torch.from_numpy(weight)
            self._store(dual_ridge(tensor(x), y, w, alphas, standardize=self.standardize))
        else:
            step, kept = -(-n_rows // N_KEPT), []
            for block in chain([first], remaining):
                self._add(block)
                if len(alphas) > 1:
                    kept.append(self._tensors(_every(block, step)))
            assert self._moments is not None
            rows = Rows(*map(torch.cat, zip(*kept, strict=True))) if kept else None
            self._store(
                primal_ridge(self._moments, alphas, standardize=self.standardize, rows=rows)
            )
        del self._moments
        return self

    @ordinary_mode
    def partial_fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        classes: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Add rows and solve again, in the primal.

        ``classes`` holds all labels to come; at the first call ``None`` takes those of ``y``.
        After ``fit``, which keeps no sums, the first call starts anew.
        """
        first = not hasattr(self, "_moments")
        X, y = validate_data(self, X, y, reset=first, dtype=[np.float32, np.float64])
        check_classification_targets(y)
        alphas = checked_alphas(self.alpha)
        if first:
            self.classes_ = checked_classes(np.asarray(y if classes is None else classes))
            self._moments = None
        self._add(Block(checked_magnitude(X), y, weights_of(sample_weight, X)))
        assert self._moments is not None
        self._store(primal_ridge(self._moments, alphas, standardize=self.standardize))
        return self

    @ordinary_mode
    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Scores of shape (n, n_classes); for two classes (n,), positive for the second."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float32, np.float64])
        with np.errstate(over="ignore", invalid="ignore"):
            scores = X @ self.coef_.astype(X.dtype) + self.intercept_.astype(X.dtype)
        return scores_to_decision(finite_scores(scores, X))

    def _tensors(self, block: Block) -> Rows:
        weight = np.ones(len(block.X)) if block.sample_weight is None else block.sample_weight
        return Rows(tensor(block.X), indicators(block.y, self.classes_), torch.from_numpy(weight))

    def _add(self, block: Block) -> None:
        x, y, weight = self._tensors(block)
        if self._moments is None:
            self._moments = Moments.like(x, len(self.classes_))
        self._moments.add(x, y, None if block.sample_weight is None else weight)

    def _store(self, solution: RidgeSolution) -> None:
        self.coef_ = solution.coef
        self.intercept_ = solution.intercept
        self.alpha_ = solution.alpha
        self.gcv_ = solution.scores
        self.left_out_accuracy_ = solution.accuracies
