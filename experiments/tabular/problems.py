"""The small classification problems of `experiments.tabular`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn import datasets
from sklearn.model_selection import train_test_split

Maker = Callable[[int], tuple[np.ndarray, np.ndarray]]

_MAKERS: dict[str, Maker] = {
    "iris": lambda seed: datasets.load_iris(return_X_y=True),
    "wine": lambda seed: datasets.load_wine(return_X_y=True),
    "breast-cancer": lambda seed: datasets.load_breast_cancer(return_X_y=True),
    "digits": lambda seed: datasets.load_digits(return_X_y=True),
    "moons": lambda seed: datasets.make_moons(400, noise=0.3, random_state=seed),
    "circles": lambda seed: datasets.make_circles(400, noise=0.2, factor=0.5, random_state=seed),
    "clusters-20": lambda seed: datasets.make_classification(
        500, 20, n_informative=5, n_redundant=5, n_classes=3, random_state=seed
    ),
    "clusters-50": lambda seed: datasets.make_classification(
        400, 50, n_informative=10, flip_y=0.05, random_state=seed
    ),
    "shells": lambda seed: datasets.make_gaussian_quantiles(
        n_samples=500, n_features=10, n_classes=3, random_state=seed
    ),
    "hastie": lambda seed: datasets.make_hastie_10_2(600, random_state=seed),
    "blobs": lambda seed: datasets.make_blobs(
        400, n_features=10, centers=8, cluster_std=4.0, random_state=seed
    ),
}


def table(problem: str, max_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (n, d) and classes (n,) of a problem, at most ``max_rows`` of them."""
    X, y = _MAKERS[problem](seed)
    y = np.unique(y, return_inverse=True)[1]
    if len(X) > max_rows:
        X, _, y, _ = train_test_split(X, y, train_size=max_rows, stratify=y, random_state=seed)
    return np.asarray(X, dtype=np.float64), y
