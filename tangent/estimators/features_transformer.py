"""Tangent features as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from tangent.capture import picking
from tangent.estimators._ensemble import feature_dtype
from tangent.estimators._rows import float_of, row_tensor, weighted_normalization
from tangent.estimators.common import (
    built_networks,
    check_takes,
    checked_rows,
    fitted_shape,
    torch_device,
)
from tangent.kernel.features import tangent_features
from tangent.machine.modes import ordinary_mode


class TangentFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Gradient of a network's output in its parameters, or a random sketch of it, as features.

    A linear model on them is the linearized network: RidgeCV and LogisticRegression train it.

    Parameters
    ----------
    model : str, nn.Module or callable, default="mlp"
        As in `TangentKernel`.
    n_components : int or None, default=1000
        Dimension of the sketch, whose inner products are those of the features with an error of
        order 1 / sqrt(n_components); None keeps all parameters.
    outputs : int or "pseudo", default="pseudo"
        Features of one output, or of the sum of all divided by the root of their number.
    n_outputs : int, default=1
        Of a network given by name or factory.
    centre : bool, default=True
        Subtract the mean feature of the training rows: the constant, the direction of the
        largest eigenvalue, is left to the intercept of the linear model.
    normalize : bool, default=True
        Subtract mean and divide by standard deviation, by feature or by channel of images.
    width, gain : float
        Of a network given by name.
    image_shape, input_shape, parameters, output
        As in `TangentKernelRegressor`.
    batch_size : int, optional
        Rows handled at once; bounds the memory, not the result.
    device : str, default="cpu"
    dtype : {"auto", "float32", "float64"}, default="auto"
        Of network and features: float64 for vectors, float32 where a shape is given.
    random_state : int, RandomState instance or None, default=None
        Initial weights and sketch.

    Attributes
    ----------
    module_ : nn.Module
    feature_mean_ : ndarray of shape (n_components,)
    mean_, scale_, input_shape_, tokens_, n_features_in_

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from tangent import TangentFeatures
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(
    ...     TangentFeatures(width=0.1, n_components=100, random_state=0),
    ...     LogisticRegression(max_iter=1000),
    ... )
    >>> model.fit(X, y).score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        model: Any = "mlp",
        *,
        n_components: int = 1000,
        outputs: str | int = "pseudo",
        n_outputs: int = 1,
        centre: bool = True,
        normalize: bool = True,
        width: float = 1.0,
        gain: float | None = None,
        image_shape: tuple[int, ...] | None = None,
        input_shape: tuple[int, ...] | None = None,
        parameters: str | Sequence[str] | None = None,
        output: Any = None,
        batch_size: int | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.n_components = n_components
        self.outputs = outputs
        self.n_outputs = n_outputs
        self.centre = centre
        self.normalize = normalize
        self.width = width
        self.gain = gain
        self.image_shape = image_shape
        self.input_shape = input_shape
        self.parameters = parameters
        self.output = output
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype
        self.random_state = random_state

    @ordinary_mode
    def fit(self, X: Any, y: Any = None) -> Self:
        """Draw the network and learn the means; ``y`` is ignored. Returns self."""
        self.fit_transform(X)
        return self

    @ordinary_mode
    def fit_transform(self, X: Any, y: Any = None, **params: Any) -> Any:
        """Fit, and return the features of X, of shape (n, n_components), at the price of one."""
        X = checked_rows(self, X, dtype=[np.float64, np.float32])
        if self.outputs != "pseudo" and not isinstance(self.outputs, int):
            raise ValueError(
                f"outputs must be 'pseudo' or the index of an output; got {self.outputs!r}"
            )
        self.input_shape_ = fitted_shape(self, X.shape[1])
        random = check_random_state(self.random_state)
        self._sketch_seed = int(random.randint(np.iinfo(np.int32).max))
        seed = int(random.randint(np.iinfo(np.int32).max))
        (network,) = built_networks(
            self.model,
            1,
            self.input_shape_,
            self.n_outputs,
            width=self.width,
            gain=self.gain,
            generator=torch.Generator().manual_seed(seed),
        )
        dtype = feature_dtype(self.dtype, self.images_ or self.image_shape or self.input_shape)
        self.module_ = picking(network.to(dtype), self.output)
        self.mean_, self.scale_ = weighted_normalization(
            X, np.ones(len(X)), self.input_shape_, self.normalize
        )
        x = row_tensor(X, self.mean_, self.scale_, self.input_shape_, dtype)
        check_takes(self.module_, x, self.tokens_)
        features = self._features(X)
        self.feature_mean_ = np.zeros(features.shape[1])
        if self.centre:
            self.feature_mean_ = features.mean(axis=0, dtype=np.float64)
        self._n_features_out = features.shape[1]
        return (features - self.feature_mean_).astype(float_of(X))

    @ordinary_mode
    def transform(self, X: Any) -> Any:
        """Return the features of X, of shape (n, n_components), in the dtype of X."""
        check_is_fitted(self)
        X = checked_rows(self, X, dtype=[np.float64, np.float32], reset=False)
        return (self._features(X) - self.feature_mean_).astype(float_of(X))

    def _features(self, X: np.ndarray) -> np.ndarray:
        device = torch_device(self.device)
        weight = next(self.module_.parameters())
        x = row_tensor(X, self.mean_, self.scale_, self.input_shape_, weight.dtype)
        phi = tangent_features(
            self.module_.to(device),
            x.to(device),
            parameters=self.parameters,
            batch_size=self.batch_size,
            project=self.n_components,
            generator=torch.Generator().manual_seed(self._sketch_seed),
        )
        self.module_.to("cpu")
        assert isinstance(phi, torch.Tensor)
        if isinstance(self.outputs, int):
            phi = phi[:, self.outputs]
        else:
            phi = phi.sum(1) / phi.shape[1] ** 0.5
        return phi.cpu().numpy()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
