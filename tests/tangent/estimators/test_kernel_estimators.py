import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_moons
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from tangent.estimators._ensemble import EnsembleKernel
from tangent.estimators.candidates import Perceptron, SinCos
from tangent.estimators.features_transformer import TangentFeatures
from tangent.estimators.kernel_classifier import TangentKernelClassifier
from tangent.estimators.kernel_function import TangentKernel
from tangent.estimators.kernel_regressor import TangentKernelRegressor
from tangent.kernel.matrix import tangent_kernel
from tangent.kernel.products import KernelProduct
from tangent.solve.flow import training_path
from tangent.solve.spectrum import spectrum
from tests.tangent.kernels import features, trace

SMALL = Perceptron("sincos", 1, 16, 0.6)


def small_classifier(**options):
    return TangentKernelClassifier(**{"model": SMALL, "n_ensemble": 1, "random_state": 0} | options)


def small_regressor(**options):
    return TangentKernelRegressor(**{"model": SMALL, "n_ensemble": 1, "random_state": 0} | options)


@parametrize_with_checks(
    [
        small_classifier(loss="square", ridge=0.1),
        small_regressor(),
        TangentFeatures(SMALL, n_components=8, random_state=0),
    ]
)
def test_scikit_learns_contract(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [
        small_classifier(loss="cross_entropy", ridge=0.1),
        small_regressor(time=1e4),
        small_regressor(outputs="full", ridge=0.1),
        small_classifier(solver="cg", ridge=0.1, rank=5, tolerance=1e-12),
        small_regressor(solver="cg", ridge=0.1, rank=5, tolerance=1e-12),
    ]
)
def test_scikit_learns_contract_of_the_other_options(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    return X[order], np.array(["setosa", "versicolor", "virginica"])[y[order]]


@pytest.fixture(scope="module")
def diabetes():
    X, y = load_diabetes(return_X_y=True)
    return X[:120], y[:120]


def test_regressor_is_kernel_ridge_on_the_tangent_kernel(diabetes):
    X, y = diabetes
    ours = small_regressor(ridge=0.3, fit_intercept=False, normalize=False).fit(X[:80], y[:80])
    phi = features(ours.kernel_.networks[0], torch.from_numpy(X))
    kernel = trace(phi, phi).numpy()
    unit = kernel[:80, :80].diagonal().mean()
    theirs = KernelRidge(alpha=0.3 * unit, kernel="precomputed").fit(
        kernel[:80, :80], y[:80] - y[:80].mean()
    )
    expected = theirs.predict(kernel[80:, :80]) + y[:80].mean()
    np.testing.assert_allclose(ours.predict(X[80:]), expected, rtol=1e-8)


def test_posterior_is_that_of_a_gaussian_process(diabetes):
    X, y = diabetes
    ours = small_regressor(ridge=0.3, fit_intercept=False, normalize=False).fit(X[:80], y[:80])
    network = ours.kernel_.networks[0]
    unit = ours.fit_.unit
    kernel = TangentKernel(network, scale=None)
    matrix = kernel(X[:80]) + 0.3 * unit * np.eye(80)
    z = y[:80] - y[:80].mean()
    prior = z @ np.linalg.solve(matrix, z) / 80  # scale of largest likelihood
    gp = GaussianProcessRegressor(
        ConstantKernel(prior, "fixed") * kernel, alpha=0.3 * unit * prior, optimizer=None
    ).fit(X[:80], z)
    mean, std = ours.predict(X[80:], return_std=True)
    their_mean, their_std = gp.predict(X[80:], return_std=True)
    np.testing.assert_allclose(mean, their_mean + y[:80].mean(), rtol=1e-6)
    np.testing.assert_allclose(std, their_std, rtol=1e-6)


def test_posterior_with_a_free_constant_is_the_limit_of_a_large_prior_on_it(diabetes):
    X, y = diabetes
    ours = small_regressor(ridge=0.3, normalize=False).fit(X[:80], y[:80])
    unit = ours.fit_.unit
    kernel = TangentKernel(ours.kernel_.networks[0], scale=None)
    flat = 1e7 * unit
    matrix = kernel(X[:80]) + flat + 0.3 * unit * np.eye(80)
    cross = kernel(X[80:], X[:80]) + flat
    solved = np.linalg.solve(matrix, cross.T)
    variance = kernel.diag(X[80:]) + flat - np.einsum("qi,iq->q", cross, solved)
    np.testing.assert_allclose(ours._variances(X[80:]), variance, rtol=1e-4)
    np.testing.assert_allclose(ours.predict(X[80:]), solved.T @ y[:80], rtol=1e-4)


def test_full_kernel_of_independent_outputs_is_the_shared_one(diabetes):
    """A network whose outputs share nothing but have equal weights: block-diagonal kernel."""
    X, y = diabetes
    one = SMALL((10,), 1, torch.Generator().manual_seed(0)).double()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = one, pickle.loads(pickle.dumps(one))

        def forward(self, x):
            return torch.cat([self.a(x), self.b(x)], dim=1)

    both = np.column_stack([y, y**2])
    full = small_regressor(model=Twice(), outputs="full", ridge=0.1).fit(X, both)
    shared = small_regressor(model=one, ridge=0.1).fit(X, both)
    np.testing.assert_allclose(full.predict(X), shared.predict(X), rtol=1e-8)
    np.testing.assert_allclose(full.loo_prediction_, shared.loo_prediction_, rtol=1e-8)


def test_leave_one_out_prediction_is_that_of_the_refit(diabetes):
    X, y = diabetes
    fit = small_regressor(ridge=0.3, normalize=False).fit(X, y)
    without = small_regressor(
        model=fit.kernel_.networks[0], ridge=0.3 * fit.fit_.unit, normalize=False
    )
    kept = np.arange(len(X)) != 7
    without.fit(X[kept], y[kept])
    without.set_params(ridge=0.3 * fit.fit_.unit / without.fit_.unit).fit(X[kept], y[kept])
    expected = without.predict(X[7:8])[0]
    assert fit.loo_prediction_[7] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("loss", ["square", "cross_entropy"])
def test_sample_weight_two_is_the_row_twice(loss, iris):
    X, y = iris[0][:60], iris[1][:60]
    weight = np.ones(60)
    weight[:20] = 2
    weight[50:] = 0
    rows = np.r_[np.arange(50), np.arange(20)]
    one = small_classifier(loss=loss).fit(X, y, sample_weight=weight)
    two = small_classifier(loss=loss).fit(X[rows], y[rows])
    np.testing.assert_allclose(one.decision_function(X), two.decision_function(X), atol=1e-6)


def test_duplicate_rows_do_not_give_their_answer_away_in_leave_one_out(diabetes):
    X, y = diabetes
    once = small_regressor(ridge=0.1).fit(X, y)
    twice = small_regressor(ridge=0.2).fit(np.r_[X, X], np.r_[y, y])
    assert twice.loo_error_ == pytest.approx(once.loo_error_)
    np.testing.assert_allclose(twice.loo_prediction_, once.loo_prediction_)


def test_time_is_that_of_gradient_flow_on_the_centred_features(diabetes):
    X, y = diabetes
    model = small_regressor(time=50.0, normalize=False).fit(X[:80], y[:80])
    phi = features(model.kernel_.networks[0], torch.from_numpy(X))
    unit = float((phi[:80] ** 2).sum(2).mean())
    phi = (phi - phi[:80].mean(0)) / unit**0.5
    mean = y[:80].mean()
    path = training_path(
        spectrum(trace(phi[:80], phi[:80])),
        torch.from_numpy(y[:80] - mean),
        [50.0],
        cross_kernel=trace(phi[80:], phi[:80]),
    )
    np.testing.assert_allclose(model.predict(X[80:]), path.test_predictions[0] + mean, rtol=1e-8)


def test_early_stopping_at_time_zero_predicts_the_mean(diabetes):
    X, y = diabetes
    np.testing.assert_allclose(small_regressor(time=0.0).fit(X, y).predict(X), y.mean())


def test_default_classifier_chooses_among_networks_and_losses(iris):
    model = TangentKernelClassifier(width=0.1, n_ensemble=1, random_state=0)
    model.fit(iris[0][:90], iris[1][:90])
    assert model.score(iris[0][90:], iris[1][90:]) > 0.9
    assert isinstance(model.chosen_model_, Perceptron)
    proba = model.predict_proba(iris[0][90:])
    np.testing.assert_allclose(proba.sum(1), 1)
    assert (model.classes_[proba.argmax(1)] == model.predict(iris[0][90:])).all()
    assert model.loo_log_loss_ < 0.3


def test_several_networks_race_and_the_winner_is_what_it_is_alone(iris):
    """The race costs each network one member; the fit with the winner is that with it alone."""
    X, y = iris[0][::2], iris[1][::2]
    gains = [Perceptron("sincos", 1, 32, gain) for gain in (0.1, 0.6, 20.0)]
    asked: list[int] = []
    options = {"loss": "square", "n_ensemble": 3, "random_state": 0}
    model = TangentKernelClassifier(gains, **options)
    first = EnsembleKernel.first

    def counted(self, *args, **kwargs):
        asked.append(len(self.networks))
        return first(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnsembleKernel, "first", counted)
        model.fit(X, y)
    assert asked == [3, 3, 3]
    assert model.chosen_model_ in gains[:2]  # the last one tells no row from another
    x = torch.from_numpy((X - model.mean_) / model.scale_)
    whole = sum(tangent_kernel(net, x, outputs="trace") for net in model.kernel_.networks) / 9
    torch.testing.assert_close(model.kernel_(x), whole)
    alone = TangentKernelClassifier(
        model.kernel_.networks[0], ridge=model.ridge_, **{**options, "n_ensemble": 1}
    ).fit(X, y)
    assert abs(alone.loo_error_ - model.loo_error_) < 0.1


def test_the_loss_decides_which_network_wins():
    """Cross entropy and square loss each have a network of their own; the better pair is kept."""
    from sklearn.datasets import make_gaussian_quantiles

    X, y = make_gaussian_quantiles(n_samples=200, n_features=5, n_classes=3, random_state=0)
    models = [Perceptron("sincos", 1, 128, gain) for gain in (0.3, 1.0)]
    fits = {
        loss: TangentKernelClassifier(models, loss=loss, n_ensemble=1, random_state=0).fit(X, y)
        for loss in ("square", "cross_entropy", "auto")
    }
    apart = min(fits["square"].loo_log_loss_, fits["cross_entropy"].loo_log_loss_)
    assert fits["auto"].loo_log_loss_ <= apart * 1.01


def test_cross_entropy_bends_where_one_hot_regression_cannot():
    """Three nested shells: the middle class is no level of a quadratic score."""
    from sklearn.datasets import make_gaussian_quantiles

    X, y = make_gaussian_quantiles(n_samples=300, n_features=5, n_classes=3, random_state=0)
    model = Perceptron("sincos", 1, 256, 0.3)
    scores = {
        loss: small_classifier(model=model, loss=loss).fit(X[:200], y[:200]).score(X[200:], y[200:])
        for loss in ("square", "cross_entropy", "auto")
    }
    assert scores["cross_entropy"] > scores["square"]
    assert scores["auto"] == scores["cross_entropy"]


def test_sincos_perceptron_has_a_gaussian_kernel_in_it(generator):
    x = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(200_000, 4, generator=generator, dtype=torch.float64)
    hidden = SinCos()(x @ weights.T * 0.5)
    expected = torch.exp(-0.125 * torch.cdist(x, x) ** 2)
    torch.testing.assert_close(hidden @ hidden.T / 200_000, expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("solver", ["exact", "cg"])
def test_float32_in_float32_out(solver, diabetes):
    X, y = diabetes
    wide = small_regressor(ridge=0.1, solver=solver).fit(X, y)
    narrow = small_regressor(ridge=0.1, solver=solver).fit(X.astype(np.float32), y)
    predicted = narrow.predict(X.astype(np.float32))
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, wide.predict(X), rtol=1e-3)


@pytest.mark.parametrize("outputs", ["pseudo", "full"])
def test_conjugate_gradients_predict_what_the_exact_solution_predicts(outputs, iris):
    X, y = iris
    options = {"outputs": outputs, "ridge": 0.05, "loss": "square"}
    exact = small_classifier(**options).fit(X[:100], y[:100])
    cg = small_classifier(solver="cg", tolerance=1e-8, rank=10, **options).fit(X[:100], y[:100])
    scale = cg.temperature_ / exact.temperature_
    np.testing.assert_allclose(
        cg.decision_function(X), scale * exact.decision_function(X), rtol=1e-4, atol=1e-4
    )
    assert cg.n_iter_ > 0
    if outputs == "pseudo":  # of one matrix each
        assert cg.fit_.condition_number == pytest.approx(exact.fit_.condition_number, rel=0.05)


@pytest.mark.parametrize(
    "estimator",
    [
        small_classifier(),
        small_classifier(solver="cg", ridge=0.1, rank=5),
        TangentKernelRegressor("mlp", width=0.05),
        TangentFeatures(SMALL, n_components=5),
    ],
)
def test_pickle_and_clone_keep_what_matters(estimator, iris):
    X, y = iris
    target = (y == "setosa").astype(float) if "Regressor" in type(estimator).__name__ else y
    fitted = clone(estimator).set_params(random_state=3).fit(X, target)
    again = pickle.loads(pickle.dumps(fitted))
    name = "transform" if hasattr(fitted, "transform") else "predict"
    np.testing.assert_array_equal(getattr(again, name)(X), getattr(fitted, name)(X))
    assert clone(fitted).get_params() == fitted.get_params()
    refitted = clone(fitted).fit(X, target)
    np.testing.assert_array_equal(getattr(refitted, name)(X), getattr(fitted, name)(X))


def test_grid_search_inside_a_pipeline(iris):
    X, y = iris
    pipeline = make_pipeline(StandardScaler(), small_classifier(loss="square"))
    grid = {
        "tangentkernelclassifier__ridge": [1e-2, 1.0],
        "tangentkernelclassifier__outputs": ["trace", "pseudo"],
    }
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    assert search.best_score_ > 0.9


def test_images_go_through_a_convolutional_network():
    rng = np.random.default_rng(0)
    X = rng.random((24, 3, 32, 32), dtype=np.float32)
    y = np.arange(24) % 2
    X[y == 1, 0] += 0.5
    model = TangentKernelClassifier(
        "vgg11", width=0.02, image_shape=(3, 32, 32), n_ensemble=1, random_state=0
    )
    model.fit(X, y)
    assert model.score(X.reshape(24, -1), y) > 0.9
    assert model.n_features_in_ == 3 * 32 * 32


@pytest.mark.parametrize(
    "estimator",
    [
        SVC(kernel=TangentKernel(SMALL)),
        GaussianProcessClassifier(ConstantKernel() * TangentKernel(SMALL)),
        make_pipeline(
            TangentFeatures(SMALL, n_components=50, random_state=0), LogisticRegression()
        ),
    ],
)
def test_scikit_learns_classifiers_take_kernel_and_features(estimator, iris):
    X, y = iris
    X = (X - X.mean(0)) / X.std(0)
    assert estimator.fit(X[:60], y[:60]).score(X[60:], y[60:]) > 0.85


@pytest.mark.parametrize(
    "estimator",
    [
        KernelRidge(kernel=TangentKernel(SMALL), alpha=0.1),
        GaussianProcessRegressor(
            ConstantKernel(10.0) * TangentKernel(SMALL) + WhiteKernel(1.0), normalize_y=True
        ),
        make_pipeline(TangentFeatures(SMALL, n_components=None), RidgeCV(np.logspace(-3, 3, 7))),
    ],
)
def test_scikit_learns_regressors_take_kernel_and_features(estimator, diabetes):
    X, y = diabetes
    X = X / X.std(0)
    estimator.fit(X[:80], y[:80] - y.mean())
    assert estimator.score(X[80:], y[80:] - y.mean()) > 0.2


def test_kernel_function_has_a_unit_diagonal_and_matches_features(diabetes):
    X, _ = diabetes
    raw = TangentKernel(SMALL, scale=None)
    unit = TangentKernel(SMALL)
    matrix = raw(X)
    root = np.sqrt(matrix.diagonal())
    np.testing.assert_allclose(unit(X), matrix / np.outer(root, root))
    np.testing.assert_allclose(unit(X[:5], X), unit(X)[:5])
    np.testing.assert_allclose(raw.diag(X), matrix.diagonal())
    np.testing.assert_array_equal(unit.diag(X), 1)
    _, gradient = unit(X[:4], eval_gradient=True)
    assert gradient.shape == (4, 4, 0)


def test_sketched_features_keep_inner_products(iris):
    X, _ = iris
    exact = TangentFeatures(SMALL, n_components=None, random_state=0).fit_transform(X)
    sketch = TangentFeatures(SMALL, n_components=4000, random_state=0).fit_transform(X)
    scale = np.abs(exact @ exact.T).max()
    assert np.abs(sketch @ sketch.T - exact @ exact.T).max() < 0.1 * scale
    np.testing.assert_allclose(exact.mean(0), 0, atol=1e-5)


def test_features_have_names_and_come_as_a_frame(iris):
    transformer = TangentFeatures(SMALL, n_components=3, random_state=0).set_output(
        transform="pandas"
    )
    frame = transformer.fit_transform(iris[0])
    assert list(frame.columns) == ["tangentfeatures0", "tangentfeatures1", "tangentfeatures2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": "best"}, "ridge must be a number, several, or 'loo'; got 'best'"),
        ({"ridge": -1.0}, "ridge must be at least 0 and finite"),
        ({"ridge": []}, "ridge must be at least 0 and finite"),
        ({"solver": "qr"}, "solver must be 'auto', 'exact' or 'cg'"),
        ({"outputs": "all"}, "outputs must be 'trace', 'pseudo', 'full' or the index"),
        ({"time": -1.0}, "time must be at least 0"),
        ({"n_ensemble": 0}, "n_ensemble must be an integer, at least 1"),
        ({"dtype": "int8"}, "dtype must be 'auto', 'float32' or 'float64'"),
        ({"loss": "hinge"}, "loss must be 'auto', 'square' or 'cross_entropy'"),
        ({"loss": "cross_entropy", "time": 1.0}, "loss='cross_entropy' needs time=None"),
        ({"image_shape": (3, 4, 4)}, "image_shape .* has 48 values but a row of X has 4"),
        ({"model": []}, "model must hold at least one network"),
        ({"model": nn.Linear(4, 2), "outputs": "full"}, r"model must return \(n, 3\) outputs"),
    ],
)
def test_bad_options_are_named(options, message, iris):
    with pytest.raises(ValueError, match=message):
        small_classifier(**options).fit(*iris)


