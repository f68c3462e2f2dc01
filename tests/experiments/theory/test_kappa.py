"""kappa of two-layer networks."""

from __future__ import annotations

import pytest
import torch

from experiments.theory.kappa import _unit_curvature
from experiments.theory.models import Draws
from tangent.laziness.curvature import second_derivative_norm


def test_the_largest_curvature_of_a_unit_is_that_of_the_network():
    activation = torch.tanh
    draws = Draws.of({"seed": 0}, "cpu")
    x, b, a = draws.normal(4, 2), draws.normal(3, 2), draws.normal(3).sign()
    found = _unit_curvature(x, b, a, activation, draws, starts=30)

    def outputs(w):
        rows = w.view(-1, 3)  # (b_j, a_j)
        return activation(x @ rows[:, :2].T) @ rows[:, 2]

    units = torch.cat([b, a[:, None]], dim=1)
    options = {"starts": 30, "generator": draws.generator}
    alone = max(second_derivative_norm(outputs, unit, **options) for unit in units)
    assert found == pytest.approx(alone, rel=1e-5)
    # the search over all weights at once may end lower, never higher
    assert second_derivative_norm(outputs, units.flatten(), **options) <= found * (1 + 1e-6)
