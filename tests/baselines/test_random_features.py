"""Convolutional random features."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from baselines.patches import patch_features, pooling_matrix
from baselines.random_features import ArcCosineFeatures, RandomPatchFeatures
from tangent.machine.patches import patch_filters


@parametrize_with_checks(
    [
        RandomPatchFeatures(n_filters=4, n_whitening=50),
        ArcCosineFeatures(5),
        ArcCosineFeatures(5, order=0),
    ]
)
def test_random_features_follow_the_estimator_contract(estimator, check):
    check(estimator)


def images(n, shape=(3, 9, 9), seed=0):
    return np.random.default_rng(seed).random((n, *shape), dtype=np.float32)


def slow_features(image, model):
    """One image's features, written down patch by patch in float64."""
    weight = model.filters_.weight.double().numpy()
    size, offset = model.filters_.size[0], model.filters_.offset
    rows, columns = image.shape[1] - size + 1, image.shape[2] - size + 1
    sums = np.zeros((2, model.grid, model.grid, model.n_filters))
    for i in range(rows):
        for j in range(columns):
            patch = image[:, i : i + size, j : j + size].astype(float).transpose(1, 2, 0).ravel()
            patch = patch - patch.mean()
            z = (patch / np.sqrt(patch @ patch + offset)) @ weight[:-1] + weight[-1]
            cell = (i * model.grid // rows, j * model.grid // columns)
            sums[(0, *cell)] += np.maximum(z - model.bias, 0)
            sums[(1, *cell)] += np.maximum(-z - model.bias, 0)
    return sums.ravel()


@given(seed=st.integers(0, 2**31), size=st.integers(2, 5), grid=st.integers(1, 3))
def test_features_match_the_definition_patch_by_patch(seed, size, grid):
    x = images(3, seed=seed)
    model = RandomPatchFeatures(
        5, patch_size=size, grid=grid, n_whitening=400, image_shape=(3, 9, 9), random_state=seed
    )
    found = model.fit_transform(x.reshape(3, -1))
    expected = np.stack([slow_features(image, model) for image in x])
    # float32 responses of size 5 or so, summed over up to 64 positions
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


def test_folded_weights_give_the_whitened_normalized_response():
    x = torch.from_numpy(images(20))
    draw = {"size": (4, 4), "contrast": 0.04, "sample": 500}
    filters = patch_filters(x, 6, **draw, generator=torch.Generator().manual_seed(3))
    assert filters.weight.shape == (49, 6)
    # a constant patch is the normalized zero: only the constant row answers
    constant = torch.full((1, 3, 4, 4), 0.3)
    out = torch.empty(1, 2, 1, 6)
    patch_features(constant, filters, bias=0.0, grid=(1, 1), out=out)
    torch.testing.assert_close(out[0, 0, 0] - out[0, 1, 0], filters.weight[-1])


@given(n=st.integers(1, 30), m=st.integers(1, 30))
def test_every_position_belongs_to_one_cell(n, m):
    pooling = pooling_matrix((n, m), (min(n, 3), min(m, 2)))
    assert (pooling.sum(0) == 1).all()
    assert (pooling.sum(1) > 0).all()


@given(at_once=st.integers(1, 7), filters_at_once=st.integers(1, 9))
def test_blocks_do_not_change_the_features(at_once, filters_at_once):
    x = torch.from_numpy(images(5))
    filters = patch_filters(
        x,
        8,
        size=(3, 3),
        contrast=0.04,
        sample=300,
        generator=torch.Generator().manual_seed(0),
    )
    outs = [torch.empty(5, 2, 4, 8) for _ in range(2)]
    patch_features(x, filters, bias=0.2, grid=(2, 2), out=outs[0])
    patch_features(
        x,
        filters,
        bias=0.2,
        grid=(2, 2),
        out=outs[1],
        images_at_once=at_once,
        filters_at_once=filters_at_once,
    )
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_features_after_clone_and_pickle():
    x = images(6).reshape(6, -1)
    model = RandomPatchFeatures(4, image_shape=(3, 9, 9), n_whitening=300, random_state=7)
    first = model.fit_transform(x)
    assert first.dtype == np.float32
    assert first.shape == (6, 2 * 9 * 4)
    np.testing.assert_array_equal(clone(model).fit_transform(x), first)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).transform(x), first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"image_shape": (3, 8, 8)},
            r"image_shape \(3, 8, 8\) has 192 values but a row of X has 243",
        ),
        ({"image_shape": (3, 9)}, r"image_shape must be \(channels, height, width\)"),
        ({"n_filters": 0}, "n_filters must be an integer above 0; got 0"),
        ({"bias": -1.0}, "bias must be a number at least 0; got -1.0"),
        ({"contrast": "low"}, "contrast must be a number above 0; got 'low'"),
    ],
)
def test_bad_arguments_are_named_with_rule_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomPatchFeatures(**arguments).fit(images(4).reshape(4, -1))


@pytest.mark.parametrize("order", [0, 1])
def test_arc_cosine_features_estimate_the_kernel_of_their_order(order):
    random = np.random.default_rng(0)
    X = random.normal(size=(6, 4))
    Z = ArcCosineFeatures(200_000, order=order, random_state=1).fit_transform(X)
    norms = np.linalg.norm(X, axis=1)
    angle = np.arccos(np.clip(X @ X.T / np.outer(norms, norms), -1, 1))
    if order == 0:
        expected = 1 - angle / np.pi
    else:
        expected = np.outer(norms, norms) / np.pi
        expected *= np.sin(angle) + (np.pi - angle) * np.cos(angle)
    # the standard error of a mean over 200,000 directions
    np.testing.assert_allclose(Z @ Z.T, expected, atol=0.02 * np.abs(expected).max())


def test_a_single_precision_vector_has_single_precision_features():
    X = np.ones((3, 2), dtype=np.float32)
    for order in (0, 1):
        assert ArcCosineFeatures(4, order=order).fit_transform(X).dtype == np.float32


def test_an_order_without_a_closed_form_here_is_refused():
    with pytest.raises(ValueError, match="order must be 0 or 1; got 2"):
        ArcCosineFeatures(order=2).fit(np.ones((3, 2)))
