"""What holds for every estimator: units, offsets, constants, modes, random state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_regressor
from torch import nn

import baselines
import tangent
from baselines import (
    ArcCosineFeatures,
    GaussianKernelHead,
    InfiniteWidthHead,
    OrthogonalLeastSquaresSelector,
    RandomPatchFeatures,
    RidgeHead,
    RotoTranslationScattering,
    ScatteringFeatures,
    SelectedFeatures,
    StreamedClassifier,
)
from tangent import (
    LazyClassifier,
    LazyRegressor,
    TangentFeatures,
    TangentKernelClassifier,
    TangentKernelRegressor,
    mlp,
)
from tangent.estimators import Perceptron

SMALL = Perceptron("tanh", 1, 8, 1.0)
IMAGE = {"image_shape": (1, 8, 8)}


def plain_mlp(shape, k, generator):
    return mlp(shape[0], k, hidden=(8,), generator=generator)


def torch_layers(shape, k, generator):
    """A factory that draws from torch's global generator only."""
    return nn.Sequential(nn.Linear(shape[0], 8), nn.Tanh(), nn.Linear(8, k))


ESTIMATORS = {
    "lazy": LazyClassifier(plain_mlp, epochs=5, random_state=0),
    "lazy, torch's own weights": LazyClassifier(torch_layers, epochs=5, random_state=0),
    "lazy, direct": LazyClassifier(
        plain_mlp, epochs=5, alpha=10.0, parametrization="direct", random_state=0
    ),
    "lazy regressor": LazyRegressor(plain_mlp, epochs=5, random_state=0),
    "kernel": TangentKernelClassifier(SMALL, random_state=0),
    "kernel, cg": TangentKernelClassifier(
        SMALL, solver="cg", n_ensemble=1, rank=16, random_state=0
    ),
    "kernel regressor": TangentKernelRegressor(SMALL, random_state=0),
    "kernel, torch's own weights": TangentKernelRegressor(torch_layers, random_state=0),
    "features": TangentFeatures(SMALL, n_components=6, random_state=0),
    "ridge": RidgeHead(),
    "gaussian": GaussianKernelHead(random_state=0),
    "gaussian, landmarks": GaussianKernelHead(n_landmarks=9, random_state=0),
    "gaussian, conjugate": GaussianKernelHead(solver="conjugate", random_state=0),
    "infinite": InfiniteWidthHead(),
    "infinite, convolutional": InfiniteWidthHead("convolutional", side=4, depth=2, **IMAGE),
    "patches": RandomPatchFeatures(6, n_whitening=200, random_state=0, **IMAGE),
    "arc cosine": ArcCosineFeatures(6, random_state=0),
    "scattering": ScatteringFeatures(**IMAGE),
    "scattering of kymatio": ScatteringFeatures(backend="kymatio", **IMAGE),
    "roto-translation": RotoTranslationScattering(2, L=4, side=16, **IMAGE),
    "selector": OrthogonalLeastSquaresSelector(2),
    "selected": SelectedFeatures(
        ArcCosineFeatures(6, random_state=0),
        OrthogonalLeastSquaresSelector(2),
        max_rows=20,
        random_state=0,
    ),
    "streamed": StreamedClassifier(),
    "patch classifier": baselines.random_patch_classifier(
        6, n_whitening=200, random_state=0, **IMAGE
    ),
    "fourier": baselines.gaussian_kernel_classifier(9, method="fourier", random_state=0),
    "nystroem": baselines.gaussian_kernel_classifier(9, random_state=0),
    "arc-cosine classifier": baselines.arc_cosine_classifier(9, random_state=0),
}
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)


