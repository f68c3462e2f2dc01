"""Classifiers made of features and a head."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import baselines
from baselines import (
    GaussianKernelHead,
    RandomPatchFeatures,
    RidgeHead,
    StreamedClassifier,
    arc_cosine_classifier,
    gaussian_kernel_classifier,
    random_patch_classifier,
    roto_translation_classifier,
    scattering_classifier,
)
from baselines.images import mirrored

PATCHES = RandomPatchFeatures(6, patch_size=3, n_whitening=200, random_state=0)


@parametrize_with_checks(
    [
        StreamedClassifier(),
        StreamedClassifier(head=GaussianKernelHead(), batch_size=7),
        gaussian_kernel_classifier(20, method="fourier", random_state=0),
    ],
    expected_failed_checks=lambda estimator: (
        {}
        if estimator.features is None
        else {
            "check_sample_weight_equivalence_on_dense_data": "features are fitted on rows "
            "whatever they weigh"
        }
    ),
)
def test_classifiers_follow_the_estimator_contract(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(X))
    return X[order[:900]], y[order[:900]], X[order[900:1400]], y[order[900:1400]]


@pytest.mark.parametrize(
    ("classifier", "least"),
    [
        (random_patch_classifier(40, patch_size=3, image_shape=(1, 8, 8), random_state=0), 0.96),
        (scattering_classifier(1, L=4, image_shape=(1, 8, 8)), 0.97),
        (scattering_classifier(1, L=4, head="ridge", image_shape=(1, 8, 8)), 0.95),
        (roto_translation_classifier(20, J=2, L=4, side=16, image_shape=(1, 8, 8)), 0.96),
        (gaussian_kernel_classifier(300, random_state=0), 0.95),
        (gaussian_kernel_classifier(300, method="fourier", random_state=0), 0.92),
        (arc_cosine_classifier(300, random_state=0), 0.92),
    ],
)
def test_ready_classifiers_learn_digits(digits, classifier, least):
    X, y, X_test, y_test = digits
    assert classifier.fit(X, y).score(X_test, y_test) >= least


@pytest.mark.parametrize("head", [RidgeHead(0.1), RidgeHead((0.1, 1.0)), GaussianKernelHead()])
def test_streaming_gives_what_the_pipeline_in_memory_gives(digits, head):
    X, y, X_test, _ = digits
    streamed = StreamedClassifier(PATCHES, head, batch_size=77).fit(X, y)
    pipeline = make_pipeline(clone(PATCHES), clone(head)).fit(X, y)
    np.testing.assert_allclose(
        streamed.decision_function(X_test), pipeline.decision_function(X_test), atol=2e-3
    )


@pytest.mark.parametrize("flips", ["average", "double"])
def test_features_made_while_fitting_are_the_same_as_those_made_in_blocks(digits, flips):
    X, y, X_test, _ = digits
    options = {"flips": flips, "image_shape": (1, 8, 8), "batch_size": 77}
    streamed = StreamedClassifier(PATCHES, RidgeHead(0.1), **options).fit(X, y)
    at_once = StreamedClassifier(PATCHES, RidgeHead(0.1), stream=False, **options).fit(X, y)
    np.testing.assert_allclose(
        streamed.decision_function(X_test), at_once.decision_function(X_test), atol=1e-4
    )


@pytest.mark.parametrize("flips", ["average", "double"])
def test_a_mirror_image_gets_the_same_score(digits, flips):
    X, y, X_test, _ = digits
    model = StreamedClassifier(PATCHES, flips=flips, image_shape=(1, 8, 8)).fit(X, y)
    np.testing.assert_allclose(
        model.decision_function(mirrored(X_test, (1, 8, 8))),
        model.decision_function(X_test),
        atol=1e-4,
    )


def test_doubling_is_fitting_on_the_images_and_their_mirror_images(digits):
    X, y, X_test, _ = digits
    shape = (1, 8, 8)
    doubled = StreamedClassifier(head=RidgeHead(0.1), flips="double", image_shape=shape).fit(X, y)
    oracle = RidgeHead(0.1).fit(np.concatenate([X, mirrored(X, shape)]), np.tile(y, 2))
    expected = (
        oracle.decision_function(X_test) + oracle.decision_function(mirrored(X_test, shape))
    ) / 2
    np.testing.assert_allclose(doubled.decision_function(X_test), expected, atol=1e-4)


def test_grid_search_in_a_pipeline_clone_and_pickle(digits):
    X, y = digits[0][:200], digits[1][:200]
    pipeline = make_pipeline(FunctionTransformer(), StreamedClassifier(PATCHES, RidgeHead(0.1)))
    search = GridSearchCV(pipeline, {"streamedclassifier__head__alpha": [0.01, 0.1]}, cv=2)
    search.fit(X, y)
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))
    same = clone(search.best_estimator_).fit(X, y)
    np.testing.assert_array_equal(same.predict(X), search.predict(X))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StreamedClassifier(flips="up"), r"flips must be one of .*; got 'up'"),
        (lambda: StreamedClassifier(flips="double"), r"flips='double' needs image_shape"),
        (lambda: StreamedClassifier(batch_size=0), "batch_size must be an integer above 0; got 0"),
        (lambda: StreamedClassifier(image_shape=(1, 7, 8)), "has 56 values but a row of X has 64"),
        (lambda: random_patch_classifier(head="svm"), "head must be 'ridge', 'gaussian' or an"),
        (lambda: gaussian_kernel_classifier(method="sketch"), "method must be 'nystroem' or"),
    ],
)
def test_bad_arguments_are_named_with_rule_and_value(digits, make, message):
    with pytest.raises(ValueError, match=message):
        make().fit(digits[0][:20], digits[1][:20])


def test_one_class_and_nan_are_refused(digits):
    X, y = digits[0][:20], digits[1][:20]
    with pytest.raises(ValueError, match=r"y must have at least two classes; got 1 class"):
        StreamedClassifier(PATCHES).fit(X, np.zeros(20))
    with pytest.raises(ValueError, match="NaN"):
        StreamedClassifier(PATCHES).fit(np.where(X[0, 0] == X, np.nan, X), y)


def test_every_public_name_exists():
    assert all(hasattr(baselines, name) for name in baselines.__all__)
