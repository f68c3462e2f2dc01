"""The theorems' constants: what they must imply, and measured flows below them."""

from __future__ import annotations

import math

import pytest
import torch

from tangent.laziness.curvature import derivative
from tangent.theory.bounds import (
    finite_horizon,
    kappa_order,
    over_parameterized,
    square_loss_bound,
    under_parameterized_rate,
)
from tangent.theory.dynamics import gaps, gradient_flow, square_loss
from tests.tangent.small_models import F64, quadratic_model, tanh_model


def test_theorem_2_2_bounds_the_movement_over_a_finite_time(generator):
    h, w0, y = tanh_model(generator)
    loss, times = square_loss(y), torch.linspace(0, 5, 30, dtype=F64)
    for alpha in (1.0, 30.0):
        flow = gradient_flow(h, w0, loss, alpha, times)
        bound = finite_horizon(alpha, 5.0, float(loss(alpha * h(w0))))
        moved = float(flow.displacement[-1].norm()) / alpha
        assert 0 < moved <= bound.weights


@pytest.mark.parametrize("k", [1.0, 16.0])
def test_theorem_2_3_bounds_the_distances_at_its_horizon(generator, k):
    h, w0, y, lip = quadratic_model(generator)
    radius = 0.5
    lipschitz = float(torch.linalg.matrix_norm(derivative(h, w0), ord=2)) + radius * lip
    for alpha in (10.0, 1000.0):
        bound = square_loss_bound(alpha, k, 1.0, lipschitz, lip, radius)
        assert alpha >= bound.smallest_alpha
        pair = [
            gradient_flow(h, w0, square_loss(y), alpha, [0.0, bound.horizon], linearized=linear)
            for linear in (False, True)
        ]
        measured = gaps(*pair)
        assert 0 < measured.weights <= bound.weights
        assert 0 < measured.outputs_gap <= bound.outputs
        assert 0 < measured.weights_gap <= bound.weights_gap


def test_theorem_2_4_bounds_the_loss_and_the_distances_for_all_times(generator):
    h, w0, y, lip = quadratic_model(generator)
    values = torch.linalg.svdvals(derivative(h, w0))
    given = {
        "smallest": float(values[-1]),
        "largest": float(values[0]),
        "derivative_lipschitz": lip,
        "distance": 1.0,
        "target": 1.0,
    }
    alpha = 1.0001 * over_parameterized(1.0, **given).smallest_alpha
    bound = over_parameterized(alpha, **given)
    times = torch.linspace(0, 6 / bound.rate, 60, dtype=F64)
    flow, linear = (
        gradient_flow(h, w0, square_loss(y), alpha, times, linearized=linearized)
        for linearized in (False, True)
    )
    error = (flow.outputs - y).norm(dim=1)
    allowed = bound.factor * (-bound.rate * times).exp()
    assert bool((error <= allowed * (1 + 1e-9)).all())
    measured = gaps(flow, linear)
    assert measured.weights <= bound.weights
    assert measured.outputs_gap <= bound.outputs_gap
    assert measured.weights_gap <= bound.weights_gap


def test_theorem_2_3_scales_with_alpha_and_k_as_printed():
    one = square_loss_bound(10.0, 1.0, 2.0, 3.0, 5.0)
    far = square_loss_bound(100.0, 2.0, 2.0, 3.0, 5.0)
    assert one.outputs == pytest.approx(1.0**2 * 5.0 * 2.0 / (10.0 * 3.0**2))
    assert far.outputs == pytest.approx(one.outputs * 4 / 10)
    assert far.horizon == pytest.approx(2 * one.horizon)


def test_theorem_2_4_radius_is_where_c0_comes_from():
    """At the smallest alpha the weights' bound is at most the radius s / (2 Lip) of the proof."""
    given = {"smallest": 0.7, "largest": 2.0, "derivative_lipschitz": 1.5, "target": 3.0}
    c0 = over_parameterized(1.0, distance=3.0, **given).c0
    alpha = over_parameterized(1.0, distance=3.0, **given).smallest_alpha
    assert alpha == pytest.approx(3.0 / c0)
    # |alpha h(w0)| <= alpha c0 = |y|, hence E <= 2 |y|
    assert over_parameterized(alpha, distance=6.0, **given).weights <= 0.7 / (2 * 1.5) * (1 + 1e-12)


def test_kappa_order_has_its_two_regimes():
    assert kappa_order(400, 400**-0.5) == pytest.approx(2 * 400**-0.5)
    assert kappa_order(400, 1 / 400) == pytest.approx(1 + 400**-0.5)


def test_what_must_be_positive_is_named():
    with pytest.raises(ValueError, match="smallest must be positive; got 0"):
        under_parameterized_rate(0.0)
    with pytest.raises(ValueError, match="alpha must be positive; got -1"):
        finite_horizon(-1.0, 1.0, 1.0)
    assert math.isclose(under_parameterized_rate(0.5, 3.0), 1.5)
