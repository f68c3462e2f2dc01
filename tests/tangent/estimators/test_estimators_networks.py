"""Estimators of networks as others write them: parts, tokens, sequences, named outputs."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.svm import SVC
from torch import Tensor, nn

from tangent import (
    LazyClassifier,
    LazyRegressor,
    TangentFeatures,
    TangentKernel,
    TangentKernelClassifier,
    TangentKernelRegressor,
    linearize,
    tangent_features,
    tangent_kernel,
)
from tangent.kernel.products import KernelProduct

CLASSIFIERS = {
    "lazy": lambda **options: LazyClassifier(epochs=30, batch_size=16, device="cpu", **options),
    "kernel": TangentKernelClassifier,
}
REGRESSORS = {
    "lazy": lambda **options: LazyRegressor(epochs=30, batch_size=16, device="cpu", **options),
    "kernel": TangentKernelRegressor,
}


class Lora(nn.Module):
    """Two layers, the first with a low-rank part beside it."""

    def __init__(self):
        super().__init__()
        self.base, self.head = nn.Linear(4, 6), nn.Linear(6, 2)
        self.lora_a = nn.Parameter(torch.randn(2, 4) / 2)
        self.lora_b = nn.Parameter(torch.randn(6, 2) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.base(x) + F.linear(F.linear(x, self.lora_a), self.lora_b)))


class Recurrent(nn.Module):
    """The last state of an LSTM, among other things."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        states, _ = self.cell(x)
        return {"states": states, "scores": self.head(states[:, -1])}


