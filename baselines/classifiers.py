"""Ready classifiers: features and a head, read in blocks of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self, get_args

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from baselines.arguments import Flips, Ridges, Seed
from baselines.gaussian import GaussianKernelHead
from baselines.images import mirrored, shape_of_rows
from baselines.linear import (
    Block,
    FitsBlocks,
    PredictsLargest,
    RidgeHead,
    checked_classes,
    checked_magnitude,
    weights_of,
)
from baselines.random_features import ArcCosineFeatures, RandomPatchFeatures
from baselines.scattering import RotoTranslationScattering, ScatteringFeatures
from baselines.selected import SelectedFeatures
from baselines.selection import OrthogonalLeastSquaresSelector
from tangent.machine.bars import counted
from tangent.machine.images import image_rows
from tangent.machine.modes import ordinary_mode

FLIPS = get_args(Flips)


class StreamedClassifier(PredictsLargest, ClassifierMixin, BaseEstimator):
    """A transformer and a head, with the features made in blocks and used as they come.

    The features of all rows exist at once only where the head keeps them: a ridge head with more
    rows than features holds one block and its normal equations.

    Parameters
    ----------
    features : transformer, optional
        Fitted on all rows; ``None`` takes the rows as they are.
    head : RidgeHead or GaussianKernelHead, optional
        ``None`` is ``RidgeHead()``. Any head with a ``fit_blocks`` method will do.
    flips : {"none", "average", "double"}, default="none"
        Mirror images. "average": the mean of the features of a row and of its mirror image.
        "double": twice the rows to train on, and the mean of the two scores to predict with.
    image_shape : tuple of (channels, height, width), optional
        What is mirrored; ``flips`` other than "none" needs it, or images of shape (n, channels,
        height, width), which the parts are told of, too.
    batch_size : int, default=1000
        Rows in a block.
    stream : bool, default=True
        Make the features of the training rows in blocks, after fitting. ``False`` makes them all at
        once while fitting, which saves making them twice where fitting needs them as well.

    Attributes
    ----------
    features_, head_ : the fitted parts
    classes_ : ndarray
    n_features_in_ : int
    """

    def __init__(
        self,
        features: TransformerMixin | None = None,
        head: FitsBlocks | None = None,
        *,
        flips: Flips = "none",
        image_shape: tuple[int, ...] | None = None,
        batch_size: int = 1000,
        stream: bool = True,
    ) -> None:
        self.features = features
        self.head = head
        self.flips = flips
        self.image_shape = image_shape
        self.batch_size = batch_size
        self.stream = stream

    @ordinary_mode
    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Self:
        """Fit the features on ``X``, then the head on their blocks."""
        if self.flips not in FLIPS:
            raise ValueError(f"flips must be one of {FLIPS}; got {self.flips!r}")
        X, shape = image_rows(X, self.image_shape)
        if self.flips != "none" and shape is None:
            raise ValueError(
                f"flips={self.flips!r} needs image_shape, the shape of what is mirrored; got None"
            )
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"batch_size must be an integer above 0; got {self.batch_size!r}")
        X, y = validate_data(self, X, y, dtype=[np.float32, np.float64])
        self.image_shape_ = shape_of_rows(shape, X.shape[1])
        weight = weights_of(sample_weight, X)
        self.classes_ = checked_classes(y, weight)
        self.features_ = None if self.features is None else _of_images(self.features, shape)
        made = None
        if self.features_ is not None:
            if self.stream:
                self.features_.fit(X, y)
            else:
                made = np.asarray(self.features_.fit_transform(X, y))
        self.head_ = RidgeHead() if self.head is None else _of_images(self.head, shape)
        rows = len(X) * (2 if self.flips == "double" else 1)
        self.head_.fit_blocks(self._training_blocks(X, y, weight, made), self.classes_, rows)
        return self

    @ordinary_mode
    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Scores of shape (n, n_classes); for two classes (n,), positive for the second."""
        check_is_fitted(self)
        X, _ = image_rows(X, None)
        X = validate_data(self, X, reset=False, dtype=[np.float32, np.float64])
        scores = []
        for start in counted(range(0, len(X), self.batch_size), "block of scores"):
            x = X[start : start + self.batch_size]
            if self.flips == "double":
                both = (x, mirrored(x, self.image_shape_))
                scores.append(sum(self.head_.decision_function(self._made(z)) for z in both) / 2)
            else:
                scores.append(self.head_.decision_function(self._features(x)))
        return np.concatenate(scores)

    def _made(self, x: np.ndarray) -> np.ndarray:
        return x if self.features_ is None else np.asarray(self.features_.transform(x))

    def _features(self, x: np.ndarray, made: np.ndarray | None = None) -> np.ndarray:
        made = self._made(x) if made is None else made
        if self.flips == "average":
            made = (made + self._made(mirrored(x, self.image_shape_))) / made.dtype.type(2)
        return made

    def _training_blocks(
        self, X: np.ndarray, y: np.ndarray, weight: np.ndarray | None, made: np.ndarray | None
    ) -> Iterator[Block]:
        for start in counted(range(0, len(X), self.batch_size), "block of rows"):
            rows = slice(start, start + self.batch_size)
            w = None if weight is None else weight[rows]
            known = None if made is None else made[rows]
            yield Block(self._features(X[rows], known), y[rows], w)
            if self.flips == "double":
                yield Block(self._made(mirrored(X[rows], self.image_shape_)), y[rows], w)


