"""Classification with an exact tangent-kernel model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from tangent.estimators._dual import DualFit
from tangent.estimators._explain import Explanation, contributions, influences
from tangent.estimators._logistic import LogisticFit, calibration
from tangent.estimators._rows import sample_weights
from tangent.estimators._tangent import FLOATS, TangentModel
from tangent.estimators.common import also_takes, checked_rows
from tangent.machine.modes import ordinary_mode

_LOGISTIC_COST = 1e9  # n^3 k; up to it "auto" tries cross entropy as well


class TangentKernelClassifier(ClassifierMixin, TangentModel):
    """Classification with the tangent kernel of a network, solved to the end.

    The linearized network under the square loss on one-hot targets (ridge regression, or
    gradient flow to a time) or under cross entropy. With the defaults network, loss and ridge
    are chosen by leaving one out, in closed form.

    Parameters
    ----------
    model, outputs, time, solver, width, gain, n_ensemble, fit_intercept, normalize
        As in `TangentKernelRegressor`.
    ridge : float, sequence of float or "loo", default="loo"
        As in `TangentKernelRegressor`; cross entropy has a coarser grid, from 1e-7 to 1.
    loss : {"auto", "square", "cross_entropy"}, default="auto"
        "auto" takes the one with the smaller leave-one-out log loss while cross entropy is
        cheap (rows cubed times classes up to 1e9), and the square loss beyond.
    image_shape, input_shape, parameters, output
        As in `TangentKernelRegressor`.
    tolerance, max_iterations, rank, device, dtype, random_state, distributed
        As in `TangentKernelRegressor`.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    loss_ : str
        The loss that was taken.
    loo_log_loss_ : float
        Leave-one-out log loss of ``predict_proba`` on the training rows.
    temperature_ : float
        Factor of the scores before the softmax of ``predict_proba``, of the least leave-one-out
        log loss.
    ridge_, loo_error_, chosen_model_, kernel_, inputs_, fit_
        As in `TangentKernelRegressor`; ``loo_error_`` is the log loss.
    rows_ : ndarray of shape (rows,)
        Where the distinct rows first stand in X.

    Notes
    -----
    The candidates of "auto" for rows of numbers are perceptrons with sin + cos, GELU and tanh;
    the first have a Gaussian kernel in theirs (`tangent.estimators.SinCos`). Several candidates
    race with one network each and few ridges, those that come near the best with the square loss
    also with cross entropy; the best with each loss is then fitted in full. Leave-one-out is
    exact for the square loss and to first order for cross entropy.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import cross_val_score
    >>> from tangent import TangentKernelClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> bool(cross_val_score(TangentKernelClassifier(random_state=0), X, y).mean() > 0.95)
    True
    """

    @also_takes(TangentModel, loss="auto")
    def __init__(self, model: Any = "auto", *, loss: str = "auto", **options: Any) -> None:
        super().__init__(model, **options)
        self.loss = loss

    @ordinary_mode
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit; an earlier fit is forgotten.

        Parameters
        ----------
        X : array-like of shape (n, n_features) or (n, c, h, w)
        y : array-like of shape (n,)
            At least two classes.
        sample_weight : array-like of shape (n,), optional
            A weight of 2 is the row twice.

        Returns
        -------
        self
        """
        if self.loss not in ("auto", "square", "cross_entropy"):
            raise ValueError(f"loss must be 'auto', 'square' or 'cross_entropy'; got {self.loss!r}")
        X, y = checked_rows(self, X, y, dtype=FLOATS, ensure_min_samples=2)
        check_classification_targets(y)
        weights = sample_weights(sample_weight, len(y))
        self.classes_, labels = np.unique(y, return_inverse=True)
        present = np.unique(labels[weights > 0])
        if len(present) < 2:
            raise ValueError(
                f"y must have at least two classes; got one class, {self.classes_[present[0]]!r}"
                + (" (where sample_weight is positive)" if len(self.classes_) > 1 else "")
            )
        self._fit(X, np.eye(len(self.classes_))[labels], weights)
        self.loss_ = "cross_entropy" if isinstance(self.fit_, LogisticFit) else "square"
        self.temperature_ = self.fit_.temperature
        self.loo_log_loss_ = self.fit_.error
        return self

    def _losses(self, matrix: Tensor, targets: Tensor) -> tuple[str, ...]:
        dual = self.solver_ == "cg" or self.time is not None or matrix.ndim == 4
        if self.loss == "cross_entropy" and dual:
            raise ValueError(
                "loss='cross_entropy' needs time=None, solver='exact' and a kernel shared by "
                f"the classes; got time={self.time}, solver={self.solver_!r}, "
                f"outputs={self.outputs!r}"
            )
        if self.loss != "auto":
            return (self.loss,)
        dear = len(matrix) ** 3 * targets.shape[1] > _LOGISTIC_COST
        return ("square",) if dual or dear else ("square", "cross_entropy")

    def _calibrated(self, fit: DualFit, targets: Tensor, weights: Tensor) -> DualFit:
        factor, error = calibration(fit.leave_one_out, targets, weights)
        return replace(fit, error=error, temperature=factor)

    @ordinary_mode
    def decision_function(self, X: Any) -> np.ndarray:
        """Scores of shape (n, k), or (n,) for two classes (their difference).

        Log probabilities up to a constant.
        """
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    @ordinary_mode
    def predict(self, X: Any) -> np.ndarray:
        """Class of the largest score, in the labels that ``fit`` saw; shape (n,)."""
        scores = self._scores(X)
        return self.classes_[scores.argmax(axis=1)]

    @ordinary_mode
    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the scores; shape (n, k), rows sum to 1."""
        return torch.softmax(torch.from_numpy(self._scores(X)), dim=1).numpy()

    @ordinary_mode
    def explain(self, X: Any) -> Explanation:
        """What the scores of ``X`` rest on: training rows for and against every class.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        Explanation
            Arrays of n times the training rows times k numbers, float64.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from tangent import TangentKernelClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = TangentKernelClassifier("mlp", width=0.1, loss="square", random_state=0)
        >>> found = model.fit(X[::2], y[::2]).explain(X[1:4:2])
        >>> bool(abs(found.contributions.sum(1) + found.constant - found.scores).max() < 1e-6)
        True
        >>> for_it, against_it = found.speakers(0)
        >>> int(y[::2][for_it[0][0]]) == int(model.predict(X[1:2])[0])
        True
        """
        check_is_fitted(self)
        X = checked_rows(self, X, dtype=FLOATS, reset=False)
        x, fit = self._inputs(X), self.fit_
        place = (x, self.inputs_, self._device())
        parts = contributions(self.kernel_, fit.coefficients, *place)
        left_out = None
        shared = isinstance(fit, DualFit) and len(fit.spectrum.eigenvectors) == len(self.inputs_)
        if shared and self.time is None:
            left_out = influences(self.kernel_, fit, self.targets_, *place) * self.temperature_
        return Explanation(
            self.rows_,
            parts.numpy() * self.temperature_,
            fit.constant.numpy() * self.temperature_,
            (parts.sum(1) + fit.constant).numpy() * self.temperature_,
            None if left_out is None else left_out.numpy(),
            self.classes_,
        )

    def _scores(self, X: Any) -> np.ndarray:
        scores = self._outputs(X) * self.temperature_
        return scores.astype(np.float32) if getattr(X, "dtype", None) == np.float32 else scores
