"""Transformers of random features: convolutional random patches, and ReLU features of vectors."""

from __future__ import annotations

from numbers import Real
from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from baselines.arguments import Seed, check_positive
from baselines.images import Placement, as_images, shape_of_rows
from baselines.patches import patch_features
from tangent.machine.images import image_rows
from tangent.machine.modes import ordinary_mode
from tangent.machine.patches import patch_filters


class RandomPatchFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Convolutional random features: random training patches, whitened, rectified and pooled.

    A patch is normalized in contrast and ZCA-whitened, its product with each filter (a random
    training patch, whitened as well) goes through max(z - bias, 0) and max(-z - bias, 0), and both
    are summed over a grid of positions (Coates and Ng 2012; Recht et al. 2018).

    Parameters
    ----------
    n_filters : int, default=256
        Twice this times the cells of the grid is the number of features.
    patch_size : int, default=6
        Side of a patch; cut to the image where that is smaller.
    grid : int, default=3
        Cells along each side of the pooling grid; cut to the number of positions.
    bias : float, default=0.5
        Threshold of the rectifier, in units of a filter of norm one on whitened patches.
    contrast : float, default=10/255
        Standard deviation of a patch's pixels below which contrast counts as noise, as a share of
        the range of the training images, maximum less minimum.
    whitening : float, default=1e-3
        Added to the variances of the normalized patches before whitening divides by their roots.
    n_whitening : int, default=100000
        Patches that whitening is fitted on.
    image_shape : tuple of (channels, height, width), optional
        Shape of one row, or the rows come as (n, channels, height, width); ``None`` takes a row as
        a signal of one channel and height one.
    random_state : int, RandomState or None
        Chooses the patches. An int gives the same features twice.

    Attributes
    ----------
    filters_ : PatchFilters
    image_shape_ : tuple
    n_features_in_ : int

    Notes
    -----
    float32 in, float32 out; any other dtype is converted. A transform costs
    2 * positions * (patch values) * n_filters multiply-adds an image (160 million for 1,024
    filters on 32x32 RGB) and holds the result and the responses of two images.
    """

    def __init__(
        self,
        n_filters: int = 256,
        *,
        patch_size: int = 6,
        grid: int = 3,
        bias: float = 0.5,
        contrast: float = 10 / 255,
        whitening: float = 1e-3,
        n_whitening: int = 100_000,
        image_shape: tuple[int, ...] | None = None,
        random_state: Seed = None,
    ) -> None:
        self.n_filters = n_filters
        self.patch_size = patch_size
        self.grid = grid
        self.bias = bias
        self.contrast = contrast
        self.whitening = whitening
        self.n_whitening = n_whitening
        self.image_shape = image_shape
        self.random_state = random_state

    @ordinary_mode
    def fit(self, X: np.ndarray, y: object = None) -> Self:
        """Draw the filters and fit the whitening on the images of ``X``; ``y`` is not used."""
        check_positive(self, "n_filters", "patch_size", "grid", "n_whitening")
        check_positive(self, "contrast", "whitening", kind=Real)
        check_positive(self, "bias", kind=Real, zero=True)
        X, shape = image_rows(X, self.image_shape)
        X = validate_data(self, X, dtype=[np.float32, np.float64])
        self.image_shape_ = shape_of_rows(shape, X.shape[1])
        self._placement = Placement.of(X)
        _, height, width = self.image_shape_
        patch = (min(self.patch_size, height), min(self.patch_size, width))
        self._grid = (
            min(self.grid, height - patch[0] + 1),
            min(self.grid, width - patch[1] + 1),
        )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.filters_ = patch_filters(
            as_images(X, self.image_shape_, self._placement),
            self.n_filters,
            size=patch,
            contrast=self.contrast * (self._placement.reach or 1.0),
            eps=self.whitening,
            sample=self.n_whitening,
            generator=torch.Generator().manual_seed(seed),
        )
        self._n_features_out = 2 * self._grid[0] * self._grid[1] * self.n_filters
        return self

    @ordinary_mode
    def transform(self, X: np.ndarray) -> np.ndarray:
        """The features of the images of ``X``, float32 of shape (n, 2 * cells * n_filters)."""
        check_is_fitted(self)
        X, _ = image_rows(X, None)
        X = validate_data(self, X, reset=False, dtype=[np.float32, np.float64])
        cells = self._grid[0] * self._grid[1]
        out = torch.empty(len(X), 2, cells, self.n_filters)
        with torch.no_grad():
            patch_features(
                as_images(X, self.image_shape_, self._placement),
                self.filters_,
                bias=self.bias,
                grid=self._grid,
                out=out,
            )
        return out.reshape(len(X), -1).numpy()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class ArcCosineFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Random ReLU or step features, whose inner products estimate an arc-cosine kernel.

    The features are sqrt(2 / m) max(<w, x>, 0)^order for m Gaussian directions w, and max(z, 0)^0
    the step function. For x and x' at the angle t the expected inner product is 1 - t / pi for
    order 0 and |x| |x'| (sin t + (pi - t) cos t) / pi for order 1 (Cho and Saul 2009). Take
    scikit-learn's ``RBFSampler`` for random Fourier features.

    Parameters
    ----------
    n_components : int, default=100
        Number of features m.
    order : {0, 1}, default=1
        1 is the ReLU.
    random_state : int, RandomState or None

    Attributes
    ----------
    directions_ : ndarray of shape (n_features, n_components)
    n_features_in_ : int
    """

    def __init__(
        self, n_components: int = 100, *, order: int = 1, random_state: Seed = None
    ) -> None:
        self.n_components = n_components
        self.order = order
        self.random_state = random_state

    @ordinary_mode
    def fit(self, X: np.ndarray, y: object = None) -> Self:
        """Draw the directions; only the shape and dtype of ``X`` are read."""
        check_positive(self, "n_components")
        if self.order not in (0, 1):
            raise ValueError(f"order must be 0 or 1; got {self.order!r}")
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        random = check_random_state(self.random_state)
        self.directions_ = random.normal(size=(X.shape[1], self.n_components)).astype(X.dtype)
        self._n_features_out = self.n_components
        return self

    @ordinary_mode
    def transform(self, X: np.ndarray) -> np.ndarray:
        """The features, of shape (n, n_components) and the dtype of ``X``.

        Raises
        ------
        ValueError
            If a feature exceeds the dtype.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        with np.errstate(over="ignore", invalid="ignore"):
            z = X @ self.directions_.astype(X.dtype)
        if not np.isfinite(z).all():
            raise ValueError(
                f"X must be small enough for its features to be finite in {X.dtype}; it reaches "
                f"{np.abs(X).max():.3g}; divide it by a constant, or pass float64"
            )
        scale = X.dtype.type(np.sqrt(2 / self.n_components))
        if self.order == 0:
            return (z > 0) * scale
        return np.maximum(z, 0, out=z) * scale

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
