"""One unit: its limit, its rate, and the population it is trained on."""

from __future__ import annotations

import pytest
import torch

from experiments.theory.under_parameterized import _normal_nodes, under_parameterized_path


@pytest.mark.parametrize("model", ["tanh-unit", "tanh-population"])
def test_one_unit_ends_at_the_linear_optimum_at_the_linear_rate(model, monkeypatch):
    monkeypatch.setattr("experiments.theory.under_parameterized._STARTS", 1)
    run = {"seed": 0, "model": model, "alphas": (1024.0,)}
    found = under_parameterized_path(run, "cpu")
    assert found.curves["rate"][0] == pytest.approx(found.metrics["linear_rate"], rel=0.01)
    assert found.curves["limit"][0] == pytest.approx(found.metrics["linear_optimum"], rel=1e-3)
    assert 2 * found.curves["hessian"][0] == pytest.approx(found.curves["rate"][0], rel=0.01)
    assert (found.metrics["rank_doubled"], found.metrics["rank_near_doubled"]) == (16, 32)
    assert found.metrics["rank_centred"] == found.metrics["rank_near_centred"] == 3


def test_the_population_is_that_of_normal_inputs():
    x, share = _normal_nodes(3)
    assert float(share.sum()) == pytest.approx(1)
    torch.testing.assert_close(x.T @ (share[:, None] * x), torch.eye(3, dtype=torch.float64))
    w = torch.tensor([0.3, -0.5, 0.4], dtype=torch.float64)
    # w.x is normal with variance |w|^2: an integral over one dimension, on a fine grid
    z = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    density = (-z.square() / 2).exp() / (2 * torch.pi) ** 0.5
    expected = torch.trapezoid(torch.tanh(w.norm() * z).square() * density, z)
    found = (share * torch.tanh(x @ w).square()).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
