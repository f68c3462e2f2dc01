"""Digits, subsets and fingerprints."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from experiments.data.datasets import ImageData, fingerprint, image_data, load_dataset
from experiments.usage import UsageError


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_dataset("digits")


def test_digits_are_all_of_scikit_learns_in_two_parts(digits):
    assert digits.image_shape == (1, 32, 32)
    assert (len(digits.train_labels), len(digits.test_labels)) == (1297, 500)
    everything = np.concatenate([digits.train_labels, digits.test_labels])
    expected = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(everything), expected)
    shares = np.bincount(digits.test_labels) / 500
    np.testing.assert_allclose(shares, expected / 1797, atol=1 / 500)


def test_resized_digits_keep_what_they_show(digits):
    # Averaged back to 8x8, an image is nearest to the original it came from, of its class.
    images = np.concatenate([digits.train_images, digits.test_images])[:, 0]
    small = images.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)) * 16 / 255
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    originals = load_digits()
    for image, label in list(zip(small, labels, strict=True))[:100]:
        nearest = np.argmin(((originals.images - image) ** 2).sum(axis=(1, 2)))
        assert originals.target[nearest] == label


def test_digits_are_the_same_every_time(digits):
    again = load_dataset("digits")
    assert again.fingerprint == digits.fingerprint
    np.testing.assert_array_equal(again.train_images, digits.train_images)


def test_arrays_are_flat_in_the_unit_interval(digits):
    X, y, X_test, y_test = digits.arrays()
    assert X.shape == (1297, 1024)
    assert X_test.shape == (500, 1024)
    assert X.dtype == np.float32
    assert X.min() == 0
    assert X.max() == 1
    np.testing.assert_array_equal(np.round(X[3] * 255), digits.train_images[3].ravel())
    assert y.dtype == y_test.dtype == np.int64


@given(n=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_a_subset_has_every_class_in_its_share(n, seed):
    labels = np.repeat(np.arange(3), [100, 60, 40])  # sorted by class, as folders are
    images = np.arange(200, dtype=np.uint8).reshape(200, 1, 1, 1)
    part = (images, labels)
    data = image_data("x", "x", ("a", "b", "c"), part, part)
    subset = data.subset(n, n, seed)
    assert len(subset.train_labels) == n
    counts = np.bincount(subset.train_labels, minlength=3)
    assert np.abs(counts - n * np.array([0.5, 0.3, 0.2])).max() < 1
    ids = subset.train_images.ravel()
    assert len(set(ids.tolist())) == n
    np.testing.assert_array_equal(labels[ids], subset.train_labels)
    again = data.subset(n, n, seed)
    np.testing.assert_array_equal(again.train_images, subset.train_images)
    assert subset.fingerprint == data.fingerprint


def test_a_subset_is_shuffled_and_changes_with_the_seed(digits):
    first, second = digits.subset(200, 100, 0), digits.subset(200, 100, 1)
    assert not np.array_equal(first.train_images, second.train_images)
    assert np.count_nonzero(np.diff(first.train_labels)) > 100
    everything = digits.subset(seed=0)
    assert len(everything.train_labels) == 1297
    assert not np.array_equal(everything.train_images, digits.train_images)


@pytest.mark.parametrize(("n_train", "n_test"), [(0, 10), (1298, 10), (10, 501)])
def test_a_subset_larger_than_the_data_is_refused(digits, n_train, n_test):
    with pytest.raises(ValueError, match=r"n_(train|test) must lie between 1 and \d+, all there"):
        digits.subset(n_train, n_test)


def test_an_unknown_data_set_is_answered_with_the_nearest_name():
    with pytest.raises(UsageError, match="unknown dataset 'cifar-10': did you mean 'cifar10'"):
        load_dataset("cifar-10")


def test_the_fingerprint_changes_with_any_value_shape_or_name():
    array = np.arange(6, dtype=np.uint8)
    marks = {
        fingerprint(("a",), array),
        fingerprint(("b",), array),
        fingerprint(("a",), array.reshape(2, 3)),
        fingerprint(("a",), array.astype(np.int64)),
        fingerprint(("a",), array[::-1]),
    }
    assert len(marks) == 5


def test_image_data_cannot_be_changed(digits):
    with pytest.raises(dataclasses.FrozenInstanceError):
        digits.name = "other"
