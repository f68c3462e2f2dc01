"""The ridge head."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from baselines.linear import Block, RidgeHead
from baselines.moments import Moments, Rows, dual_ridge, gcv, primal_ridge


@parametrize_with_checks([RidgeHead(), RidgeHead(0.1)])
def test_the_ridge_head_follows_the_estimator_contract(estimator, check):
    check(estimator)


def problem(n, p, k=3, seed=0):
    random = np.random.default_rng(seed)
    X = 5 + random.normal(size=(n, p)) * np.arange(1, p + 1)
    y = random.integers(0, k, n)
    y[:k] = np.arange(k)
    return X, np.array(["cat", "dog", "owl", "fox"])[y]


@given(n=st.integers(5, 40), p=st.integers(1, 60), seed=st.integers(0, 99))
def test_the_head_is_ridge_on_standardized_features(n, p, seed):
    X, y = problem(n, p, seed=seed)
    alpha = 0.05
    head = RidgeHead(alpha).fit(X, y)
    Z = (X - X.mean(0)) / X.std(0)
    targets = (y[:, None] == head.classes_) * 1.0
    oracle = Ridge(alpha * n).fit(Z, targets)
    np.testing.assert_allclose(head.decision_function(X), oracle.predict(Z), atol=1e-9)


@given(n=st.integers(10, 30), p=st.integers(2, 40), seed=st.integers(0, 99))
def test_primal_and_dual_agree_with_weights(n, p, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=generator, dtype=torch.float64) + 3
    y = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
    moments = Moments.like(x[: n // 2], 2)
    moments.add(x[: n // 2], y[: n // 2], weight[: n // 2], columns=3)
    moments.add(x[n // 2 :], y[n // 2 :], weight[n // 2 :])
    primal = primal_ridge(moments, (0.1,))
    dual = dual_ridge(x, y, weight, (0.1,), columns=7)
    np.testing.assert_allclose(primal.coef, dual.coef, atol=1e-10)
    np.testing.assert_allclose(primal.intercept, dual.intercept, atol=1e-9)


@pytest.mark.parametrize(("n", "p"), [(60, 20), (60, 90)])
def test_the_score_of_a_ridge_is_generalized_cross_validation(n, p):
    X, y = problem(n, p)
    head = RidgeHead((0.01, 0.1, 1.0)).fit(X, y)
    Z = (X - X.mean(0)) / X.std(0)
    targets = (y[:, None] == head.classes_) * 1.0
    targets -= targets.mean(0)
    for alpha, score in head.gcv_.items():
        hat = Z @ np.linalg.solve(Z.T @ Z + alpha * n * np.eye(p), Z.T)
        exact = gcv(((targets - hat @ targets) ** 2).sum(), np.trace(hat), n)
        assert score == pytest.approx(exact)


@pytest.mark.parametrize(("n", "p"), [(60, 20), (60, 90)])
def test_the_ridge_taken_has_the_best_accuracy_on_rows_left_out(n, p):
    X, y = problem(n, p)
    head = RidgeHead((0.01, 0.1, 1.0)).fit(X, y)
    Z = (X - X.mean(0)) / X.std(0)
    targets = (y[:, None] == head.classes_) * 1.0
    for alpha, accuracy in head.left_out_accuracy_.items():
        hat = Z @ np.linalg.solve(Z.T @ Z + alpha * n * np.eye(p), Z.T) + 1 / n
        leverages = np.diag(hat)
        scores = targets - (targets - hat @ targets) / (1 - leverages)[:, None]
        assert accuracy == np.mean(scores.argmax(1) == targets.argmax(1))
    best = max(head.left_out_accuracy_.values())
    assert head.left_out_accuracy_[head.alpha_] == best > min(head.left_out_accuracy_.values())


@pytest.mark.parametrize("p", [40, 8])
def test_leaving_rows_out_in_closed_form_is_leaving_them_out(p):
    X, y = problem(30, p)
    head = RidgeHead((0.1, 10.0), standardize=False).fit(X, y)
    for alpha, accuracy in head.left_out_accuracy_.items():
        right = []
        for i in range(30):
            kept = np.arange(30) != i
            # the ridge is a multiple of the number of rows
            other = RidgeHead(alpha * 30 / 29, standardize=False).fit(X[kept], y[kept])
            right.append(other.predict(X[[i]])[0] == y[i])
        assert accuracy == pytest.approx(np.mean(right))


def test_rows_that_weigh_more_than_others_do_not_mislead_the_choice_of_the_ridge():
    # 60 rows, 40 features, six rows twenty times as long: at the mean leverage 1e-4 would win
    random = np.random.default_rng(152)
    X = random.normal(size=(60, 40))
    y = (X[:, 0] + random.normal(size=60) > 0).astype(int)
    X[:6] *= 20
    head = RidgeHead((1e-4, 1e-2), standardize=False).fit(X, y)
    truth = {}
    for alpha in (1e-4, 1e-2):
        right = 0
        for i in range(60):
            kept = np.arange(60) != i
            other = Ridge(alpha * 60).fit(X[kept], np.eye(2)[y[kept]])
            right += other.predict(X[[i]])[0].argmax() == y[i]
        truth[alpha] = right / 60
    assert head.left_out_accuracy_ == pytest.approx(truth)
    assert truth[1e-2] > truth[1e-4]
    assert head.alpha_ == 1e-2


@given(n=st.integers(25, 40), p=st.integers(2, 20), seed=st.integers(0, 99))
def test_rows_left_out_weigh_the_same_in_the_primal_and_the_dual(n, p, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=generator, dtype=torch.float64) + 3
    y = torch.eye(2, dtype=torch.float64)[torch.randint(0, 2, (n,), generator=generator)]
    weight = torch.randint(0, 4, (n,), generator=generator).double() + 0.5
    moments = Moments.like(x, 2)
    moments.add(x, y, weight)
    primal = primal_ridge(moments, (0.01, 1.0), rows=Rows(x, y, weight))
    dual = dual_ridge(x, y, weight, (0.01, 1.0))
    assert primal.accuracies == pytest.approx(dual.accuracies)


def test_many_features_get_nearly_the_same_score_from_random_probes(monkeypatch):
    X, y = problem(600, 300)
    exact = RidgeHead((0.03, 0.1)).fit(X, y)
    monkeypatch.setattr("baselines.moments.N_EXACT", 0)
    probed = RidgeHead((0.03, 0.1)).fit(X, y)
    for alpha, score in exact.gcv_.items():
        assert probed.gcv_[alpha] == pytest.approx(score, rel=0.05)
        assert probed.gcv_[alpha] != score


@given(size=st.integers(1, 30), p=st.integers(2, 40))
def test_blocks_and_partial_fits_give_what_one_fit_gives(size, p):
    X, y = problem(30, p)
    whole = RidgeHead(0.1).fit(X, y)
    blocks = [Block(X[i : i + size], y[i : i + size]) for i in range(0, 30, size)]
    streamed = RidgeHead(0.1).fit_blocks(blocks, np.unique(y), 30)
    grown = RidgeHead(0.1)
    for block in blocks:
        grown.partial_fit(block.X, block.y, classes=np.unique(y))
    expected = whole.decision_function(X)
    np.testing.assert_allclose(streamed.decision_function(X), expected, atol=1e-9)
    np.testing.assert_allclose(grown.decision_function(X), expected, atol=1e-9)


def test_float32_normal_equations_survive_a_mean_a_thousand_deviations_away():
    X, y = problem(400, 6)
    X = X / np.arange(1, 7) + 1000
    single = RidgeHead(0.01).fit(X.astype(np.float32), y).decision_function(X.astype(np.float32))
    double = RidgeHead(0.01).fit(X, y).decision_function(X)
    # 1000 in float32 is good to 6e-5 of a deviation
    np.testing.assert_allclose(single, double, atol=2e-3)


def test_a_grid_search_over_a_pipeline_works_and_a_pickle_predicts_the_same():
    X, y = problem(60, 5)
    search = GridSearchCV(
        make_pipeline(MinMaxScaler(), RidgeHead()), {"ridgehead__alpha": [0.01, 1.0]}, cv=2
    ).fit(X, y)
    again = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))
    assert clone(search.best_estimator_).named_steps["ridgehead"].alpha in (0.01, 1.0)


@pytest.mark.parametrize("alpha", [0, -1.0, (), (0.1, np.nan), ("x",)])
def test_a_ridge_that_is_not_positive_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be a number above 0 or several of them; got"):
        RidgeHead(alpha).fit(*problem(9, 2))


def test_labels_outside_the_classes_are_named():
    X, y = problem(9, 2)
    with pytest.raises(ValueError, match=r"y must hold only labels of classes.*got \['fox'\]"):
        RidgeHead().partial_fit(X, np.where(y == "owl", "fox", y), classes=["cat", "dog", "owl"])
