"""Classifiers with infinite-width kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.utils.estimator_checks import parametrize_with_checks

from baselines import InfiniteWidthHead, StreamedClassifier, convolutional_kernels, mlp_kernels


@parametrize_with_checks([InfiniteWidthHead(), InfiniteWidthHead(kernel="nngp", depth=1)])
def test_the_head_follows_the_estimator_contract(estimator, check):
    check(estimator)


def problem(n=40, shape=(2, 4, 4), seed=0):
    random = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return random.random((n, int(np.prod(shape)))) + y[:, None] * random.random(1), y


def in_one_piece(kernel, y, alpha):
    """Scores on the training rows of kernel ridge on centred indicators, from scikit-learn."""
    hot = np.eye(3)[y]
    ridge = KernelRidge(alpha=alpha * kernel.diagonal().mean(), kernel="precomputed")
    return ridge.fit(kernel, hot - hot.mean(0)).predict(kernel) + hot.mean(0)


@pytest.mark.parametrize("name", ["ntk", "nngp"])
def test_the_mlp_head_is_kernel_ridge_on_rows_of_equal_length(name):
    X, y = problem()
    rows = X - X.mean(0)
    rows *= np.sqrt(rows.shape[1]) / np.linalg.norm(rows, axis=1, keepdims=True)
    kernel = getattr(mlp_kernels(torch.from_numpy(rows), depth=2), name).numpy()
    head = InfiniteWidthHead(kernel=name, depth=2, alpha=0.1).fit(X, y)
    np.testing.assert_allclose(head.decision_function(X), in_one_piece(kernel, y, 0.1), atol=1e-9)


@pytest.mark.parametrize("side", [None, 2])
def test_the_convolutional_head_is_kernel_ridge_on_standardized_channels(side):
    X, y = problem(12)
    images = X.reshape(12, 2, 16)
    images = images - images.mean((0, 2), keepdims=True)
    images = torch.from_numpy(images / images.std((0, 2), keepdims=True)).view(12, 2, 4, 4)
    if side:
        images = images.view(12, 2, 2, 2, 2, 2).mean((3, 5))
    kernel = convolutional_kernels(images, depth=2).ntk.numpy()
    head = InfiniteWidthHead(
        "convolutional", depth=2, alpha=0.1, image_shape=(2, 4, 4), side=side, batch_size=5
    ).fit(X, y)
    np.testing.assert_allclose(head.decision_function(X), in_one_piece(kernel, y, 0.1), atol=1e-9)


def test_weights_are_repetitions():
    X, y = problem()
    weight = 1 + np.arange(40) % 3
    weighted = InfiniteWidthHead().fit(X, y, sample_weight=weight)
    repeated = InfiniteWidthHead().fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    assert weighted.alpha_ == repeated.alpha_
    np.testing.assert_allclose(
        weighted.decision_function(X), repeated.decision_function(X), atol=1e-9
    )


def test_doubled_flips_classify_an_image_and_its_mirror_alike():
    X, y = problem(18)
    head = InfiniteWidthHead("convolutional", depth=1, image_shape=(2, 4, 4))
    model = StreamedClassifier(None, head, flips="double", image_shape=(2, 4, 4)).fit(X, y)
    mirrored = X.reshape(18, 2, 4, 4)[..., ::-1].reshape(18, -1)
    np.testing.assert_allclose(
        model.decision_function(mirrored), model.decision_function(X), atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": "rnn"}, "network must be one of"),
        ({"kernel": "rbf"}, "kernel must be one of"),
        ({"depth": 0}, "depth must be an integer above 0; got 0"),
        ({"side": 0}, "side must be an integer above 0; got 0"),
        ({"network": "convolutional"}, "needs image_shape"),
    ],
)
def test_bad_arguments_are_named_with_rule_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        InfiniteWidthHead(**arguments).fit(*problem(9))


def test_a_kernel_larger_than_the_machine_is_refused_before_it_is_made(monkeypatch):
    x, y = np.zeros((50, 4)), np.arange(50) % 2
    monkeypatch.setattr("tangent.solve.system.available_bytes", lambda: 1e5)
    monkeypatch.setattr(InfiniteWidthHead, "_kernel", None)  # not to be called
    with pytest.raises(MemoryError, match=r"39 rows would fit.*take GaussianKernelHead"):
        InfiniteWidthHead().fit(x, y)