def test_bad_rows_and_weights_are_named(iris):
    X, y = iris
    with pytest.raises(ValueError, match="sample_weight must have shape"):
        small_classifier().fit(X, y, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match="sample_weight must be finite and at least 0"):
        small_classifier().fit(X, y, sample_weight=-np.ones(len(y)))
    with pytest.raises(ValueError, match="at least two classes; got one class"):
        small_classifier().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="random_state must be an int"):
        TangentKernel(random_state=None)(X)
    with pytest.raises(ValueError, match="return_std=True needs solver='exact'"):
        small_regressor(time=1.0).fit(X, X[:, 0]).predict(X, return_std=True)


def test_constant_target_is_predicted_as_it_is(diabetes):
    X, _ = diabetes
    model = small_regressor().fit(X, np.full(len(X), 3.0))
    np.testing.assert_allclose(model.predict(X), 3.0)


def test_two_moons_out_of_the_box():
    X, y = make_moons(200, noise=0.2, random_state=0)
    model = TangentKernelClassifier(width=0.25, n_ensemble=1, random_state=0).fit(X[:120], y[:120])
    assert model.score(X[120:], y[120:]) > 0.93
    assert model.decision_function(X[120:]).shape == (80,)


def test_too_many_rows_for_memory_name_the_solver_to_take(iris, monkeypatch):
    monkeypatch.setattr("tangent.solve.system.available_bytes", lambda: 1e5)
    with pytest.raises(MemoryError, match=r"50 rows would fit.*take solver='cg'"):
        small_classifier(solver="exact").fit(*iris)