def _of_images(part: Any, shape: Any) -> Any:
    """A copy of a part, told the images' shape where it asks for one and was given none."""
    made = clone(part)
    if shape is not None and made.get_params().get("image_shape", shape) is None:
        made.set_params(image_shape=shape)
    return made


def _head(head: str | FitsBlocks, random_state: Seed) -> FitsBlocks:
    if head == "ridge":
        return RidgeHead()
    if head == "gaussian":
        return GaussianKernelHead(random_state=random_state)
    if isinstance(head, str):
        raise ValueError(f"head must be 'ridge', 'gaussian' or an estimator; got {head!r}")
    return head


def random_patch_classifier(
    n_filters: int = 1024,
    *,
    head: str | FitsBlocks = "ridge",
    flips: Flips = "none",
    image_shape: tuple[int, ...] | None = None,
    batch_size: int = 1000,
    random_state: Seed = None,
    **features: Any,
) -> StreamedClassifier:
    """A classifier on ``RandomPatchFeatures``.

    Parameters
    ----------
    n_filters : int
    head : {"ridge", "gaussian"} or estimator
    flips : {"none", "average", "double"}
    image_shape : tuple of (channels, height, width), optional
    batch_size : int
        Images in a block; for ridge, products are fastest from some 1,000 on.
    random_state : int, RandomState or None
    **features
        Further arguments of ``RandomPatchFeatures``.
    """
    transformer = RandomPatchFeatures(
        n_filters, image_shape=image_shape, random_state=random_state, **features
    )
    return StreamedClassifier(
        transformer,
        _head(head, random_state),
        flips=flips,
        image_shape=image_shape,
        batch_size=batch_size,
    )


def scattering_classifier(
    J: int = 2,
    *,
    head: str | FitsBlocks = "gaussian",
    flips: Flips = "none",
    image_shape: tuple[int, ...] | None = None,
    batch_size: int = 1000,
    stream: bool = False,
    random_state: Seed = None,
    **features: Any,
) -> StreamedClassifier:
    """A classifier on ``ScatteringFeatures``; arguments as for ``random_patch_classifier``.

    ``stream=True`` transforms the training images twice and never holds all of their features,
    which suits a ridge head with more images than features.
    """
    return StreamedClassifier(
        ScatteringFeatures(J, image_shape=image_shape, **features),
        _head(head, random_state),
        flips=flips,
        image_shape=image_shape,
        batch_size=batch_size,
        stream=stream,
    )


