"""Closed forms against Monte Carlo and least squares."""

from __future__ import annotations

import pytest
import torch

from tangent.theory.arccosine import (
    infinite_width_kernels,
    population_loss,
    relu_tangent_kernel,
    tangent_population_minimum,
)

F64 = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=F64)


@pytest.fixture
def networks(generator):
    b, a = normal(generator, 4, 6), normal(generator, 4)
    return b, a, normal(generator, 3), normal(generator, 3, 6)


@pytest.fixture
def sphere(generator):
    x = normal(generator, 100_000, 6)
    return x / x.norm(dim=1, keepdim=True)


def test_population_loss_is_the_mean_over_the_sphere(networks, sphere):
    b, a, ta, tb = networks
    f, y = torch.relu(sphere @ b.T) @ a, torch.relu(sphere @ tb.T) @ ta
    square = (f - y).square() / 2
    error = 4 * float(square.std()) / len(square) ** 0.5
    assert abs(float(population_loss(a, b, ta, tb) - square.mean())) < error


def test_population_loss_of_the_teacher_is_zero(networks):
    _, _, ta, tb = networks
    assert float(population_loss(ta, tb, ta, tb)) < 1e-15


def test_tangent_minimum_is_least_squares_on_many_inputs(networks, sphere):
    b, _, ta, tb = networks
    phi = ((sphere @ b.T > 0)[:, :, None] * sphere[:, None, :]).flatten(1)
    y = torch.relu(sphere @ tb.T) @ ta
    fit = phi @ torch.linalg.lstsq(phi, y[:, None]).solution
    expected = float((fit[:, 0] - y).square().mean() / 2)
    assert tangent_population_minimum(b, ta, tb) == pytest.approx(expected, rel=0.02)


def test_tangent_minimum_is_zero_at_the_teacher_and_blind_to_doubled_units(networks):
    b, _, ta, tb = networks
    assert tangent_population_minimum(tb, ta, tb) < 1e-12
    once, twice = (tangent_population_minimum(w, ta, tb) for w in (b, torch.cat([b, b])))
    assert once == pytest.approx(twice, rel=1e-9)


def test_random_feature_kernel_is_the_gram_of_the_gradients(networks, generator):
    b, a, *_ = networks
    x = normal(generator, 5, 6)

    def outputs(a, b):
        return torch.relu(x @ b.T) @ a

    da, db = torch.func.jacrev(outputs, argnums=(0, 1))(a, b)
    expected = da @ da.T + db.flatten(1) @ db.flatten(1).T
    torch.testing.assert_close(relu_tangent_kernel(a, b, x, x), expected, rtol=1e-12, atol=1e-12)


def test_wide_networks_reach_the_infinite_width_kernel(generator):
    m = 100_000
    b, a, x = normal(generator, m, 3), normal(generator, m), normal(generator, 4, 3)
    covariance, kernel = infinite_width_kernels(x, x)
    scale = float(kernel.diagonal().mean())
    # the Monte-Carlo error at 1e5 units is a few times m**-0.5
    wide = relu_tangent_kernel(a, b, x, x) / m
    torch.testing.assert_close(wide, kernel, rtol=0, atol=0.02 * scale)
    f = torch.relu(x @ b.T)
    torch.testing.assert_close(f @ f.T / m, covariance, rtol=0, atol=0.02 * scale)
