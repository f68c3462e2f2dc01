from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification, make_regression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from tangent import LazyClassifier, LazyRegressor, mlp
from tangent.training.checkpoint import Checkpoint
from tangent.training.lazy import DivergenceError


class SmallMlp:
    """A factory with a name: test identifiers are made of it, the same in every process."""

    def __call__(self, shape, k, generator):
        return mlp(shape[0], k, hidden=(32,), generator=generator)

    def __repr__(self):
        return "small_mlp"


small_mlp = SmallMlp()


def not_in_float32(estimator) -> dict[str, str]:
    if estimator.dtype != "float32":
        return {}
    reason = "float32 products over batches of another size differ in the last digit (tested 1e-7)"
    return {"check_methods_subset_invariance": reason}


@parametrize_with_checks(
    [
        LazyClassifier(small_mlp, epochs=10),
        LazyClassifier(small_mlp, alpha=2.0, loss="square", epochs=10, dtype="float64"),
        LazyRegressor(small_mlp, epochs=10, dtype="float64"),
    ],
    expected_failed_checks=not_in_float32,
)
def test_scikit_learns_contract(estimator, check):
    check(estimator)


def small_images(n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    X = rng.random((n, 3, 32, 32), dtype=np.float32) / 2
    X[np.arange(n), y] += 0.5  # the class is a colour
    return X.reshape(n, -1), y


@pytest.mark.parametrize(
    ("model", "alpha"),
    [("vgg11", 1.0), ("vgg11", 1e7), ("vgg11", math.inf), ("resnet18", 1e7)],
)
def test_images_are_learned_at_every_alpha(model, alpha):
    X, y = small_images()
    classifier = LazyClassifier(
        model, alpha=alpha, width=0.1, epochs=5, batch_size=10, image_shape=(3, 32, 32),
        loss="square", lr=0.02, random_state=0,
    ).fit(X, y)  # fmt: skip
    assert classifier.score(X, y) > 0.8
    stability = classifier.stability_of_activations(X)
    assert min(stability.values()) == 1.0 if math.isinf(alpha) else True
    if alpha == 1e7:
        assert min(stability.values()) > 0.999


def test_alpha_1e7_and_infinity_agree_to_three_digits_after_training():
    X, y = small_images()
    options = {"width": 0.1, "epochs": 5, "batch_size": 20, "image_shape": (3, 32, 32)}
    large, infinite = (
        LazyClassifier("vgg11", alpha=alpha, lr=0.05, random_state=0, **options)
        .fit(X, y)
        .decision_function(X)
        for alpha in (1e7, math.inf)
    )
    assert np.abs(large - infinite).max() < 1e-3 * np.abs(infinite).max()


def test_an_int_seed_gives_the_same_model_twice_and_another_another():
    X, y = load_iris(return_X_y=True)
    one, two, other = (
        LazyClassifier(small_mlp, epochs=3, random_state=seed).fit(X, y).decision_function(X)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, two)
    assert not np.allclose(one, other)


def test_bytes_and_floats_are_the_same_images():
    X, y = small_images(20)
    pixels = np.round(X * 255).astype(np.uint8)
    options = {"width": 0.05, "epochs": 2, "image_shape": (3, 32, 32), "random_state": 0}
    options["lr"] = 0.01
    from_bytes = LazyClassifier("vgg11", **options).fit(pixels, y).decision_function(pixels)
    as_floats = (pixels / 255).astype(np.float32)
    from_floats = LazyClassifier("vgg11", **options).fit(as_floats, y).decision_function(as_floats)
    np.testing.assert_allclose(from_bytes, from_floats, rtol=1e-3, atol=1e-4)


def test_four_dimensional_images_are_rows():
    X, y = small_images(20)
    options = {"width": 0.05, "epochs": 1, "image_shape": (3, 32, 32), "random_state": 0}
    flat = LazyClassifier("vgg11", **options).fit(X, y)
    images = LazyClassifier("vgg11", **options).fit(X.reshape(-1, 3, 32, 32), y)
    assert images.n_features_in_ == 3 * 32 * 32
    np.testing.assert_array_equal(flat.predict(X), images.predict(X.reshape(-1, 3, 32, 32)))


def test_a_module_is_copied_and_left_as_it_was():
    X, y = load_iris(return_X_y=True)
    module = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    before = [p.detach().clone() for p in module.parameters()]
    classifier = LazyClassifier(module, alpha=10.0, epochs=20).fit(X, y)
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    assert classifier.score(X, y) > 0.8
    assert all(p.requires_grad for p in module.parameters())


def test_augmented_training_runs():
    X, y = small_images(20)
    classifier = LazyClassifier(
        "resnet18", width=0.05, epochs=2, augment=True, image_shape=(3, 32, 32), random_state=0
    ).fit(X, y)
    assert classifier.decision_function(X).shape == (20, 3)


def test_it_pickles_with_its_predictions():
    X, y = load_iris(return_X_y=True)
    classifier = LazyClassifier(small_mlp, epochs=2, random_state=0).fit(X, y)
    twin = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(twin.decision_function(X), classifier.decision_function(X))


def test_a_grid_search_in_a_pipeline():
    X, y = make_classification(60, random_state=0)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LazyClassifier(small_mlp, epochs=3, random_state=0)),
        {"lazyclassifier__alpha": [1.0, math.inf]},
        cv=2,
    ).fit(X, y)
    assert search.best_score_ > 0.6
    assert clone(search.best_estimator_).get_params()["lazyclassifier__epochs"] == 3


