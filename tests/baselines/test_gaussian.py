"""The Gaussian kernel head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.utils.estimator_checks import parametrize_with_checks

from baselines.gaussian import GaussianKernelHead, gaussian_kernel
from baselines.moments import gcv


@parametrize_with_checks(
    [
        GaussianKernelHead(),
        GaussianKernelHead(0.5, n_landmarks=40, random_state=0),
        GaussianKernelHead(solver="conjugate", random_state=0),
    ],
    expected_failed_checks=lambda estimator: (
        {}
        if estimator.n_landmarks is None and estimator.solver == "auto"
        else {
            "check_sample_weight_equivalence_on_dense_data": "landmarks and probes are drawn for "
            "the rows, so repeated rows are met otherwise than weighted ones"
        }
    ),
)
def test_the_gaussian_head_follows_the_estimator_contract(estimator, check):
    check(estimator)


def problem(n, p, k=3, seed=0):
    random = np.random.default_rng(seed)
    y = random.integers(0, k, n)
    y[:k] = np.arange(k)
    return random.normal(size=(n, p)) + y[:, None], y


@given(n=st.integers(1, 9), m=st.integers(1, 9), p=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_kernel_is_that_of_scikit_learn(n, m, p, seed):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(n, p)), random.normal(size=(m, p))
    found = gaussian_kernel(torch.from_numpy(a), torch.from_numpy(b), 0.3)
    np.testing.assert_allclose(found, rbf_kernel(a, b, gamma=0.3), atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_exact_head_is_kernel_ridge(weighted):
    X, y = problem(50, 4)
    weight = np.random.default_rng(1).random(50) + 0.2 if weighted else None
    head = GaussianKernelHead(0.8, alpha=0.1).fit(X, y, sample_weight=weight)
    Z = (X - head.mean_) / head.scale_
    np.testing.assert_allclose(np.average(Z, axis=0, weights=weight), 0, atol=1e-12)
    np.testing.assert_allclose(np.average(Z**2, axis=0, weights=weight), 1)
    targets = (y[:, None] == head.classes_) - head.intercept_
    oracle = KernelRidge(alpha=0.1, kernel="rbf", gamma=1 / (2 * 0.8**2 * 4))
    oracle.fit(Z, targets, sample_weight=weight)
    expected = oracle.predict(Z) + head.intercept_
    np.testing.assert_allclose(head.decision_function(X), expected, atol=1e-9)


def test_all_rows_as_landmarks_span_the_exact_solution():
    X, y = problem(60, 3)
    exact = GaussianKernelHead(0.5, alpha=0.1).fit(X, y)
    landmarks = GaussianKernelHead(0.5, alpha=0.1, n_landmarks=60).fit(X, y)
    # The landmarks' ridge has a free intercept, the exact one the mean; hence the loose bound.
    difference = landmarks.decision_function(X) - exact.decision_function(X)
    assert np.abs(difference).max() < 0.05
    assert landmarks.jitter_ > 0


def test_the_score_of_a_ridge_is_generalized_cross_validation():
    X, y = problem(80, 3)
    head = GaussianKernelHead(0.5, alpha=(0.01, 0.1, 1.0)).fit(X, y)
    Z = (X - head.mean_) / head.scale_
    K = rbf_kernel(Z, gamma=1 / (2 * 0.5**2 * 3))
    targets = (y[:, None] == head.classes_) - head.intercept_
    for alpha, score in head.gcv_.items():
        hat = K @ np.linalg.inv(K + alpha * np.eye(80))
        exact = gcv(((targets - hat @ targets) ** 2).sum(), np.trace(hat), 80)
        assert score == pytest.approx(exact)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_ridge_taken_has_the_best_accuracy_on_rows_left_out_one_by_one(weighted):
    X, y = problem(40, 3)
    copies = np.random.default_rng(2).integers(1, 4, 40) if weighted else np.ones(40, int)
    head = GaussianKernelHead(0.5, alpha=(0.001, 0.1, 3.0)).fit(X, y, sample_weight=copies)
    Z = (X - head.mean_) / head.scale_
    K = rbf_kernel(Z, gamma=1 / (2 * 0.5**2 * 3))
    targets = (y[:, None] == head.classes_) - head.intercept_
    for alpha, accuracy in head.left_out_accuracy_.items():
        right = []
        for i in range(40):
            weight = copies - (np.arange(40) == i)
            dual = np.linalg.solve(K * weight + alpha * np.eye(40), targets)  # of one copy each
            right.append((K[i] * weight @ dual).argmax() == targets[i].argmax())
        assert accuracy == pytest.approx(np.average(right, weights=copies))
    best = max(head.left_out_accuracy_.values())
    assert head.left_out_accuracy_[head.alpha_] == best > min(head.left_out_accuracy_.values())


def test_with_landmarks_the_accuracy_of_a_ridge_is_that_of_the_exact_machine():
    X, y = problem(400, 3)
    alphas = (1e-3, 0.03, 1.0)
    exact = GaussianKernelHead(0.5, alpha=alphas).fit(X, y)
    landmarks = GaussianKernelHead(0.5, alpha=alphas, n_landmarks=200, random_state=0).fit(X, y)
    for alpha, accuracy in exact.left_out_accuracy_.items():
        assert landmarks.left_out_accuracy_[alpha] == pytest.approx(accuracy, abs=0.03)
    assert landmarks.left_out_accuracy_[landmarks.alpha_] == max(
        landmarks.left_out_accuracy_.values()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be a number above 0; got 0"),
        ({"n_landmarks": -3}, "n_landmarks must be an integer above 0 or None; got -3"),
        ({"alpha": -1}, "alpha must be a number above 0 or several of them; got -1"),
    ],
)
def test_bad_arguments_are_named_with_rule_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianKernelHead(**arguments).fit(*problem(9, 2))


@pytest.mark.parametrize("weighted", [False, True])
def test_conjugate_gradients_give_the_scores_of_factors(weighted):
    X, y = problem(300, 5)
    weight = np.random.default_rng(1).integers(0, 3, 300).astype(float) if weighted else None
    heads = [
        GaussianKernelHead(solver=solver, alpha=0.1).fit(X, y, sample_weight=weight)
        for solver in ("cholesky", "conjugate")
    ]
    expected, found = (head.decision_function(X) for head in heads)
    np.testing.assert_allclose(found, expected, atol=0.01)  # stopped at a residual of 0.3%


def test_an_unknown_solver_is_refused():
    X, y = problem(10, 2)
    with pytest.raises(ValueError, match="solver must be one of"):
        GaussianKernelHead(solver="lu").fit(X, y)
