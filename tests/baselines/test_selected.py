"""Selection on a draw of the rows, the others in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.estimator_checks import parametrize_with_checks

from baselines.selected import SelectedFeatures
from baselines.selection import OrthogonalLeastSquaresSelector


def selected(**options):
    selector = OrthogonalLeastSquaresSelector(3, copy=False)
    return SelectedFeatures(PolynomialFeatures(2), selector, random_state=0, **options)


@parametrize_with_checks([selected(max_rows=15, batch_size=4)])
def test_selected_features_follow_the_estimator_contract(estimator, check):
    check(estimator)


@pytest.fixture
def task():
    random = np.random.default_rng(0)
    X = random.normal(size=(60, 5))
    return X, np.digitize(X[:, 0] * X[:, 1] + X[:, 2], [-0.5, 0.5])


def test_a_draw_of_all_rows_is_the_pipeline(task):
    X, y = task
    plain = make_pipeline(PolynomialFeatures(2), OrthogonalLeastSquaresSelector(3))
    expected = plain.fit_transform(X, y)
    ours = selected(max_rows=60)
    np.testing.assert_allclose(ours.fit_transform(X, y), expected, atol=1e-10)
    np.testing.assert_allclose(ours.transform(X[:7]), expected[:7], atol=1e-10)


def test_what_is_selected_depends_on_the_drawn_rows_alone(task):
    X, y = task
    ours = selected(max_rows=30, batch_size=7).fit(X, y)
    drawn = ours.drawn_
    assert len(drawn) == 30
    again = make_pipeline(PolynomialFeatures(2), OrthogonalLeastSquaresSelector(3))
    again.fit(X[drawn], y[drawn])
    np.testing.assert_allclose(ours.transform(X), again.transform(X), atol=1e-10)


@pytest.mark.parametrize("batch_size", [1, 13, 100])
def test_the_size_of_blocks_changes_nothing(task, batch_size):
    X, y = task
    ours = selected(max_rows=20, batch_size=batch_size)
    expected = selected(max_rows=20, batch_size=50).fit(X, y).transform(X)
    np.testing.assert_allclose(ours.fit_transform(X, y), expected, atol=1e-10)


def test_the_draw_holds_every_class_in_its_share():
    y = np.repeat([0, 1, 2], [60, 30, 10])
    X = np.random.default_rng(1).normal(size=(100, 4))
    ours = selected(max_rows=50).fit(X, y)
    assert np.bincount(y[ours.drawn_]).tolist() == [30, 15, 5]


def test_fewer_rows_than_classes_are_refused(task):
    with pytest.raises(ValueError, match="max_rows must be at least the number of classes, 3"):
        selected(max_rows=2).fit(*task)


def test_standardizing_in_place_selects_the_same(task):
    X, y = task
    kept = OrthogonalLeastSquaresSelector(2).fit(X, y)
    overwritten = OrthogonalLeastSquaresSelector(2, copy=False)
    given = X.copy()
    np.testing.assert_allclose(overwritten.fit_transform(given, y), kept.transform(X), atol=1e-10)
    np.testing.assert_allclose(given.std(0), 1)
