"""Estimators name a network as the command line does."""

from __future__ import annotations

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from torch import nn

from tangent import (
    LazyClassifier,
    LazyRegressor,
    TangentFeatures,
    TangentKernel,
    TangentKernelClassifier,
    TangentKernelRegressor,
)
from tangent.nets import network

OWN = """
from torch import nn

class Net(nn.Sequential):
    pass

def build(input_shape, n_outputs, generator):
    size = 1
    for s in input_shape:
        size *= s
    first, last = nn.Linear(size, 6), nn.Linear(6, n_outputs)
    nn.init.normal_(first.weight, generator=generator)
    return Net(nn.Flatten(), first, nn.Tanh(), last)

def words(n_outputs):
    return None

def text(input_shape, n_outputs, generator):
    return "a network"
"""
X = np.random.default_rng(0).normal(size=(24, 12))
Y = (X[:, 0] > 0).astype(int)
ESTIMATORS = {
    "lazy classifier": lambda model, **o: LazyClassifier(model, epochs=2, device="cpu", **o),
    "lazy regressor": lambda model, **o: LazyRegressor(model, epochs=2, device="cpu", **o),
    "kernel classifier": TangentKernelClassifier,
    "kernel regressor": TangentKernelRegressor,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_for_fits.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_for_fits", None)


def outputs(fitted, rows):
    return fitted.predict_proba(rows) if hasattr(fitted, "predict_proba") else fitted.predict(rows)


@pytest.mark.parametrize("name", ["own_for_fits.py:build", "own_for_fits:build"])
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_function_by_its_name_is_the_function_itself(kind, name, folder):
    import own_for_fits  # type: ignore[import-not-found]

    make, options = ESTIMATORS[kind], {"random_state": 0, "input_shape": (3, 4)}
    named = make(name, **options)
    assert clone(named).get_params()["model"] == name
    fitted = clone(named).fit(X, Y)
    given = make(own_for_fits.build, **options).fit(X, Y)
    np.testing.assert_array_equal(outputs(fitted, X), outputs(given, X))
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(outputs(again, X), outputs(fitted, X))
    assert again.get_params()["model"] == name


def test_the_kernel_function_and_the_features_take_the_name_too(folder):
    import own_for_fits

    for make in (
        TangentKernel,
        lambda model: TangentFeatures(model, n_components=None, random_state=0),
    ):
        one, other = make("own_for_fits.py:build"), make(own_for_fits.build)
        of_one, of_other = (
            e(X) if isinstance(e, TangentKernel) else e.fit_transform(X) for e in (one, other)
        )
        np.testing.assert_array_equal(of_one, of_other)


def test_a_name_is_cross_validated(folder):
    scores = cross_val_score(TangentKernelClassifier("own_for_fits.py:build"), X, Y, cv=2)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_a_library_is_asked_for_its_network(name):
    pytest.importorskip(name.partition(":")[0])
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    model = TangentKernelClassifier(
        name, image_shape=(3, 32, 32), loss="square", ridge=1.0, random_state=0
    )
    state = torch.get_rng_state()
    fitted = clone(model).fit(images, [0, 1, 0, 1])
    assert torch.equal(torch.get_rng_state(), state)
    expected = outputs(clone(model).fit(images, [0, 1, 0, 1]), images)
    np.testing.assert_array_equal(outputs(fitted, images), expected)


class Stand(nn.Sequential):
    """What the stand-in for timm makes: weights from torch's global generator."""

    def __init__(self, channels, n_outputs):
        super().__init__(nn.Flatten(), nn.Linear(16 * channels, n_outputs))


@pytest.fixture
def timm(monkeypatch):
    def create_model(name, *, pretrained, num_classes, in_chans):
        assert not pretrained
        return Stand(in_chans, num_classes)

    module = SimpleNamespace(list_models=lambda: ["small", "smaller"], create_model=create_model)
    monkeypatch.setitem(sys.modules, "timm", module)


def test_members_of_an_ensemble_of_a_library_are_drawn_apart(timm):
    images = np.random.default_rng(0).normal(size=(6, 1, 4, 4))
    model = TangentKernelRegressor("timm:small", image_shape=(1, 4, 4), n_ensemble=2)
    one, other = model.fit(images, np.arange(6.0)).kernel_.networks
    assert not torch.equal(one[1].weight, other[1].weight)
    lazy = LazyClassifier("timm:small", image_shape=(1, 4, 4), epochs=1, device="cpu")
    assert lazy.fit(images, [0, 1] * 3).predict(images).shape == (6,)


def test_networks_of_a_library_follow_their_generator(timm):
    def drawn(generator):
        return network("timm:small", (1, 4, 4), 2, generator=generator)[1].weight

    one, other = (torch.Generator().manual_seed(0) for _ in range(2))
    first = drawn(one)
    torch.testing.assert_close(first, drawn(other))
    assert not torch.equal(first, drawn(one))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vgg12", "model must be one of 'vgg11', .*FILE.py:FUNCTION.*; got 'vgg12'"),
        ("timm:smal", r"timm has no network 'smal'; did you mean 'small'.*list_models\(\) names"),
        ("timm:small", r"takes images; got inputs of shape \(12,\); set image_shape"),
        ("nowhere.py:build", "model 'nowhere.py:build' cannot be imported: there is no file"),
        ("own_for_fits.py:words", r"is called with \(input_shape.*its own signature is \(n_outp"),
        ("own_for_fits.py:text", r"must return a torch\.nn\.Module; got str"),
        ("own_for_fits.py:other", "has no function 'other'"),
    ],
)
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_a_wrong_name_is_refused_with_a_way_out(kind, name, words, folder, timm):
    with pytest.raises(ValueError, match=words):
        ESTIMATORS[kind](name).fit(X, Y)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_library_that_is_not_installed_is_named_with_its_command(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"{library}.models", raising=False)
    words = f"model '{library}:x' needs the package {library}, .*; pip install {library}"
    with pytest.raises(ModuleNotFoundError, match=words):
        LazyClassifier(f"{library}:x").fit(X, Y)


def test_torchvision_is_imported_only_when_it_is_named(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] in ("torchvision", "timm")]:
        monkeypatch.delitem(sys.modules, name)
    LazyClassifier("mlp", width=0.1, epochs=1, device="cpu").fit(X, Y)
    assert not {"torchvision", "timm"} & {n.partition(".")[0] for n in sys.modules}
