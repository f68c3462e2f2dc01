"""Outputs that are no rows: a word before anything is computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tangent import (
    LazyClassifier,
    TangentFeatures,
    TangentKernelClassifier,
    TangentOperator,
    laziness,
    tangent_features,
    tangent_kernel,
)
from tangent.kernel import KernelProduct
from tangent.models import mean_tangent_features


class Of(nn.Module):
    """A linear layer and what is made of its outputs."""

    def __init__(self, made, k=1):
        super().__init__()
        self.layer = nn.Linear(3, k, dtype=torch.float64)
        self.made = made

    def forward(self, x):
        return self.made(self.layer(x))


WRONG = {
    "summed over the batch": (
        lambda f: f.sum(),
        ValueError,
        r"one row of outputs for each input; for 2 inputs it returned shape \(\); keep the batch",
    ),
    "transposed": (lambda f: f.T, ValueError, r"for 2 inputs it returned shape \(1, 2\)"),
    "a dict": (
        lambda f: {"scores": f, "hidden": f},
        TypeError,
        "must return one tensor that depends on its input; got dict with keys 'scores', 'hidden'",
    ),
    "a tuple": (
        lambda f: (f, f),
        TypeError,
        "must return one tensor that depends on its input; got tuple",
    ),
}
X = np.random.default_rng(0).normal(size=(6, 3))
x = torch.from_numpy(X)
CALLS = {
    "kernel": lambda m: tangent_kernel(m, x),
    "kernel of one": lambda m: tangent_kernel(m, x[:1]),
    "features": lambda m: tangent_features(m, x),
    "product": lambda m: KernelProduct(m, x),
    "operator": lambda m: TangentOperator(m, x),
    "mean features": lambda m: mean_tangent_features(m, [x]),
    "report": lambda m: laziness(m, x, torch.zeros(6, 1), epochs=1),
    "kernel classifier": lambda m: TangentKernelClassifier(m).fit(X, X[:, 0] > 0),
    "transformer": lambda m: TangentFeatures(m, n_components=4).fit(X),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", WRONG)
def test_outputs_that_are_no_rows_are_described(wrong, call):
    made, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        CALLS[call](Of(made))


@pytest.mark.parametrize("wrong", ["summed over the batch"])
def test_the_lazy_classifier_describes_them_too(wrong):
    made, error, message = WRONG[wrong]
    with pytest.raises(error, match=message):
        LazyClassifier(Of(made), epochs=1).fit(X, X[:, 0] > 0)


def test_a_network_that_squeezes_its_one_output_has_features_and_kernel():
    model = Of(torch.squeeze)
    expected = torch.cat([x, x.new_ones(6, 1)], dim=1)[:, None]  # of weights and bias
    for n in (1, 2, 6):
        phi = tangent_features(model, x[:n])
        torch.testing.assert_close(phi, expected[:n])
        kernel = torch.einsum("iap,jbp->iajb", phi, phi)
        torch.testing.assert_close(tangent_kernel(model, x[:n]), kernel)


@pytest.mark.parametrize("call", [tangent_kernel, tangent_features])
def test_no_parameters_are_refused(call):
    with pytest.raises(ValueError, match="parameters must name at least one parameter or module"):
        call(Of(lambda f: f), x, parameters=[])


def normalized_network(dtype=torch.float32):
    torch.manual_seed(0)
    layers = [nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2)]
    return nn.Sequential(*layers).to(dtype)


@pytest.mark.parametrize("parametrization", ["difference", "direct"])
def test_fresh_batch_norm_and_dropout_act_as_in_evaluation(parametrization):
    y = X[:, 0] > 0
    options = {"epochs": 3, "alpha": 10.0, "parametrization": parametrization, "random_state": 0}
    model = normalized_network()
    found = LazyClassifier(model, **options).fit(X, y).decision_function(X)
    assert model.training
    expected = LazyClassifier(normalized_network().eval(), **options).fit(X, y)
    np.testing.assert_array_equal(found, expected.decision_function(X))
