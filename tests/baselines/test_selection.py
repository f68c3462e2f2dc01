"""Selection by orthogonal least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.estimator_checks import parametrize_with_checks

from baselines.selection import OrthogonalLeastSquaresSelector, orthogonal_least_squares


@parametrize_with_checks([OrthogonalLeastSquaresSelector(2)])
def test_the_selector_follows_the_estimator_contract(estimator, check):
    check(estimator)


def slow_selection(x, target, count):
    """Try every feature with a full least squares fit at every step."""
    chosen = []
    for _ in range(count):
        errors = []
        for j in range(x.shape[1]):
            if j in chosen:
                errors.append(np.inf)
                continue
            columns = x[:, [*chosen, j]]
            fit = columns @ np.linalg.lstsq(columns, target, rcond=None)[0]
            errors.append(((target - fit) ** 2).sum())
        chosen.append(int(np.argmin(errors)))
    columns = x[:, chosen]
    return chosen, target - columns @ np.linalg.lstsq(columns, target, rcond=None)[0]


@given(seed=st.integers(0, 999), count=st.integers(1, 5))
def test_each_step_takes_the_feature_with_the_least_residual(seed, count):
    random = np.random.default_rng(seed)
    x = random.normal(size=(30, 8)) @ random.normal(size=(8, 8))
    x -= x.mean(0)
    targets = random.normal(size=(30, 2))
    targets -= targets.mean(0)
    chosen, residuals = orthogonal_least_squares(
        torch.from_numpy(x), torch.from_numpy(targets), count
    )
    for k in range(2):
        expected, left = slow_selection(x, targets[:, k], count)
        assert chosen[k].tolist() == expected
        np.testing.assert_allclose(residuals[:, k], left, atol=1e-8)


def problem(seed=0, n=200, p=30):
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, n)
    X = random.normal(size=(n, p))
    X[:, 5] += 2 * (y == 0)
    X[:, 17] += 2 * (y == 1)
    return X, y


def test_coordinates_are_uncorrelated_in_a_class_and_features_are_not_taken_twice():
    X, y = problem()
    model = OrthogonalLeastSquaresSelector(4, rounds=2).fit(X, y)
    z = model.transform(X)
    assert z.shape == (200, 2 * 3 * 4)
    for block in np.split(z, 6, axis=1):
        np.testing.assert_allclose(block.T @ block / 200, np.eye(4), atol=1e-6)
    first, second = model.selected_[:3], model.selected_[3:]
    assert not set(np.concatenate(first)) & set(np.concatenate(second))
    assert model.selected_[0][0] == 5
    assert model.selected_[1][0] == 17


def test_a_feature_that_repeats_another_is_passed_over():
    X, y = problem(p=20)
    X = np.concatenate([X, X[:, [5]]], axis=1)
    model = OrthogonalLeastSquaresSelector(10, rounds=1).fit(X, y)
    for features in model.selected_:
        assert not {5, 20} <= set(features.tolist())


@pytest.mark.parametrize("arguments", [{"n_selected": 0}, {"rounds": 1.5}])
def test_bad_arguments_are_named(arguments):
    name, value = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f"{name} must be an integer above 0; got {value}"):
        OrthogonalLeastSquaresSelector(**arguments).fit(*problem())
