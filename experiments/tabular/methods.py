"""The classifiers of `experiments.tabular` and the grids that tune them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tangent.estimators.candidates import Perceptron
from tangent.estimators.kernel_classifier import TangentKernelClassifier
from tangent.estimators.kernel_function import TangentKernel

_GAMMAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # over the number of features


class KernelRidgeClassifier(ClassifierMixin, BaseEstimator):
    """Gaussian kernel ridge regression on one-hot targets; the largest output is the class."""

    def __init__(self, alpha: float = 1.0, gamma: float | None = None) -> None:
        self.alpha = alpha
        self.gamma = gamma

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Fit; y of shape (n,). Returns self."""
        self.classes_, labels = np.unique(y, return_inverse=True)
        targets = np.eye(len(self.classes_))[labels]
        self.mean_ = targets.mean(axis=0)
        self.ridge_ = KernelRidge(alpha=self.alpha, kernel="rbf", gamma=self.gamma)
        self.ridge_.fit(X, targets - self.mean_)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of the largest output."""
        return self.classes_[(self.ridge_.predict(X) + self.mean_).argmax(axis=1)]


def method(name: str, inner_folds: int, seed: int, n_features: int) -> Any:
    """Return the unfitted classifier called ``name``, tuning included."""
    if name == "tangent-kernel":
        return TangentKernelClassifier(random_state=seed)
    model, grid = _tuned(name, seed, n_features)
    folds = StratifiedKFold(inner_folds, shuffle=True, random_state=seed)
    return GridSearchCV(model, grid, cv=folds)


def _tuned(name: str, seed: int, n_features: int) -> tuple[Any, dict[str, Any]]:
    gammas = [gamma / n_features for gamma in _GAMMAS]
    if name == "tangent-kernel-svc":
        kernels = [
            TangentKernel(Perceptron("sincos", 1, 512, gain), random_state=seed)
            for gain in (0.15, 0.3, 0.6, 1.0)
        ]
        kernels.append(TangentKernel(Perceptron("gelu", 2, 512), random_state=seed))
        return make_pipeline(StandardScaler(), SVC()), {
            "svc__C": [0.1, 1.0, 10.0, 100.0, 1000.0],
            "svc__kernel": kernels,
        }
    if name == "svc":
        return make_pipeline(StandardScaler(), SVC()), {
            "svc__C": [0.1, 1.0, 10.0, 100.0, 1000.0],
            "svc__gamma": gammas,
        }
    if name == "kernel-ridge":
        return make_pipeline(StandardScaler(), KernelRidgeClassifier()), {
            "kernelridgeclassifier__alpha": np.logspace(-4, 1, 6).tolist(),
            "kernelridgeclassifier__gamma": gammas,
        }
    if name == "random-forest":
        return RandomForestClassifier(200, random_state=seed), {
            "max_features": ["sqrt", 0.3, 0.6],
            "min_samples_leaf": [1, 3, 8],
        }
    return HistGradientBoostingClassifier(random_state=seed), {
        "learning_rate": [0.05, 0.2],
        "max_leaf_nodes": [4, 16],
        "min_samples_leaf": [5, 20],
    }


def chosen(model: Any) -> str:
    """Return what the tuning took, in words."""
    if isinstance(model, GridSearchCV):
        parts = {key.rsplit("__", 1)[-1]: value for key, value in model.best_params_.items()}
        return ", ".join(f"{key}={_short(value)}" for key, value in sorted(parts.items()))
    return f"{model.chosen_model_}, {model.loss_}, ridge={model.ridge_:.3g}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(getattr(value, "model", value))