def test_the_regressor_fits_lines_of_two_outputs():
    X, y = make_regression(80, 4, n_targets=2, random_state=0)
    regressor = LazyRegressor(small_mlp, epochs=150, random_state=0).fit(X, y)
    assert regressor.predict(X).shape == (80, 2)
    assert regressor.score(X, y) > 0.9


def test_probabilities_come_with_cross_entropy_only():
    X, y = load_iris(return_X_y=True)
    classifier = LazyClassifier(small_mlp, epochs=3).fit(X, y)
    np.testing.assert_allclose(classifier.predict_proba(X).sum(axis=1), 1)
    assert not hasattr(LazyClassifier(loss="square"), "predict_proba")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": -1.0}, "alpha must be positive"),
        ({"model": "vgg"}, "model must be one of 'vgg11', 'resnet18', 'mlp', or .*; got 'vgg'"),
        ({"model": "vgg11"}, "set image_shape"),
        ({"image_shape": (3, 2, 2)}, r"image_shape \(3, 2, 2\) has 12 values but a row of X has 4"),
        ({"image_shape": (4,)}, r"image_shape must be \(channels, height, width\)"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"lr": "fast"}, "lr must be a positive number or 'auto'; got 'fast'"),
        ({"epochs": 0}, "epochs must be an integer"),
        ({"augment": True}, "augment=True crops"),
        ({"device": "abacus"}, "device must be 'auto' or a torch device"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"model": nn.Linear(4, 2)}, r"model must return \(n, 3\) outputs"),
    ],
)
def test_bad_options_are_named(options, message):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=message):
        LazyClassifier(**options).fit(X, y)


def test_a_model_of_another_kind_is_refused():
    X, y = load_iris(return_X_y=True)
    with pytest.raises(TypeError, match=r"model must be a name, an nn\.Module or a factory"):
        LazyClassifier(3).fit(X, y)


def test_one_class_and_nan_are_refused():
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="at least two classes; got one class"):
        LazyClassifier().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="NaN"):
        LazyClassifier().fit(np.where(X > 7, np.nan, X), y)


def test_divergence_leaves_the_estimator_unfitted():
    X, y = load_iris(return_X_y=True)
    classifier = LazyClassifier(small_mlp, loss="square", lr=1e4, epochs=30, check_lr=False)
    with pytest.raises(DivergenceError, match="take a smaller lr"):
        classifier.fit(X, y)
    assert not hasattr(classifier, "module_")


def test_a_rate_above_the_stability_edge_is_warned_of_and_the_edge_kept(capsys):
    X, y = load_iris(return_X_y=True)
    options = {"loss": "square", "epochs": 2, "random_state": 0}
    edge = LazyClassifier(small_mlp, **options).fit(X, y).stability_edge_
    bold = LazyClassifier(small_mlp, lr=1.1 * edge, verbose=True, **options)
    with pytest.warns(UserWarning, match=r"lr=.* is above the stability edge .*lr='auto'"):
        bold.fit(X, y)
    assert bold.stability_edge_ == pytest.approx(edge, rel=0.3)  # of another mini-batch
    assert "stability edge" in capsys.readouterr().out