def roto_translation_classifier(
    n_selected: int = 200,
    *,
    head: str | FitsBlocks = "gaussian",
    flips: Flips = "none",
    image_shape: tuple[int, ...] | None = None,
    batch_size: int = 500,
    max_rows: int = 20_000,
    random_state: Seed = None,
    **features: Any,
) -> StreamedClassifier:
    """A classifier on selected ``RotoTranslationScattering`` coefficients.

    Parameters
    ----------
    n_selected : int
        Features for each class and each of two rounds.
    head : {"ridge", "gaussian"} or estimator
        "gaussian" is a kernel of width 0.7.
    flips, image_shape, batch_size, random_state
        As for ``random_patch_classifier``.
    max_rows : int, default=20_000
        Training images that features are selected on; all of them are trained on.
    **features
        Further arguments of ``RotoTranslationScattering``.

    Notes
    -----
    Selection holds all coefficients of ``max_rows`` images: 4.9 GB for 20,000 of 32x32 RGB.
    """
    transformer = SelectedFeatures(
        RotoTranslationScattering(image_shape=image_shape, **features),
        OrthogonalLeastSquaresSelector(n_selected, copy=False),
        max_rows=max_rows,
        batch_size=batch_size,
        random_state=random_state,
    )
    if head == "gaussian":
        head = GaussianKernelHead(0.7, random_state=random_state)
    return StreamedClassifier(
        transformer,
        _head(head, random_state),
        flips=flips,
        image_shape=image_shape,
        batch_size=batch_size,
        stream=False,
    )


def gaussian_kernel_classifier(
    n_components: int = 2000,
    *,
    method: Literal["nystroem", "fourier"] = "nystroem",
    alpha: Ridges = (1e-6, 1e-5, 1e-4, 1e-3),
    flips: Flips = "none",
    image_shape: tuple[int, ...] | None = None,
    random_state: Seed = None,
) -> StreamedClassifier:
    """scikit-learn's own Gaussian kernel approximation on standardized pixels, and ridge.

    Parameters
    ----------
    n_components : int
        Landmarks (at most the number of training rows are used) or random frequencies.
    method : {"nystroem", "fourier"}
        ``Nystroem``, or ``RBFSampler`` (random Fourier features).
    alpha : float or tuple of float
        Ridges of ``RidgeHead``, on features as they come: in the kernel's own norm.
    flips, image_shape
        As for ``StreamedClassifier``.
    random_state : int, RandomState or None

    Notes
    -----
    The kernel is exp(-|x - x'|^2 / p) for p standardized pixels. In float64: the landmarks' kernel
    is inverted, which float32 does not survive.
    """
    if method == "nystroem":
        kernel = Nystroem(gamma=None, n_components=n_components, random_state=random_state)
    elif method == "fourier":
        kernel = RBFSampler(gamma="scale", n_components=n_components, random_state=random_state)
    else:
        raise ValueError(f"method must be 'nystroem' or 'fourier'; got {method!r}")
    return StreamedClassifier(
        _on_standardized_pixels(kernel),
        RidgeHead(alpha, standardize=False),
        flips=flips,
        image_shape=image_shape,
    )


def arc_cosine_classifier(
    n_components: int = 2000,
    *,
    order: int = 1,
    flips: Flips = "none",
    image_shape: tuple[int, ...] | None = None,
    random_state: Seed = None,
) -> StreamedClassifier:
    """Random ReLU features of standardized pixels and ridge; arguments as for the others."""
    return StreamedClassifier(
        _on_standardized_pixels(
            ArcCosineFeatures(n_components, order=order, random_state=random_state)
        ),
        RidgeHead((0.001, 0.01, 0.1, 1.0)),
        flips=flips,
        image_shape=image_shape,
    )


class _Float64Scaler(StandardScaler):
    """Standardization in float64, of values whose squares a float64 can hold."""

    def fit(self, X: np.ndarray, y: object = None, sample_weight: np.ndarray | None = None) -> Self:
        return super().fit(_as_float64(X), y, sample_weight)

    def transform(self, X: np.ndarray, copy: bool | None = None) -> np.ndarray:
        return super().transform(_as_float64(X), copy)


def _on_standardized_pixels(features: TransformerMixin) -> Pipeline:
    return Pipeline([("scale", _Float64Scaler()), ("features", features)])


def _as_float64(X: np.ndarray) -> np.ndarray:
    return checked_magnitude(np.asarray(X, dtype=np.float64))