def data(n=36, seed=0):
    """Images of 8x8 whose class is where they are bright, in float64."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 3)
    X = rng.random((n, 8, 8)) / 2
    X[np.arange(n), 2 * y + 1] += 0.5
    return X.reshape(n, -1), y


def answers(estimator, X, y, new):
    """What a new fit says of the rows ``new``."""
    fitted = clone(estimator).fit(X, y)
    for method in ("decision_function", "predict", "transform"):
        if hasattr(fitted, method):
            return np.asarray(getattr(fitted, method)(new), dtype=np.float64)
    raise AssertionError("an estimator answers in one of these ways")


def test_no_estimator_is_missing():
    listed = {type(e).__name__ for e in ESTIMATORS.values()}
    public = {
        name
        for package in (tangent, baselines)
        for name in package.__all__
        if hasattr(getattr(package, name), "fit") and hasattr(getattr(package, name), "get_params")
    }
    assert public <= listed


@every_estimator
def test_no_global_random_state_is_used(name):
    X, y = data()
    before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    first = answers(ESTIMATORS[name], X, y, X)
    assert torch.equal(before[0], torch.get_rng_state())
    for a, b in zip(before[1], np.random.get_state(), strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(a, b)
    torch.rand(1)
    np.testing.assert_array_equal(answers(ESTIMATORS[name], X, y, X), first)


def test_the_networks_of_a_factory_that_ignores_its_generator_differ():
    X, y = data()
    kernel = TangentKernelRegressor(torch_layers, n_ensemble=2, random_state=0).fit(X, y).kernel_
    first, second = (next(network.parameters()) for network in kernel.networks)
    assert not torch.allclose(first, second)


# Of the vectors as they come, by its definition, and kernels or sums of it: no mean is taken off.
OF_RAW_VECTORS = {"arc cosine", "selected"}


@every_estimator
def test_an_offset_of_1e8_changes_nothing_but_the_last_digits(name):
    if name in OF_RAW_VECTORS:
        pytest.skip("a function of the vectors themselves")
    X, y = data()
    offset = 2.0**27
    X = np.round(X * 2**20) / 2**20  # so that the offset can be taken off exactly
    expected = answers(ESTIMATORS[name], X, y, X)
    found = answers(ESTIMATORS[name], X + offset, y, X + offset)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@every_estimator
@pytest.mark.parametrize("factor", [1e-5, 1e25])
def test_the_unit_of_the_data_changes_nothing_but_the_last_digits(name, factor):
    if name in OF_RAW_VECTORS:
        pytest.skip("a function of the vectors themselves")
    X, y = data()
    expected = answers(ESTIMATORS[name], X, y, X)
    found = answers(ESTIMATORS[name], X * factor, y, X * factor)
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@every_estimator
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_of_1e38_have_finite_answers_or_a_word(name, dtype):
    X, y = data()
    X = (X / X.max() * 3e38).astype(dtype)
    if name in OF_RAW_VECTORS and dtype == np.float32:
        with pytest.raises(ValueError, match="X must be small enough"):
            answers(ESTIMATORS[name], X, y, X)
    else:
        assert np.isfinite(answers(ESTIMATORS[name], X, y, X)).all()


@pytest.mark.parametrize(
    "name", ["ridge", "streamed", "fourier", "nystroem", "arc-cosine classifier"]
)
def test_values_whose_squares_leave_float64_are_refused(name):
    X, y = data()
    with pytest.raises(ValueError, match="X must be small enough"):
        answers(ESTIMATORS[name], X * 1e300, y, X)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name.startswith("lazy")])
def test_a_fitted_network_refuses_rows_at_which_its_outputs_are_not_finite(name):
    X, y = data()
    model = clone(ESTIMATORS[name]).fit(X, y)
    with pytest.raises(ValueError, match="X must be in the units of the training rows"):
        model.predict(X * 3e38)


@pytest.mark.parametrize("name", ["patches", "scattering", "roto-translation"])
def test_rows_far_beyond_the_training_rows_are_refused(name):
    X, y = data()
    model = clone(ESTIMATORS[name]).fit(X, y)
    with pytest.raises(ValueError, match=r"X must stay within 1e\+15 times the range"):
        model.transform(X * 1e30)


CONSTANTS = {
    "zeros": np.zeros((9, 64)),
    "ones": np.ones((9, 64)),
    "tenths": np.full((9, 64), 0.1),
    "one row": np.tile(np.linspace(0, 1, 64), (9, 1)),
}


@every_estimator
@pytest.mark.parametrize("rows", CONSTANTS)
def test_equal_rows_are_all_of_the_majority(name, rows):
    X, y = CONSTANTS[rows], np.array([0, 0, 0, 0, 0, 1, 1, 2, 2])
    model = clone(ESTIMATORS[name])
    if hasattr(model, "transform"):
        made = model.fit(X, y).transform(X)
        assert np.isfinite(made).all()
        # Logarithms of small coefficients hold the rounding of large ones.
        tolerance = 1e-2 if isinstance(model, ScatteringFeatures) else 1e-6
        np.testing.assert_allclose(made, np.tile(made[:1], (9, 1)), atol=tolerance)
    elif is_regressor(model):
        np.testing.assert_allclose(model.fit(X, y).predict(X), y.mean(), atol=1e-6)
    else:
        np.testing.assert_array_equal(model.fit(X, y).predict(X), 0)


@every_estimator
def test_a_constant_feature_changes_nothing_but_the_last_digits(name):
    """Of rows of which some pixels are always the same, 0 or 0.1."""
    X, y = data()
    X[:, :8], X[:, -3:] = 0.0, 0.1
    made = answers(ESTIMATORS[name], X, y, X)
    again = answers(ESTIMATORS[name], X.astype(np.float32), y, X.astype(np.float32))
    assert np.isfinite(made).all()
    np.testing.assert_allclose(again, made, atol=5e-3 * np.abs(made).max())


@every_estimator
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_makes_no_difference(name, mode):
    X, y = data()
    expected = answers(ESTIMATORS[name], X, y, X)
    with mode():
        np.testing.assert_array_equal(answers(ESTIMATORS[name], X, y, X), expected)
        fitted = clone(ESTIMATORS[name]).fit(X, y)
    # What was fitted within is of use outside, and the other way round.
    method = next(m for m in ("decision_function", "predict", "transform") if hasattr(fitted, m))
    np.testing.assert_array_equal(getattr(fitted, method)(X), expected)
    fitted = clone(ESTIMATORS[name]).fit(X, y)
    with mode():
        np.testing.assert_array_equal(getattr(fitted, method)(X), expected)


CLASSIFIERS = [n for n, e in ESTIMATORS.items() if hasattr(e, "predict") and not is_regressor(e)]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_labels_of_two_dimensions_are_refused(name):
    X, y = data()
    with pytest.raises(
        ValueError, match=r"y should be a 1d array, got an array of shape \(36, 3\)"
    ):
        clone(ESTIMATORS[name]).fit(X, np.eye(3)[y])
