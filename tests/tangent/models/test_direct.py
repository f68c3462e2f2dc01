"""Direct subtraction: equal to difference propagation in float64, and where float32 loses it."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from tangent import LazyClassifier, ScaledDifference, mlp
from tangent.models.direct import DirectScaling, update_size
from tangent.models.losses import loss_named
from tangent.training.batches import Inputs
from tangent.training.lazy import LazySettings, train


def problem(generator, dtype=torch.float64, n=24):
    x = torch.randn(n, 5, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randint(0, 3, (n,), generator=generator)
    inputs = Inputs(x, torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype), dtype)
    return inputs, loss_named("square").targets(y, 3, dtype)


def trained(module, inputs, targets):
    settings = LazySettings(lr=0.1, epochs=5, batch_size=8)
    seed = torch.Generator().manual_seed(1)
    return train(module, inputs, targets, settings, generator=seed).loss


@pytest.mark.parametrize("alpha", [1.0, 1e3, 1e6])
def test_direct_training_in_float64_is_difference_propagation(generator, alpha):
    network = mlp(5, 3, hidden=(16,), generator=generator).double()
    inputs, targets = problem(generator)
    direct, ours = DirectScaling(network, alpha), ScaledDifference(network, alpha)
    losses = [trained(module, inputs, targets) for module in (direct, ours)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(direct(inputs.x), ours(inputs.x), rtol=1e-5, atol=1e-6)
        again = direct.difference()(inputs.x)
    torch.testing.assert_close(again, ours(inputs.x).detach(), rtol=1e-5, atol=1e-6)


def test_direct_training_in_float32_fails_at_large_alpha_and_ours_does_not(generator):
    single = mlp(5, 3, hidden=(16,), generator=generator)
    data = [problem(torch.Generator().manual_seed(2), d) for d in (torch.float64, torch.float32)]
    oracle = trained(DirectScaling(copy.deepcopy(single).double(), 1e7), *data[0])
    direct = trained(DirectScaling(single, 1e7), *data[1])
    ours = trained(ScaledDifference(single, 1e7), *data[1])
    assert abs(ours[-1] / oracle[-1] - 1) < 1e-3
    assert abs(direct[-1] / oracle[-1] - 1) > 0.05


def test_the_frozen_network_gets_no_gradient(generator):
    module = DirectScaling(mlp(5, 3, generator=generator), 10.0)
    assert all(not p.requires_grad for p in module.network.parameters())
    assert len([p for p in module.parameters() if p.requires_grad]) == 6


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.inf, "1"])
def test_alpha_has_to_be_positive_and_finite(alpha):
    with pytest.raises(ValueError, match=r"alpha must be positive and finite.*any alpha"):
        DirectScaling(nn.Linear(2, 2), alpha)


def test_a_network_that_cannot_move_is_refused():
    with pytest.raises(ValueError, match="nothing can move"):
        DirectScaling(nn.Linear(2, 2).requires_grad_(False), 1.0)


def test_the_update_size_is_that_of_a_hand_made_step():
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(1.0)
    module = DirectScaling(network, 100.0)
    x, y = torch.ones(1, 1), torch.full((1, 1), -0.5)
    # u = 0, dR/du = 2 (u - y) = 1, dw = lr * 1 / alpha; half the spacing at 1 is eps / 2.
    size = update_size(module, x, y, loss_named("square"), lr=1e-5)
    eps = torch.finfo(torch.float32).eps
    assert size.ratio == pytest.approx(1e-7 / (eps / 2), rel=1e-5)
    assert size.moved == 1.0
    small = update_size(module, x, y, loss_named("square"), lr=1e-7)
    assert small.ratio < 1
    assert small.moved == 0.0


def blobs():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    return rng.normal(size=(60, 4)).astype(np.float32) + 2 * y[:, None].astype(np.float32), y


def direct_classifier(alpha, dtype="float32"):
    return LazyClassifier(
        alpha=alpha,
        parametrization="direct",
        width=0.1,
        epochs=3,
        loss="square",
        dtype=dtype,
        random_state=0,
    )


def test_the_classifier_warns_once_where_updates_round_away():
    with pytest.warns(UserWarning, match=r"alpha=1e\+08.*float32.*parametrization='diff") as caught:
        direct_classifier(1e8).fit(*blobs())
    assert len(caught) == 1


@pytest.mark.parametrize(("alpha", "dtype"), [(10.0, "float32"), (1e8, "float64")])
def test_the_classifier_does_not_warn_where_they_do_not(alpha, dtype):
    X, y = blobs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = direct_classifier(alpha, dtype).fit(X, y)
    assert model.score(X, y) > 0.5
    assert set(model.stability_of_activations(X).values()) <= {1.0} or alpha == 10.0


def test_both_parametrizations_of_the_classifier_agree_in_float64():
    X, y = blobs()
    direct = direct_classifier(100.0, "float64").fit(X, y)
    ours = direct_classifier(100.0, "float64").set_params(parametrization="difference").fit(X, y)
    scores = direct.decision_function(X)
    np.testing.assert_allclose(scores, ours.decision_function(X), rtol=1e-6, atol=1e-9)


def test_an_unknown_parametrization_is_refused():
    with pytest.raises(ValueError, match="parametrization must be one of"):
        LazyClassifier(parametrization="sum").fit(*blobs())


def test_infinity_has_no_direct_parametrization():
    with pytest.raises(ValueError, match="alpha must be positive and finite"):
        direct_classifier(math.inf).fit(*blobs())


def test_gradients_in_the_inputs_are_those_of_both_networks(generator):
    network = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    direct = DirectScaling(network, 2.0)
    with torch.no_grad():
        for p in direct.moving.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    x, along = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    leaf, step = x.clone().requires_grad_(), 1e-6
    (found,) = torch.autograd.grad(direct(leaf).sum(), leaf)
    expected = (direct(x + step * along).sum() - direct(x - step * along).sum()) / (2 * step)
    torch.testing.assert_close((found * along).sum(), expected.detach(), rtol=1e-6, atol=1e-8)
