"""scikit-learn estimators of lazy, linearized and tangent-kernel models."""

from tangent.estimators.lazy import LazyClassifier, LazyRegressor

__all__ = ["LazyClassifier", "LazyRegressor"]