def test_auto_solver_takes_conjugate_gradients_where_the_kernel_does_not_fit(iris, monkeypatch):
    monkeypatch.setattr("tangent.estimators._tangent._EXACT_ROWS", 100)
    model = small_classifier(ridge=0.1, rank=10).fit(*iris)
    assert model.solver_ == "cg"
    assert model.score(*iris) > 0.9


def clusters(k, n, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    return rng.normal(size=(k, 10))[y] * 3 + rng.normal(size=(n, 10)), y


def test_forty_classes_by_conjugate_gradients_take_few_products(monkeypatch):
    X, y = clusters(40, 200)
    products = 0
    apply = KernelProduct.__call__

    def counted(self, v):
        nonlocal products
        products += v.reshape(len(v), -1).shape[1] * (self.k if self.outputs == "trace" else 1)
        return apply(self, v)

    monkeypatch.setattr(KernelProduct, "__call__", counted)
    options = {"ridge": 0.1, "loss": "square"}
    found = small_classifier(solver="cg", tolerance=1e-10, **options).fit(X, y)
    assert found.solver_ == "cg"
    assert found.fit_.log[-1].residual <= 1e-10
    assert products <= 1000
    exact = small_classifier(solver="exact", **options).fit(X, y)
    np.testing.assert_allclose(
        found._outputs(X), exact._outputs(X), atol=1e-6 * np.abs(exact._outputs(X)).max()
    )


def test_products_and_the_formed_kernel_give_the_same(monkeypatch):
    X, y = clusters(3, 24)
    options = {"solver": "cg", "ridge": 0.1, "tolerance": 1e-10, "loss": "square"}
    formed = small_classifier(**options).fit(X, y)
    monkeypatch.setattr("tangent.estimators._primal._PASSES", 10**9)
    products = small_classifier(**options).fit(X, y)
    np.testing.assert_allclose(products._outputs(X), formed._outputs(X), atol=1e-7)


@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
@pytest.mark.parametrize(("given", "outputs"), [("mlp", 16), (None, 4)])
def test_a_thousand_classes_share_few_outputs(given, outputs):
    X, y = clusters(1000, 1000)
    options = {} if given is None else {"model": given, "width": 0.05}
    model = small_classifier(solver="exact", ridge=0.1, loss="square", **options).fit(X, y)
    assert model.kernel_.networks[0](torch.zeros(1, 10).double()).shape == (1, outputs)
    assert model.predict_proba(X[:3]).shape == (3, 1000)


NO_KERNEL = nn.Linear(2, 2, bias=False)  # at zeros
ONE_ROW = {"ones": np.ones((6, 2)), "zeros": np.zeros((6, 2)), "large": np.full((6, 2), 1e10)}


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        *((rows, {}) for rows in ONE_ROW),
        ("ones", {"solver": "cg"}),
        ("large", {"solver": "cg"}),
        ("zeros", {"loss": "square"}),
        ("large", {"loss": "square"}),
        ("ones", {"loss": "cross_entropy"}),
        ("zeros", {"loss": "cross_entropy"}),
        ("ones", {"outputs": "full"}),
        ("large", {"outputs": "pseudo"}),
        ("zeros", {"normalize": False}),
        ("large", {"normalize": False}),
        ("ones", {"time": 1.0}),
        ("zeros", {"fit_intercept": False, "normalize": True}),
        ("zeros", {"model": NO_KERNEL}),
        ("zeros", {"model": NO_KERNEL, "loss": "cross_entropy"}),
        ("zeros", {"model": NO_KERNEL, "solver": "cg", "fit_intercept": False}),
        ("zeros", {"model": NO_KERNEL, "outputs": "full"}),
        ("zeros", {"model": NO_KERNEL, "time": 1.0}),
    ],
    ids=str,
)
def test_equal_rows_are_of_the_majority_whatever_the_options(rows, options):
    X, y = ONE_ROW[rows], np.array([0, 0, 0, 0, 1, 1])
    model = TangentKernelClassifier(random_state=0, width=0.02, n_ensemble=1, **options).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), 0)
    proba = model.predict_proba(X)
    assert np.isfinite(proba).all()
    assert np.isfinite(model.loo_log_loss_)


def test_probabilities_of_equal_rows_are_the_shares_of_the_classes():
    model = TangentKernelClassifier(random_state=0, width=0.02, loss="square")
    proba = model.fit(np.ones((6, 2)), [0, 0, 0, 0, 1, 1]).predict_proba(np.ones((1, 2)))
    np.testing.assert_allclose(proba, [[2 / 3, 1 / 3]], atol=1e-6)


def outgrows(input_shape, n_outputs, generator):
    return nn.Linear(10**8, 10**7)


class Outgrowing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) + torch.empty(10**15)[:3]


def test_a_factory_that_outgrows_memory_is_named(iris):
    words = r"model: the factory asked for [\d.,]+ GiB .*; make the network smaller"
    with pytest.raises(MemoryError, match=words):
        small_classifier(model=outgrows).fit(*iris)


def test_a_network_whose_kernel_outgrows_memory_is_named(iris):
    words = r"Outgrowing on two inputs asked for [\d.,]+ GiB .*; take a smaller network"
    with pytest.raises(MemoryError, match=words):
        small_classifier(model=Outgrowing(), solver="exact").fit(*iris)
