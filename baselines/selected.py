"""Features of which a few are selected, on as many rows as memory holds all of them for."""

from __future__ import annotations

from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.model_selection import train_test_split
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from baselines.arguments import Seed, check_positive
from baselines.linear import checked_classes
from tangent.machine.bars import counted
from tangent.machine.modes import ordinary_mode


class SelectedFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A transformer and a supervised selector of its features.

    Of more than ``max_rows`` training rows a stratified draw is transformed in full, and the
    features' statistics and the selection are those of the draw. All other rows, in training as
    later, pass in blocks, and only their selected coordinates are kept.

    Parameters
    ----------
    features : transformer
    selector : transformer
        Fitted on the features of the draw and their labels, which it may overwrite.
    max_rows : int, default=20_000
        Training rows whose features are held at once.
    batch_size : int, default=500
        Rows in a block; bounds the working memory, not the result.
    random_state : int, RandomState or None
        Draws the rows.

    Attributes
    ----------
    features_, selector_ : the fitted parts
    drawn_ : ndarray
        Positions of the rows that were drawn, in order.
    n_features_in_ : int
    """

    def __init__(
        self,
        features: TransformerMixin,
        selector: TransformerMixin,
        *,
        max_rows: int = 20_000,
        batch_size: int = 500,
        random_state: Seed = None,
    ) -> None:
        self.features = features
        self.selector = selector
        self.max_rows = max_rows
        self.batch_size = batch_size
        self.random_state = random_state

    @ordinary_mode
    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Fit the features and select among them."""
        self._fitted(X, y)
        return self

    @ordinary_mode
    def fit_transform(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        """As ``fit(X, y).transform(X)``, with the features of each row made once."""
        X, chosen = self._fitted(X, y)
        out = np.empty((len(X), chosen.shape[1]), dtype=chosen.dtype)
        out[self.drawn_] = chosen
        rest = np.setdiff1d(np.arange(len(X)), self.drawn_, assume_unique=True)
        for start in counted(range(0, len(rest), self.batch_size), "block of images"):
            rows = rest[start : start + self.batch_size]
            out[rows] = self.selector_.transform(self.features_.transform(X[rows]))
        return out

    @ordinary_mode
    def transform(self, X: np.ndarray) -> np.ndarray:
        """The selected coordinates of the rows of ``X``."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float32, np.float64])
        starts = range(0, len(X), self.batch_size)
        parts = (X[start : start + self.batch_size] for start in starts)
        return np.concatenate(
            [self.selector_.transform(self.features_.transform(part)) for part in parts]
        )

    def _fitted(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The checked rows, and the coordinates of those that were drawn."""
        check_positive(self, "max_rows", "batch_size")
        X, y = validate_data(self, X, y, dtype=[np.float32, np.float64], ensure_min_samples=2)
        classes = checked_classes(y)
        self.drawn_ = np.arange(len(X))
        if len(X) > self.max_rows:
            if self.max_rows < len(classes):
                raise ValueError(
                    f"max_rows must be at least the number of classes, {len(classes)}; "
                    f"got {self.max_rows}"
                )
            drawn, _ = train_test_split(
                self.drawn_,
                train_size=int(self.max_rows),
                stratify=y,
                random_state=check_random_state(self.random_state),
            )
            self.drawn_ = np.sort(drawn)
        self.features_, self.selector_ = clone(self.features), clone(self.selector)
        made = self.features_.fit_transform(X[self.drawn_], y[self.drawn_])
        chosen = self.selector_.fit_transform(made, y[self.drawn_])
        self._n_features_out = chosen.shape[1]
        return X, chosen

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
