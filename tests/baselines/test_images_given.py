"""Images of shape (n, channels, height, width) need no shape beside them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

import baselines
from baselines.classifiers import random_patch_classifier, scattering_classifier

SHAPE = (3, 16, 16)
FEATURES = {
    "patches": lambda **o: baselines.RandomPatchFeatures(8, random_state=0, **o),
    "scattering": lambda **o: baselines.ScatteringFeatures(2, **o),
    "roto-translation": lambda **o: baselines.RotoTranslationScattering(2, side=16, **o),
}
CLASSIFIERS = {
    "patches": lambda **o: random_patch_classifier(8, flips="average", random_state=0, **o),
    "scattering": lambda **o: scattering_classifier(2, flips="double", random_state=0, **o),
    "infinite width": lambda **o: baselines.StreamedClassifier(
        None, baselines.InfiniteWidthHead(network="convolutional", **o)
    ),
}


@pytest.fixture(scope="module")
def data():
    X = np.random.default_rng(0).random((20, *SHAPE), dtype=np.float32)
    return X, X.reshape(20, -1), np.arange(20) % 2


@pytest.mark.parametrize("name", FEATURES)
def test_features_of_images_are_those_of_rows_and_their_shape(name, data):
    X, rows, _ = data
    given, named = FEATURES[name](), FEATURES[name](image_shape=SHAPE)
    np.testing.assert_array_equal(given.fit_transform(X), named.fit_transform(rows))
    assert given.image_shape_ == SHAPE
    assert given.n_features_in_ == rows.shape[1]
    np.testing.assert_array_equal(given.transform(X[:3]), named.transform(rows[:3]))
    np.testing.assert_array_equal(given.transform(rows[:3]), named.transform(rows[:3]))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_of_images_are_those_of_rows_and_their_shape(name, data):
    X, rows, y = data
    given, named = CLASSIFIERS[name](), CLASSIFIERS[name](image_shape=SHAPE)
    found = given.fit(X, y).decision_function(X)
    np.testing.assert_array_equal(found, named.fit(rows, y).decision_function(rows))


def test_a_pipeline_takes_images(data):
    X, rows, y = data
    given = make_pipeline(FEATURES["patches"](), baselines.RidgeHead()).fit(X, y)
    named = make_pipeline(FEATURES["patches"](image_shape=SHAPE), baselines.RidgeHead())
    np.testing.assert_array_equal(given.predict(X), named.fit(rows, y).predict(rows))
