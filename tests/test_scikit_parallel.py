"""scikit-learn's parallelism: a search in loky's processes and on Dask gives what one gives."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from baselines import RidgeHead
from tangent import LazyClassifier, TangentFeatures, TangentKernelClassifier, mlp
from tangent.estimators import Perceptron
from tests.processes import cluster
from tests.test_every_estimator import ESTIMATORS, data, plain_mlp

ROOT = Path(__file__).parents[1]


def network(seed):
    """A module, a parameter of an estimator like any other."""
    return mlp(64, 3, hidden=(6,), generator=torch.Generator().manual_seed(seed)).double()


SEARCHES = {
    "kernel of modules": (
        TangentKernelClassifier(random_state=0, ridge=0.1),
        {"model": [network(0), network(1), Perceptron("tanh", 1, 6, 1.0)]},
    ),
    "lazy with a module": (
        LazyClassifier(network(0), epochs=1, lr=0.01, check_lr=False, random_state=0),
        {"alpha": [1.0, 100.0], "model": [network(2), plain_mlp]},
    ),
    "pipeline": (
        make_pipeline(TangentFeatures(network(0), n_components=5, random_state=0), RidgeHead()),
        {"ridgehead__alpha": [0.1, 1.0]},
    ),
}


def scores(name, n_jobs=None):
    estimator, grid = SEARCHES[name]
    X, y = data()
    search = GridSearchCV(estimator, grid, cv=2, n_jobs=n_jobs, error_score="raise").fit(X, y)
    assert search.best_estimator_.predict(X).shape == y.shape
    return search.cv_results_["mean_test_score"]


@pytest.fixture
def path(monkeypatch):
    """Workers import this module by name."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))


def test_searches_in_two_processes_of_loky_give_what_one_gives(path):
    with joblib.parallel_backend("loky", n_jobs=2):
        for name in SEARCHES:
            np.testing.assert_allclose(scores(name, n_jobs=2), scores(name), err_msg=name)


def test_searches_on_dask_give_what_one_process_gives(path):
    distributed = pytest.importorskip("distributed")
    with (
        cluster() as workers,
        distributed.Client(workers),
        joblib.parallel_backend("dask"),
    ):
        for name in SEARCHES:
            np.testing.assert_allclose(scores(name, n_jobs=2), scores(name), err_msg=name)


def _answers(estimator, X, y):
    fitted = estimator.fit(X, y)
    return np.asarray(fitted.predict(X) if hasattr(fitted, "predict") else fitted.transform(X))


def test_every_estimator_fits_in_processes_of_loky(path):
    X, y = data()
    made = joblib.Parallel(n_jobs=2, backend="loky")(
        joblib.delayed(_answers)(clone(one), X, y) for one in ESTIMATORS.values()
    )
    for (name, one), found in zip(ESTIMATORS.items(), made, strict=True):
        expected = _answers(clone(one), X, y)
        if is_classifier(one) and not is_regressor(one):
            np.testing.assert_array_equal(found, expected, err_msg=name)
        else:
            np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=name)