def test_looking_at_the_edge_changes_no_bit_of_the_training():
    X, y = load_iris(return_X_y=True)
    fits = [
        LazyClassifier(small_mlp, lr=0.01, epochs=2, check_lr=check, random_state=0).fit(X, y)
        for check in (True, False)
    ]
    np.testing.assert_array_equal(*(fit.decision_function(X) for fit in fits))
    assert not hasattr(fits[1], "stability_edge_")


def test_a_fit_goes_on_from_its_checkpoint(tmp_path):
    X, y = load_iris(return_X_y=True)
    options = {"epochs": 4, "random_state": 0}
    whole = LazyClassifier(small_mlp, **options).fit(X, y)
    kept = LazyClassifier(small_mlp, checkpoint=tmp_path / "fit", **options)
    kept.set_params(epochs=2).fit(X, y)
    kept.set_params(epochs=4).fit(X, y)
    np.testing.assert_array_equal(whole.decision_function(X), kept.decision_function(X))
    assert kept.n_iter_ == 4


def test_early_stopping_shows_in_the_number_of_epochs():
    X, y = load_iris(return_X_y=True)
    fit = LazyClassifier(small_mlp, lr=1e-9, epochs=30, patience=2, random_state=0).fit(X, y)
    assert fit.n_iter_ == 3


def test_the_memory_is_said_before_training(capsys):
    X, y = load_iris(return_X_y=True)
    LazyClassifier(small_mlp, epochs=1, verbose=True, random_state=0).fit(X, y)
    assert "memory of training" in capsys.readouterr().out


def test_a_network_larger_than_the_machine_is_refused_before_training(monkeypatch):
    X, y = load_iris(return_X_y=True)
    monkeypatch.setattr("tangent.estimators._trained._LARGE", 0)
    monkeypatch.setattr("tangent.estimators._trained.available_bytes", lambda: 1000.0)
    with pytest.raises(MemoryError, match="micro_batch_size"):
        LazyClassifier(small_mlp, epochs=1, random_state=0).fit(X, y)


def test_a_wide_network_is_refused_before_its_weights_are_allocated(monkeypatch):
    X, y = np.zeros((4, 3 * 32 * 32), dtype=np.float32), np.arange(4) % 2
    monkeypatch.setattr("tangent.estimators._trained.available_bytes", lambda: 2.0**30)
    model = LazyClassifier("vgg11", width=1000.0, image_shape=(3, 32, 32), batch_size=2)
    with pytest.raises(MemoryError, match=r"training needs .* GiB are free; take a smaller"):
        model.fit(X, y)  # 9 million million weights


class Interruption(Exception):
    pass


def test_a_checkpoint_outlives_a_learning_rate_whose_last_bit_differs(tmp_path, monkeypatch):
    from tangent.estimators import _trained
    from tangent.training.run import Run

    X, y = load_iris(return_X_y=True)
    path = tmp_path / "run.ckpt"
    model = LazyClassifier(small_mlp, epochs=3, random_state=0, checkpoint=path)
    whole = LazyClassifier(small_mlp, epochs=3, random_state=0).fit(X, y)

    def interrupted(run):
        original(run)
        if run.epoch == 2:
            run.keep(Checkpoint(path, measured=measured[0].measured))
            raise Interruption

    measured, original, made = [], Run.end_epoch, _trained.Checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(_trained, "Checkpoint", lambda p: measured.append(made(p)) or measured[0])
        patch.setattr(Run, "end_epoch", interrupted)
        with pytest.raises(Interruption):
            model.fit(X, y)
    # As with another number of threads: the same measurement but for the last bit.
    edge = _trained.stability_edge
    monkeypatch.setattr(
        _trained, "stability_edge", lambda *a, **k: np.nextafter(edge(*a, **k), np.inf)
    )
    resumed = model.fit(X, y)
    assert resumed.lr_ == whole.lr_
    assert resumed.stability_edge_ == whole.stability_edge_
    np.testing.assert_array_equal(resumed.history_["loss"], whole.history_["loss"])
    np.testing.assert_array_equal(resumed.decision_function(X), whole.decision_function(X))


def test_the_network_is_on_the_cpu_again_after_predicting():
    X, y = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 2
    model = LazyClassifier(epochs=1, random_state=0).fit(X, y)
    visited, module = [], model.module_

    class Elsewhere:
        def to(self, device):
            visited.append("device")
            return module

        def cpu(self):
            visited.append("cpu")

    model.module_ = Elsewhere()
    model.predict(X)
    model.stability_of_activations(X)
    assert visited == ["device", "cpu"] * 2
