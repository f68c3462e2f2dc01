"""Flows against closed forms, descent and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tangent.laziness.curvature import derivative
from tangent.theory.dynamics import (
    FlowError,
    gaps,
    gradient_flow,
    logistic_loss,
    momentum_descent,
    square_loss,
)
from tests.tangent.small_models import F64, normal, tanh_model

TIMES = torch.linspace(0.0, 5.0, 21, dtype=F64)


def test_the_linearized_flow_is_the_exact_kernel_solution(generator):
    h, w0, y = tanh_model(generator)
    flow = gradient_flow(h, w0, square_loss(y), 30.0, TIMES, linearized=True)
    phi = derivative(h, w0)
    values, vectors = torch.linalg.eigh(phi @ phi.T)
    decay = -torch.expm1(-TIMES[:, None] * values)
    torch.testing.assert_close(flow.outputs, decay * (vectors.T @ y) @ vectors.T, rtol=0, atol=1e-8)


def test_the_flow_ends_where_small_steps_end(generator):
    h, w0, y = tanh_model(generator)
    flow = gradient_flow(h, w0, logistic_loss(y), 3.0, [0.0, 1.0])
    errors = []
    for steps in (50, 100):
        descent = momentum_descent(h, w0, logistic_loss(y), 3.0, 1.0 / steps, steps)
        errors.append(float((descent.displacement[-1] - flow.displacement[-1]).norm()))
    assert errors[0] < 0.02 * float(flow.displacement[-1].norm())
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)  # Euler's method is of order one


def test_momentum_descent_follows_the_flow_at_its_own_time(generator):
    h, w0, y = tanh_model(generator)
    descent = momentum_descent(
        h, w0, square_loss(y), 30.0, 1e-4, 1000, momentum=0.9, keep_every=100
    )
    flow = gradient_flow(h, w0, square_loss(y), 30.0, descent.times)
    torch.testing.assert_close(descent.outputs, flow.outputs, rtol=0, atol=0.02)
    assert float(descent.times[-1]) == pytest.approx(1.0)


@pytest.mark.parametrize("loss", [square_loss, logistic_loss])
def test_theorem_2_2_has_its_three_slopes(generator, loss):
    h, w0, y = tanh_model(generator)
    alphas = [64.0, 256.0, 1024.0]
    rows = []
    for alpha in alphas:
        pair = [
            gradient_flow(h, w0, loss(y), alpha, TIMES, linearized=linear, rtol=1e-11)
            for linear in (False, True)
        ]
        found = gaps(*pair)
        rows.append([found.weights, found.weights_gap, found.outputs_gap])
    slopes = np.polyfit(np.log(alphas), np.log(rows), 1)[0]
    np.testing.assert_allclose(slopes, [-1, -2, -1], atol=0.02)


def test_a_doubled_start_hides_the_second_order_in_function_space(generator):
    x, b, a = normal(generator, 8, 3), normal(generator, 5, 3), normal(generator, 5)
    y = normal(generator, 8).sign()

    def h(w):
        return torch.tanh(x @ w[:30].view(10, 3).T) @ w[30:] / 10**0.5

    w0 = torch.cat([b.flatten(), b.flatten(), a, -a])
    found = []
    for alpha in (64.0, 1024.0):
        pair = [
            gradient_flow(h, w0, square_loss(y), alpha, TIMES, linearized=linear, rtol=1e-11)
            for linear in (False, True)
        ]
        found.append(gaps(*pair).outputs_gap)
    slope = math.log(found[1] / found[0]) / math.log(16)
    assert slope == pytest.approx(-2, abs=0.05)


def test_theorem_2_5_converges_to_a_local_minimum_at_the_linear_rate(generator):
    x = normal(generator, 60, 3)
    y = (torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1] - 0.3 * x[:, 2] ** 2) / 60**0.5
    w0 = normal(generator, 3)

    def h(w):
        return (torch.tanh(x @ w) - torch.tanh(x @ w0)) / 60**0.5

    alpha, loss = 1000.0, square_loss(y)
    smallest = float(torch.linalg.svdvals(derivative(h, w0))[-1])
    rate = 2 * smallest**2
    times = torch.linspace(0, 40 / rate, 81, dtype=F64)
    flow = gradient_flow(h, w0, loss, alpha, times)
    above = flow.loss - flow.loss[-1]
    first, last = 16, 32  # past the faster directions, before rounding
    fitted = float((above[first] / above[last]).log() / (times[last] - times[first]))
    assert fitted == pytest.approx(rate, rel=0.02)
    phi = derivative(h, w0)
    optimum = float(loss(phi @ torch.linalg.lstsq(phi, y[:, None]).solution[:, 0]))
    assert float(flow.loss[-1]) == pytest.approx(optimum, rel=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_flow_on_a_gpu_is_the_one_on_the_cpu(generator):
    x, w0, y = (normal(generator, *shape) for shape in ((5, 3), (3,), (5,)))
    flows = []
    for device in ("cpu", "cuda"):
        inputs, start, target = (t.to(device) for t in (x, w0, y))

        def h(w, inputs=inputs, start=start):
            return torch.tanh(inputs @ w) - torch.tanh(inputs @ start)

        flows.append(gradient_flow(h, start, square_loss(target), 3.0, TIMES))
    assert flows[1].outputs.device.type == flows[1].times.device.type == "cuda"
    torch.testing.assert_close(flows[1].outputs.cpu(), flows[0].outputs, rtol=1e-6, atol=1e-8)


def test_wrong_scales_and_dtypes_are_named(generator):
    h, w0, y = tanh_model(generator)
    with pytest.raises(ValueError, match="alpha must be positive and finite; got inf"):
        gradient_flow(h, w0, square_loss(y), math.inf, TIMES)
    with pytest.raises(ValueError, match=r"w0 must be float64.*float32"):
        gradient_flow(h, w0.float(), square_loss(y), 1.0, TIMES)


def test_a_flow_that_explodes_says_so():
    def h(w):
        return w

    def steep(f):
        return -(f**4).sum() - f.sum()  # not convex: infinite in finite time

    with pytest.raises(FlowError, match=r"gradient flow stopped at alpha=1\.0"):
        gradient_flow(h, torch.zeros(1, dtype=F64), steep, 1.0, [0.0, 100.0])
