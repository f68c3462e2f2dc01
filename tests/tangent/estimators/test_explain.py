"""What predictions rest on, against sums, refits and scores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_iris

from tangent import TangentKernelClassifier
from tangent.estimators import Perceptron
from tangent.estimators._dual import dual_fit

SMALL = Perceptron("sincos", 1, 16, 0.6)


@pytest.fixture(scope="module")
def data():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    return X[::3], names[::3], X[1:20:6]


def fitted(data, weight=None, **options):
    given = {"model": SMALL, "n_ensemble": 1, "random_state": 0, "loss": "square", "ridge": 0.01}
    return TangentKernelClassifier(**given | options).fit(data[0], data[1], weight)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "cross_entropy"},
        {"outputs": "full", "model": "mlp", "width": 0.05},
        {"solver": "cg", "tolerance": 1e-10},
        {"time": 50.0},
        {"fit_intercept": False},
    ],
    ids=str,
)
def test_contributions_and_constant_sum_to_the_scores(data, options):
    model = fitted(data, **options)
    found = model.explain(data[2])
    total = found.contributions.sum(1) + found.constant
    np.testing.assert_allclose(total, found.scores, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.scores, model.decision_function(data[2]), atol=1e-6)
    assert (found.influence is not None) == (not {"loss", "outputs", "solver", "time"} & {*options})


def test_of_two_classes_the_difference_is_what_decides(data):
    two = data[1] != "virginica"
    model = fitted((data[0][two], data[1][two]))
    scores = model.explain(data[2]).scores
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], model.decision_function(data[2]))


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_influence_is_what_a_refit_without_the_row_changes(data, intercept, weighted):
    X, _, new = data
    weight = np.linspace(0.5, 2, len(X)) if weighted else None
    model = fitted(data, weight, fit_intercept=intercept)
    found, fit = model.explain(new), model.fit_
    kernel = model.kernel_(model.inputs_)
    cross = model.kernel_(model._inputs(new), model.inputs_)
    weights = fit.root**2
    for i in (0, 7, 30):
        rest = np.arange(len(kernel)) != i
        options = {"time": None, "intercept": intercept}
        some = (kernel[rest][:, rest], model.targets_[rest], weights[rest])
        unit = dual_fit(*some, ridges=[1.0], **options).unit
        again = dual_fit(*some, ridges=[fit.ridge * fit.unit / unit], **options)
        scores = (cross[:, rest] @ again.coefficients + again.constant) * model.temperature_
        np.testing.assert_allclose(
            found.influence[:, i], found.scores - scores.numpy(), rtol=1e-6, atol=1e-7
        )


def test_rows_are_those_of_the_training_set(data):
    X, y, new = data
    twice = np.concatenate([X[:1], X]), np.concatenate([y[:1], y])
    weight = np.ones(len(y) + 1)
    weight[5] = 0
    found = fitted(twice, weight).explain(new)
    assert found.rows.tolist() == [i for i in range(len(y) + 1) if i not in (1, 5)]
    assert found.contributions.shape == (len(new), len(y) - 1, 3)


def test_speakers_are_the_strongest_and_name_rows_of_the_class(data):
    model = fitted(data)
    found = model.explain(data[2])
    for index, label in enumerate(model.predict(data[2])):
        for_it, against = found.speakers(index, count=3)
        assert data[1][for_it[0][0]] == label
        column = found.contributions[index, :, list(model.classes_).index(label)]
        assert for_it[0][1] == column.max()
        assert against[0][1] == column.min()
        assert len(for_it) == len(against) == 3
        assert found.speakers(index, by="influence")[0]


def test_what_there_is_not_is_named(data):
    found = fitted(data, loss="cross_entropy").explain(data[2])
    with pytest.raises(ValueError, match="loss='square'"):
        found.speakers(0, by="influence")
    with pytest.raises(ValueError, match="by must be"):
        found.speakers(0, by="weight")
