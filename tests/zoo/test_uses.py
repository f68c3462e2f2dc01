"""What is built on the look into networks, on networks that others wrote.

Kernels are compared with one backward pass an input and output, trained models with the
linearization, gates with those that `describe` names.
"""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tangent import (
    LazyClassifier,
    ScaledDifference,
    TangentKernelClassifier,
    describe,
    laziness,
    stability_of_activations,
    tangent_features,
)
from tests.zoo.check import _gradients, _products, _scattered

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

NAMES = (
    "gru", "lora", "prelu", "written in place", "embedding bag", "mixture", "bert sdpa", "gpt2",
    "llama", "mamba", "regnet_y", "swin", "convnext", "timm xcit",
)  # fmt: skip


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network of the zoo and eight inputs."""
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    from tests.zoo.networks import zoo

    entry = zoo()[name]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that the networks come from
        return _scattered(entry.build().eval()), entry.inputs(8)


def rows(model: nn.Module, x: Tensor) -> tuple[np.ndarray, np.ndarray, dict]:
    """X, y and options of an estimator; as many classes as the network has outputs."""
    with torch.no_grad():
        k = copy.deepcopy(model)(x[:2]).reshape(2, -1).shape[1]
    options = {"input_shape": tuple(x.shape[1:]), "normalize": False, "random_state": 0}
    return x.flatten(1).numpy(), np.arange(len(x)) % k, options


@pytest.mark.parametrize("name", NAMES)
def test_a_report_knows_the_largest_singular_value_and_the_gates(name):
    model, x = network(name)
    x = x[:4]
    with torch.no_grad():
        k = copy.deepcopy(model)(x).reshape(len(x), -1).shape[1]
    y = torch.linspace(-1, 1, len(x) * k).view(len(x), k)
    found = laziness(copy.deepcopy(model), x, y, epochs=1, second_inputs=2, alphas=(10.0,))
    wide = copy.deepcopy(model).double()
    kernel = _products(_gradients(wide, x.double() if x.is_floating_point() else x))
    largest = float(torch.linalg.eigvalsh(kernel)[-1])
    assert found.first == pytest.approx(math.sqrt(largest / len(x)), rel=1e-3)
    assert math.isfinite(found.kappa_centred)
    assert found.kappa_centred > 0
    kinked = any(u.kinked and u.difference != "fixed" for u in describe(model, x).operations)
    assert bool(found.gates) == kinked
    assert "kappa" in str(found)


@pytest.mark.parametrize("name", NAMES)
def test_gates_stay_where_nothing_moves_and_leave_where_much_does(name):
    model, x = network(name)
    module = ScaledDifference(model.requires_grad_(True), 1.0)
    at_rest = stability_of_activations(module, x)
    assert set(at_rest.values()) <= {1.0}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for delta, w in zip(module.delta, module.initial_weights(), strict=True):
            delta.copy_(torch.randn(delta.shape, generator=generator) * (w.std(correction=0) + 0.1))
    moved = stability_of_activations(module, x)
    assert moved.keys() == at_rest.keys()
    assert all(0 <= share <= 1 for share in moved.values())
    kinked = any(u.kinked and u.difference != "fixed" for u in describe(model, x).operations)
    assert bool(moved) == kinked
    # What keeps norms away from zero is there to decide nothing.
    assert all("clamp" in name for name in moved) or min(moved.values()) < 1


@pytest.mark.parametrize("name", NAMES)
def test_a_lazy_classifier_is_the_linearized_network_that_it_trained(name):
    model, x = network(name)
    X, y, options = rows(model, x)
    fitted = LazyClassifier(copy.deepcopy(model), epochs=3, device="cpu", **options).fit(X, y)
    assert fitted.history_["loss"][-1] < fitted.history_["loss"][0]
    scores = fitted._outputs(X)
    phi = tangent_features(copy.deepcopy(model), x).double()
    moved = dict(zip(fitted.module_.names, fitted.module_.delta, strict=True))
    delta = torch.cat(
        [
            moved[n].detach().flatten().double() if n in moved else torch.zeros(p.numel())
            for n, p in model.named_parameters()
        ]
    ).double()
    expected = (phi @ delta).numpy()
    assert np.abs(scores - expected).max() < 1e-4 * np.abs(expected).max()
    shares = fitted.stability_of_activations(X)
    assert all(0 <= share <= 1 for share in shares.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_classifier_fits_with_the_kernel_of_plain_autograd(name):
    model, x = network(name)
    X, y, options = rows(model, x)
    fitted = TangentKernelClassifier(copy.deepcopy(model), ridge=1e-6, loss="square", **options)
    fitted.fit(X, y)
    wide = copy.deepcopy(model).double()
    kernel = _products(_gradients(wide, x.double() if x.is_floating_point() else x))
    k = len(kernel) // len(x)
    expected = kernel.view(len(x), k, len(x), k).diagonal(dim1=1, dim2=3).mean(-1)
    kept = fitted.kernel_(fitted.inputs_)
    assert len(kept) == len(x)
    assert float((kept - expected).abs().max()) < 1e-3 * float(expected.abs().max())
    assert (fitted.predict(X) == y).mean() > 0.85