class Words(nn.Module):
    """The mean of the words' vectors."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(12, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.int64
        return self.head(torch.tanh(self.embedding(x).mean(1)))


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def rows(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def sentences() -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(1).integers(1, 12, size=(40, 5))
    return X, (X[:, 0] > 6).astype(int)


@pytest.mark.parametrize(
    "parameters", ["lora_a", ["lora_a", "lora_b"], "lora_*", ("lora_?", "head")]
)
def test_a_kernel_of_some_parameters_is_that_of_their_features(parameters):
    model, x = made(Lora).double(), torch.from_numpy(rows(5, 4))
    phi = tangent_features(model, x, parameters=parameters)
    expected = torch.einsum("iap,jbp->iajb", phi, phi)
    torch.testing.assert_close(tangent_kernel(model, x, parameters=parameters), expected)
    product = KernelProduct(model, x, parameters=parameters)
    v = torch.linspace(-1, 1, product.rows, dtype=torch.float64)
    torch.testing.assert_close(product(v), expected.reshape(len(v), -1) @ v)


def test_a_pattern_that_none_matches_is_refused():
    with pytest.raises(ValueError, match=r"patterns that some match; got 'lore_\*'"):
        tangent_kernel(made(Lora), torch.from_numpy(rows(2, 4)).float(), parameters="lore_*")


def test_a_linearization_moves_the_parameters_that_it_is_told():
    model, x = made(Lora).double(), torch.from_numpy(rows(5, 4))
    linear = linearize(model, parameters="lora_*")
    assert linear.names == ("lora_a", "lora_b")
    with torch.no_grad():
        for delta in linear.delta:
            delta.fill_(0.5)
    phi = tangent_features(model, x, parameters="lora_*")
    torch.testing.assert_close(linear(x), 0.5 * phi.sum(2), check_stride=False)


def test_an_output_is_picked_by_name_and_the_network_is_left_as_found():
    model, x = made(Recurrent).double(), torch.from_numpy(rows(3, 4, 3))
    plain = nn.Sequential(model)
    plain.forward = lambda x: model(x)["scores"]  # type: ignore[method-assign]
    kernel = tangent_kernel(model, x, output="scores")
    torch.testing.assert_close(kernel, tangent_kernel(plain, x))
    phi = tangent_features(model, x, output=lambda found: found["states"][:, -1])
    assert phi.shape == (3, 8, sum(p.numel() for p in model.parameters()))
    assert isinstance(model(x), dict)
    with pytest.raises(ValueError, match="output 'logits' is not among"):
        tangent_kernel(model, x, output="logits")


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_trains_the_low_rank_part_alone(kind):
    X = rows(40, 4)
    y = np.where(X[:, 0] > 0, "yes", "no")
    model = CLASSIFIERS[kind](model=made(Lora), parameters="lora_*", random_state=0).fit(X, y)
    assert model.score(X, y) > 0.85
    if kind == "lazy":
        assert model.module_.names == ("lora_a", "lora_b")
    else:
        expected = tangent_kernel(
            made(Lora).double(), model.inputs_, outputs="trace", parameters="lora_*"
        )
        torch.testing.assert_close(model.kernel_(model.inputs_), expected / 2)


def test_conjugate_gradients_take_the_parameters_that_are_chosen():
    X = rows(60, 4)
    y = np.tanh(X[:, 0])
    options = {"model": made(Lora), "parameters": "head", "ridge": 1e-2, "outputs": "pseudo"}
    exact = TangentKernelRegressor(**options, solver="exact").fit(X, y)
    iterated = TangentKernelRegressor(**options, solver="cg", tolerance=1e-9).fit(X, y)
    np.testing.assert_allclose(iterated.predict(X), exact.predict(X), atol=1e-4)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_reads_sequences_with_a_named_output(kind):
    X = rows(40, 6, 3)
    y = (X[:, -1, 0] > 0).astype(int)
    model = CLASSIFIERS[kind](
        model=made(Recurrent), input_shape=(6, 3), output="scores", random_state=0
    ).fit(X, y)
    assert model.score(X, y) > 0.85
    flat = X.reshape(40, -1)
    np.testing.assert_array_equal(model.predict(flat), model.predict(X))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert clone(model).input_shape == (6, 3)


@pytest.mark.parametrize("kind", REGRESSORS)
def test_a_regressor_reads_tokens(kind):
    X, y = sentences()
    targets = np.stack([y, -2.0 * y], 1)
    model = REGRESSORS[kind](model=made(Words), input_shape=(5,), random_state=0)
    model.fit(X, targets)
    assert model.predict(X).shape == (40, 2)
    assert model.score(X, targets) > 0.3
    np.testing.assert_allclose(model.predict(X.astype(float)), model.predict(X))


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_reads_tokens_and_keeps_them_whole(kind):
    X, y = sentences()
    model = CLASSIFIERS[kind](model=made(Words), input_shape=(5,), random_state=0).fit(X, y)
    assert model.tokens_
    assert not model.mean_.any()
    assert model.score(X, y) > 0.8
    with pytest.raises(ValueError, match="X must hold tokens, whole numbers"):
        model.predict(X + 0.5)


def test_a_kernel_function_reads_sequences_with_a_named_output():
    X = rows(4, 6, 3)
    kernel = TangentKernel(made(Recurrent), input_shape=(6, 3), output="scores", scale=None)
    expected = tangent_kernel(
        made(Recurrent).double(), torch.from_numpy(X), output="scores", outputs="trace"
    )
    scores = made(Recurrent)(torch.from_numpy(X).float())["scores"]
    np.testing.assert_allclose(kernel(X), expected.numpy() / scores.shape[1], rtol=1e-9)
    np.testing.assert_allclose(kernel(X.reshape(4, 18), X), kernel(X), rtol=1e-9)
    np.testing.assert_allclose(kernel.diag(X), kernel(X).diagonal(), rtol=1e-9)
    y = np.array([0, 1, 0, 1])
    assert SVC(kernel=clone(kernel), C=1e3).fit(X.reshape(4, 18), y).score(X.reshape(4, 18), y) == 1


def test_a_kernel_function_knows_tokens_that_were_made_floats():
    X, y = sentences()
    kernel = TangentKernel(made(Words), input_shape=(5,), scale=None)
    expected = tangent_kernel(made(Words).double(), torch.from_numpy(X), outputs="trace") / 2
    np.testing.assert_allclose(kernel(X), expected.numpy(), rtol=1e-9)
    assert SVC(kernel=kernel, C=1e2).fit(X, y).score(X, y) > 0.8
    plain = nn.Sequential(nn.Embedding(12, 6), nn.Flatten(), nn.Linear(30, 2))
    with pytest.raises(ValueError, match="tokens are integers"):
        TangentKernel(plain, input_shape=(5,))(X + 0.5)
    with pytest.raises(ValueError, match=r"input_shape .* has 6 values but a row of X has 5"):
        TangentKernel(made(Words), input_shape=(6,))(X)


def test_features_of_tokens_are_those_of_the_network():
    X, _ = sentences()
    made_of = TangentFeatures(
        made(Words), n_components=None, centre=False, input_shape=(5,), dtype="float64",
        parameters="embedding",
    )  # fmt: skip
    phi = tangent_features(made(Words).double(), torch.from_numpy(X), parameters="embedding")
    expected = phi.sum(1) / 2**0.5
    np.testing.assert_allclose(made_of.fit_transform(X), expected.numpy(), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(made_of.transform(X), expected.numpy(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_what_does_not_fit_a_network_is_said(kind):
    X, y = sentences()
    options = {"random_state": 0}
    with pytest.raises(ValueError, match="tokens are integers, with the shape"):
        CLASSIFIERS[kind](model=nn.Sequential(nn.Embedding(12, 2), nn.Flatten()), **options).fit(
            X, y
        )
    with pytest.raises(ValueError, match=r"pass X.astype\(float\)"):
        CLASSIFIERS[kind](model=nn.Linear(5, 2), input_shape=(5,), **options).fit(X, y)
    with pytest.raises(ValueError, match=r"input_shape .* has 6 values but a row of X has 5"):
        CLASSIFIERS[kind](model=made(Words), input_shape=(6,), **options).fit(X, y)
    with pytest.raises(ValueError, match="leave one of them out"):
        CLASSIFIERS[kind](
            model=made(Words), input_shape=(5,), image_shape=(1, 1, 5), **options
        ).fit(X, y)
    with pytest.raises(ValueError, match="go from 1 to 99"):
        CLASSIFIERS[kind](model=made(Words), input_shape=(5,), **options).fit(
            np.where(X == 3, 99, X), y
        )


@pytest.mark.zoo
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_small_bert_classifies_tokens(kind):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=2,
    )  # fmt: skip
    torch.manual_seed(0)
    bert = transformers.BertForSequenceClassification(config)
    X, y = sentences()
    options = {"input_shape": (5,), "output": "logits", "random_state": 0}
    model = CLASSIFIERS[kind](model=bert, parameters=["*.attention", "classifier"], **options)
    assert model.fit(X, y).score(X, y) > 0.8


@pytest.mark.parametrize(
    "made",
    [
        LazyClassifier("vgg11", width=0.03, epochs=1, augment=True, random_state=0),
        TangentKernelClassifier("vgg11", width=0.03, ridge=1.0, loss="square", random_state=0),
    ],
)
def test_images_need_no_shape_beside_them(made):
    X = np.random.default_rng(0).random((12, 1, 32, 32), dtype=np.float32)
    y = np.arange(12) % 2
    found = clone(made).fit(X, y)
    named = clone(made).set_params(image_shape=(1, 32, 32)).fit(X.reshape(12, -1), y)
    assert found.input_shape_ == (1, 32, 32)
    np.testing.assert_array_equal(found.decision_function(X), named.decision_function(X))
    rows = X.reshape(12, -1)
    np.testing.assert_array_equal(found.decision_function(rows), named.decision_function(rows))
    with pytest.raises(ValueError, match="image_shape"):
        found.fit(rows, y)  # the images of the earlier fit are forgotten


def test_features_of_images_need_no_shape_beside_them():
    X = np.random.default_rng(0).random((6, 1, 32, 32), dtype=np.float32)
    options = {"width": 0.03, "n_components": 20, "random_state": 0}
    found = TangentFeatures("vgg11", **options).fit_transform(X)
    named = TangentFeatures("vgg11", **options, image_shape=(1, 32, 32))
    np.testing.assert_array_equal(found, named.fit_transform(X.reshape(6, -1)))
