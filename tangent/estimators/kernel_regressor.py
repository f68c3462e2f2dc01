"""Regression with an exact tangent-kernel model."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from tangent.estimators._rows import float_of, sample_weights
from tangent.estimators._tangent import FLOATS, TangentModel
from tangent.estimators.common import checked_rows
from tangent.machine.modes import ordinary_mode


class TangentKernelRegressor(RegressorMixin, TangentModel):
    """Kernel ridge regression, or gradient flow to a time, with the tangent kernel of a network.

    It is what training the linearized network under the square loss converges to, or is at a
    time, in closed form. With the defaults network and ridge are chosen by leaving one out.

    Parameters
    ----------
    model : str, nn.Module, callable or list of these, default="auto"
        "designed_cnn" (built from the images of X), a name, module or factory as in
        `TangentKernel`. Of several the one with the least leave-one-out error is taken; "auto"
        stands for a few perceptrons for rows of numbers, and for VGG-11 with average pooling for
        images.
    outputs : {"trace", "pseudo", "full"} or int, default="trace"
        The kernel that all targets share: mean over the network's outputs, that of their sum (of
        networks by name or factory at most sixteen outputs are made for either), or of one of
        them; or "full", in which targets interact, of size (n k) x (n k).
    ridge : float, sequence of float or "loo", default="loo"
        In units of the kernel's mean diagonal entry; of several, and of a grid from 1e-6 to 10
        for "loo", the one with the least leave-one-out error.
    time : float, optional
        Stop gradient flow at this time instead of adding a ridge. That of the flow on half the
        mean squared error with the kernel divided by its mean diagonal entry.
    solver : {"auto", "exact", "cg"}, default="auto"
        One eigendecomposition, or conjugate gradients (ridge chosen on a subset), on
        Jacobian-vector products that never form the kernel; where there are many targets and the
        kernel shared by them fits in a quarter of the memory, it is cheaper to form, and is.
        "auto" is exact up to 8000 rows.
    width : float, default=1.0
        Multiplies hidden units or channels of the networks given by name.
    gain : float, optional
        Gain of the initialization of a network given by name.
    n_ensemble : int, default=2
        Initializations whose kernels are averaged; a module passed in has only one.
    fit_intercept : bool, default=True
        Fit a constant without penalty, and centre the tangent features.
    normalize : bool, default=True
        Subtract mean and divide by standard deviation, by feature or by channel of images.
    image_shape : tuple of int, optional
        (channels, height, width) of a row of X; None takes rows as vectors, and images of shape
        (n, channels, height, width) as they are.
    input_shape : tuple of int, optional
        Shape of one input of any kind, in place of ``image_shape``: (time, features), (length,)
        of tokens. Integers (but uint8) then reach the network as tokens, int64, not normalized.
    parameters : str or sequence of str, optional
        Names of parameters, of modules for all below them, or patterns with ``*`` and ``?``: the
        kernel is that of these alone (LoRA, last layers). All by default.
    output : str, int, callable or sequence of such, optional
        Which of the network's outputs counts, where it returns a dict or a tuple ("logits").
    tolerance, max_iterations : float, int
        Of conjugate gradients: relative residual, and iterations.
    rank : int, default=100
        Of the Nystrom preconditioner of conjugate gradients.
    device : str, default="cpu"
        Where tangent features are computed; "auto" is a GPU if there is one. Linear systems
        are solved on the CPU, and fitted attributes stay there.
    dtype : {"auto", "float32", "float64"}, default="auto"
        Of the tangent features: float64 for vectors, float32 where a shape is given. Systems are
        solved in float64.
    random_state : int, RandomState instance or None, default=None
        Initial weights.
    distributed : bool, default=False
        Share the work among the processes of `torch.distributed`, started by ``torchrun`` (whose
        group is initialized first): each calls ``fit`` with the same data and the same int as
        random_state, and ends with the same fit. Rows of the kernel are shared in the exact
        solver, products in conjugate gradients; systems are solved, and rows predicted, in each.

    Attributes
    ----------
    ridge_ : float
        The chosen ridge, in units of the kernel's mean diagonal entry.
    loo_error_ : float
        Mean squared leave-one-out error at it.
    loo_prediction_ : ndarray of shape (rows,) or (rows, k)
        For the distinct rows of X, in the order of their first occurrence; exact solver only.
    chosen_model_
        The candidate that was taken.
    condition_number_ : float
        Of the system that was solved; with conjugate gradients an estimate, by the
        preconditioner's leading eigenvalue and the ridge: good at a rank of some dozens, too small
        at a few, NaN at 0.
    kernel_, inputs_, fit_
        The networks, the training inputs and the dual coefficients.
    n_features_in_, input_shape_, tokens_, mean_, scale_, solver_

    Notes
    -----
    Equal rows are merged: their weights add up and leaving one out leaves out all of them.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from tangent import TangentKernelRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = TangentKernelRegressor(random_state=0).fit(X[:300], y[:300])
    >>> mean, std = model.predict(X[300:], return_std=True)
    """

    @ordinary_mode
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit; an earlier fit is forgotten.

        Parameters
        ----------
        X : array-like of shape (n, n_features) or (n, c, h, w)
        y : array-like of shape (n,) or (n, k)
        sample_weight : array-like of shape (n,), optional
            A weight of 2 is the row twice.

        Returns
        -------
        self
        """
        X, y = checked_rows(
            self,
            X,
            y,
            dtype=FLOATS,
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
        )
        rows = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        weights = sample_weights(sample_weight, len(rows))
        mean = weights @ rows / weights.sum()
        spread = np.sqrt(weights @ (rows - mean) ** 2 / weights.sum())
        self.y_mean_ = mean
        self.y_scale_ = np.where(spread > 0, spread, 1.0)
        self._one_output = np.ndim(y) == 1
        self._fit(X, (rows - self.y_mean_) / self.y_scale_, weights)
        self.condition_number_ = self.fit_.condition_number
        if self.solver_ == "exact":
            self.loo_prediction_ = self._in_units(self.fit_.leave_one_out.numpy())
        return self

    @ordinary_mode
    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predicted targets, of the shape that ``fit`` saw and the dtype of X.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
        return_std : bool
            Return also the posterior standard deviation of the noise-free function, of the same
            shape: that of the Gaussian process whose noise is the ridge and whose scale is the
            one of largest likelihood. Needs ``solver="exact"``, no ``time`` and a kernel shared
            by all targets.
        """
        mean: np.ndarray = self._in_units(self._outputs(X)).astype(float_of(X), copy=False)
        if not return_std:
            return mean
        std = np.sqrt(self._variances(X))[:, None] * self._deviations()
        std = std[:, 0] if self._one_output else std
        return mean, std.astype(mean.dtype, copy=False)

    def _in_units(self, rows: np.ndarray) -> np.ndarray:
        rows = rows * self.y_scale_ + self.y_mean_
        return rows[:, 0] if self._one_output else rows

    def _deviations(self) -> np.ndarray:
        """Scale of the prior by target: the square root of y^T (K + ridge)^-1 y / n."""
        fit = self.fit_
        lam = fit.spectrum.eigenvalues.clamp(min=0) + fit.ridge * fit.unit
        inside = fit.spectrum.eigenvectors.T @ (fit.coefficients / fit.root[:, None])
        return np.sqrt((inside**2 * lam[:, None]).mean(0).numpy()) * self.y_scale_

    def _variances(self, X: Any) -> np.ndarray:
        """Posterior variance at prior scale 1: k(x, x) - k_x^T (K + ridge)^-1 k_x."""
        check_is_fitted(self)
        if self.solver_ != "exact" or self.time is not None or self.outputs == "full":
            raise ValueError(
                "return_std=True needs solver='exact', time=None and outputs='trace', 'pseudo' or "
                f"an index; got solver={self.solver_!r}, time={self.time}, "
                f"outputs={self.outputs!r}"
            )
        x = self._inputs(checked_rows(self, X, dtype=FLOATS, reset=False))
        fit, device = self.fit_, self._device()
        lam = fit.spectrum.eigenvalues.clamp(min=0) + fit.ridge * fit.unit
        parts = []
        for part, cross in self.kernel_.rows(x, self.inputs_, device):
            prior = self.kernel_.diagonal(x[part], device)
            free = 0.0
            if fit.centring is not None:
                prior = fit.centring.diagonal(prior, cross)
                cross = fit.centring.cross(cross)
                free = fit.ridge * fit.unit / float((fit.root**2).sum())
            known = (cross * fit.root) @ fit.spectrum.eigenvectors
            parts.append(prior - (known**2 / lam).sum(1) + free)
        return torch.cat(parts).clamp(min=0).numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
