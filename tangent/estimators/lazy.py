"""Lazily trained networks as scikit-learn estimators."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from tangent.estimators._trained import Lazy
from tangent.estimators.common import INPUT_DTYPES, also_takes, checked_rows
from tangent.machine.modes import ordinary_mode
from tangent.models.losses import loss_named


class LazyClassifier(ClassifierMixin, Lazy):
    """Classifier: a network scaled by alpha, centred at initialization, trained by SGD.

    It learns the scaled displacement delta = alpha (w - w0) by difference propagation, which keeps
    float32's digits at every alpha; ``alpha=math.inf`` is the explicit linearized model.

    Parameters
    ----------
    model : str, nn.Module or callable, default="mlp"
        A name, module (copied; its present weights are w0) or factory as in `TangentKernel`. In
        evaluation mode: batch norm by its running statistics, no dropout.
    alpha : float, default=math.inf
        Scale of the model, positive. At 1 the network trains as usual (but centred), from about
        1e4 on it is lazy.
    width : float, default=1.0
        Multiplies the channels or hidden units of a network given by name.
    gain : float, optional
        Gain of the Xavier initialization of a network given by name; its own default if None.
    loss : {"cross_entropy", "square"}, default="cross_entropy"
        Of the scaled output, divided by alpha**2.
    lr : float or "auto", default="auto"
        Learning rate of delta, with the same meaning at every alpha. "auto" takes a tenth of
        the stability edge of the linearized problem, measured on one mini-batch (times alpha
        below 1).
    momentum : float, default=0.9
    lr_decay : float, default=0.0
        beta of the schedule lr / (1 + beta * epoch).
    epochs : int, default=70
    batch_size : int, default=128
    augment : bool, default=False
        Random crops and mirror images; needs images.
    image_shape : tuple of int, optional
        (channels, height, width) of a row of X; None takes rows as vectors, and images of shape
        (n, channels, height, width) as they are.
    input_shape : tuple of int, optional
        Shape of one input of any kind, in place of ``image_shape``: (time, features), (length,)
        of tokens. Integers (but uint8) then reach the network as tokens, int64, not normalized.
    parameters : str or sequence of str, optional
        Names of the parameters that train, of modules for all below them, or patterns with ``*``
        and ``?`` (LoRA, last layers); by default those with ``requires_grad=True``.
    output : str, int, callable or sequence of such, optional
        Which of the network's outputs counts, where it returns a dict or a tuple ("logits").
    normalize : bool, default=True
        Subtract the training mean and divide by the standard deviation, by channel of images or
        by feature.
    device : str, default="auto"
    dtype : {"float32", "float64", "bfloat16"}, default="float32"
    random_state : int, RandomState instance or None, default=None
        Weights, order of the data and augmentation. An int gives the same model twice.
    parametrization : {"difference", "direct"}, default="difference"
        What is trained: the scaled displacement, or w itself with a subtraction of outputs as in
        published code. The latter needs float64 at large alpha, and warns where it does.
    check_lr : bool, default=True
        Measure the stability edge before training also when ``lr`` is a number, and warn above
        it. Costs about as much as ten steps; training is the same with and without.
    micro_batch_size : int, optional
        Inputs that pass the network at once; bounds the memory, not the result.
    patience : int, optional
        Stop when the loss of an epoch has been steady (to 0.1%) for so many epochs.
    checkpoint : path, optional
        File of the training's state, written every minute and at the end. A `fit` that was
        interrupted goes on from it, with the same bits, if called again with the same arguments
        and an int as ``random_state``.
    verbose : bool, default=False
        A progress bar on standard error; on standard output, before training, the memory that
        it needs and the stability edge.
    distributed : bool, default=False
        Share every mini-batch among the processes of `torch.distributed`, started by ``torchrun``
        (whose group is initialized first): each calls `fit` with the same data and the same int as
        ``random_state``, and ends with the same model.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
    module_ : ScaledDifference or DirectScaling
        The trained model, on the CPU.
    history_ : dict of ndarray
        loss, lr and seconds, an entry an epoch.
    lr_ : float
        The learning rate used.
    stability_edge_ : float
        Learning rate above which the linearized problem diverges, on one mini-batch; absent if
        it was not measured.
    n_iter_, n_parameters_, n_features_in_ : int
    input_shape_, mean_, scale_
        Shape of one input and its normalization.

    Raises
    ------
    tangent.training.lazy.DivergenceError
        In `fit`, when the loss is no longer finite.
    MemoryError
        In `fit`, before training, when a large network needs more memory than the machine has.

    Notes
    -----
    Source: Chizat et al. 2019, Section 3.2. ``predict_proba`` exists with cross entropy; outputs
    under the square loss are scores.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from tangent import LazyClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> LazyClassifier(alpha=1e4, epochs=20, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    @also_takes(Lazy, loss="cross_entropy")
    def __init__(self, model: Any = "mlp", *, loss: str = "cross_entropy", **options: Any) -> None:
        super().__init__(model, **options)
        self.loss = loss

    @ordinary_mode
    def fit(self, X: Any, y: Any) -> Self:
        """Train from initialization; an earlier fit is forgotten.

        Parameters
        ----------
        X : array-like of shape (n, n_features) or (n, c, h, w)
            Finite numbers; uint8 images are kept as bytes on the device.
        y : array-like of shape (n,)
            At least two classes.

        Returns
        -------
        self
        """
        X, y = checked_rows(self, X, y, dtype=INPUT_DTYPES)
        check_classification_targets(y)
        loss = loss_named(self.loss)
        self.classes_, labels = np.unique(y, return_inverse=True)
        k = len(self.classes_)
        if k < 2:
            raise ValueError(
                f"y must have at least two classes; got one class, {self.classes_[0]!r}"
            )

        def targets(dtype: torch.dtype) -> Tensor:
            return loss.targets(torch.from_numpy(labels.astype(np.int64)), k, dtype)

        self._fit(X, k, loss, targets)
        return self

    @ordinary_mode
    def decision_function(self, X: Any) -> np.ndarray:
        """Scaled, centred outputs: shape (n, k), or (n,) for two classes (their difference)."""
        scores = self._outputs(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    @ordinary_mode
    def predict(self, X: Any) -> np.ndarray:
        """Class of the largest output, in the labels that ``fit`` saw; shape (n,)."""
        scores = self._outputs(X)
        return self.classes_[scores.argmax(axis=1)]

    @available_if(lambda self: self.loss == "cross_entropy")
    @ordinary_mode
    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the outputs; shape (n, k), rows sum to 1. Only with cross entropy."""
        return torch.softmax(torch.from_numpy(self._outputs(X)), dim=1).numpy()


class LazyRegressor(RegressorMixin, Lazy):
    """Regressor: a network scaled by alpha, centred at initialization, trained by SGD.

    Targets are centred and scaled to unit variance for training (by output) and predictions are
    scaled back. Parameters are those of `LazyClassifier`, the loss is the square loss.

    Attributes
    ----------
    y_mean_, y_scale_ : ndarray of shape (k,)
    module_, history_, lr_, stability_edge_, n_iter_, n_parameters_, n_features_in_
        As in `LazyClassifier`.
    """

    @ordinary_mode
    def fit(self, X: Any, y: Any) -> Self:
        """Train from initialization; y has shape (n,) or (n, k). Returns self."""
        X, y = checked_rows(self, X, y, dtype=INPUT_DTYPES, multi_output=True, y_numeric=True)
        rows = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        self.y_mean_ = rows.mean(axis=0)
        scale = rows.std(axis=0)
        self.y_scale_ = np.where(scale > 0, scale, 1.0)
        standardized = torch.from_numpy((rows - self.y_mean_) / self.y_scale_)
        self._one_output = np.ndim(y) == 1
        self._fit(X, rows.shape[1], loss_named("square"), standardized.to)
        return self

    @ordinary_mode
    def predict(self, X: Any) -> np.ndarray:
        """Predicted targets, of the shape that ``fit`` saw."""
        predicted = self._outputs(X) * self.y_scale_ + self.y_mean_
        return predicted[:, 0] if self._one_output else predicted

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
