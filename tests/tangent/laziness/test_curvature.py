"""Operator norms against brute force, kappa against its laws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import hessian

from tangent.laziness import curvature as module
from tangent.laziness.curvature import (
    curvature,
    derivative,
    derivative_norm,
    derivative_rank,
    second_derivative_bound,
    second_derivative_norm,
    weight_function,
)
from tangent.laziness.lipschitz import derivative_lipschitz, lipschitz
from tests.tangent.laziness.layers import BETWEEN, network_with
from tests.tangent.small_models import F64, normal, quadratic_model, tanh_model

seeds = st.integers(0, 2**32 - 1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def cubic_model(generator, p=6, q=4):
    """Homogeneous of degree three: sums of products of three linear forms."""
    forms = normal(generator, 3, q, p)
    return lambda w: (forms[0] @ w) * (forms[1] @ w) * (forms[2] @ w)


def test_derivative_norm_of_products_by_index_is_not_torchs_forward_formula(monkeypatch):
    index = torch.tensor([0, 2, 0, 1])
    w = torch.tensor([1.5, -0.5, 2.0, 0.7], dtype=torch.float64)
    h = lambda w: torch.ones(3, dtype=w.dtype).scatter_reduce(0, index, w, "prod")  # noqa: E731
    exact = derivative_norm(h, w)
    assert exact == pytest.approx((1.5**2 + 2.0**2) ** 0.5)
    monkeypatch.setattr(module, "_ENTRIES", 0)
    assert derivative_norm(h, w) == pytest.approx(exact)


def test_derivative_norm_by_power_iteration_is_the_largest_singular_value(generator, monkeypatch):
    h, w0, _ = tanh_model(generator)
    exact = derivative_norm(h, w0)
    monkeypatch.setattr(module, "_ENTRIES", 0)
    assert derivative_norm(h, w0, generator=generator) == pytest.approx(exact, rel=1e-6)


@given(seed=seeds)
def test_second_derivative_norm_beats_every_pair_tried(seed):
    generator = seeded(seed)
    h = cubic_model(generator)
    w = normal(generator, 6)
    whole = hessian(h)(w)
    v, other = (t / t.norm(dim=1, keepdim=True) for t in normal(generator, 2, 4000, 6))
    tried = torch.einsum("qab,sa,sb->sq", whole, v, other).norm(dim=1)
    found = second_derivative_norm(h, w, generator=generator)
    assert found >= float(tried.max()) * (1 - 1e-9)
    assert found <= float(torch.linalg.matrix_norm(whole.flatten(1), ord=2)) * (1 + 1e-9)


def test_lipschitz_constant_of_the_quadratic_model_is_its_largest_column(generator):
    h, w0, _, lipschitz = quadratic_model(generator)
    # every column is a local maximum: many starts, and slow where two columns are near
    found = derivative_lipschitz(h, w0, 0.5, samples=1, starts=64, generator=generator)
    assert found == pytest.approx(lipschitz, rel=2e-3)


def test_products_of_derivatives_and_the_whole_tensor_agree(generator, monkeypatch):
    h, w0, _ = tanh_model(generator, n=3, d=2, m=3)
    whole = second_derivative_norm(h, w0, starts=2, generator=seeded(1))
    monkeypatch.setattr(module, "_ENTRIES", 0)
    found = second_derivative_norm(h, w0, starts=2, generator=seeded(1))
    assert found == pytest.approx(whole, rel=1e-6)


def of_layer(name):
    """A network with the layer, as a function of its weights, and two directions."""
    model, x = network_with(name)
    h, w0 = weight_function(model, x)
    return h, w0, module.unit(normal(seeded(1), 2, w0.numel()))


@pytest.mark.parametrize("name", BETWEEN)
def test_products_of_the_second_derivative_are_differences_of_outputs(name, monkeypatch):
    h, w, (v, other) = of_layer(name)
    monkeypatch.setattr(module, "_ENTRIES", 0)
    second, pulled = module._second_derivative(h, w)

    def differences(step):
        a, b = step * v, step * other
        return (h(w + a + b) - h(w + a - b) - h(w - a + b) + h(w - a - b)) / (4 * step**2)

    with torch.no_grad():
        expected = (4 * differences(1e-3) - differences(2e-3)) / 3
    near = {"rtol": 1e-4, "atol": 1e-5 * float(expected.abs().max())}
    torch.testing.assert_close(second(v[None], other[None])[0], expected, **near)
    f = normal(seeded(2), len(expected))
    found = pulled(v[None], f[None])[0] @ other
    torch.testing.assert_close(found, f @ expected, **near)


def test_the_norm_for_a_network_with_layer_norm_is_that_of_the_whole_tensor(monkeypatch):
    h, w, _ = of_layer("layer norm")
    whole = second_derivative_norm(h, w, starts=2, generator=seeded(1))
    monkeypatch.setattr(module, "_ENTRIES", 0)
    found = second_derivative_norm(h, w, starts=2, generator=seeded(1))
    assert found == pytest.approx(whole, rel=1e-6)


def test_second_derivative_norm_of_a_linear_model_is_zero(generator):
    x = normal(generator, 4, 6)
    assert second_derivative_norm(lambda w: x @ w, normal(generator, 6)) == 0


def test_the_quadratic_models_constant_is_its_bound_too(generator):
    h, w0, _, exact = quadratic_model(generator)
    assert second_derivative_bound(h, w0) == pytest.approx(exact, rel=1e-12)


@given(seed=seeds)
def test_the_second_derivative_lies_under_its_bound(seed):
    generator = seeded(seed)
    h, w = cubic_model(generator), normal(generator, 6)
    found = second_derivative_norm(h, w, generator=generator)
    assert 0 < found <= second_derivative_bound(h, w) * (1 + 1e-9)


@settings(max_examples=3)
@given(seed=seeds)
def test_one_output_has_the_hessians_largest_eigenvalue(seed):
    generator = seeded(seed)
    a = normal(generator, 5, 5)
    a = a + a.T

    def h(w):
        return (w @ a @ w / 2)[None]

    exact = float(torch.linalg.eigvalsh(a).abs().max())
    w0 = torch.zeros(5, dtype=F64)
    assert derivative_lipschitz(h, w0, 3.0, samples=1) == pytest.approx(exact, rel=1e-12)
    # Dh = a w: largest on the sphere, along the same direction
    found = lipschitz(h, w0, 3.0, samples=5, ascents=2, generator=generator)
    assert found == pytest.approx(3 * exact, rel=1e-4)
    assert found <= 3 * exact * (1 + 1e-12)


@pytest.mark.parametrize("radius", [0.0, 0.5, 3.0])
def test_lip_h_of_the_quadratic_model_from_its_largest_column(generator, radius):
    """At c e_j, j the largest column, |Dh| is 2 c |X_j|, and 2 (c + r) |X_j| at most around."""
    h, _, _, exact = quadratic_model(generator)
    columns = torch.func.jacrev(h)(torch.ones(40, dtype=F64)).norm(dim=0)
    w0 = torch.zeros(40, dtype=F64)
    w0[int(columns.argmax())] = 1.5
    found = lipschitz(h, w0, radius, generator=generator)
    assert found == pytest.approx(exact * (1.5 + radius), rel=1e-6)


@settings(max_examples=3)
@given(seed=seeds)
def test_lip_h_lies_between_what_is_tried_and_the_triangle_inequality(seed):
    generator = seeded(seed)
    h, w0, _, exact = quadratic_model(generator)
    found = lipschitz(h, w0, 0.5, generator=generator)
    steps = normal(generator, 50, 40)
    tried = max(derivative_norm(h, w0 + 0.5 * step / step.norm()) for step in steps)
    assert tried < found <= derivative_norm(h, w0) + 0.5 * exact


def test_lip_h_of_a_linear_model_is_its_largest_singular_value(generator):
    x = normal(generator, 4, 6)
    found = lipschitz(lambda w: x @ w, normal(generator, 6), 2.0, generator=generator)
    assert found == pytest.approx(float(torch.linalg.svdvals(x)[0]))


@pytest.mark.parametrize(("outputs", "radius"), [(1, 2.0), (2, 1.0)])
def test_the_constants_of_one_tanh_unit_are_those_of_tanh(generator, outputs, radius):
    """w.x runs over 1.5 +- r, and |x| = 1: the maxima are those of tanh' and tanh''."""
    x = normal(generator, 4)
    x = x / x.norm()
    scale = torch.full((outputs,), outputs**-0.5, dtype=F64)

    def h(w):
        return scale * torch.tanh(x @ w)

    s = torch.linspace(1.5 - radius, 1.5 + radius, 100_001, dtype=F64)
    first = 1 - torch.tanh(s) ** 2
    second = 2 * torch.tanh(s).abs() * first
    found = lipschitz(h, 1.5 * x, radius, samples=3, ascents=1, generator=generator)
    assert found == pytest.approx(float(first.max()), rel=1e-5)
    found = derivative_lipschitz(h, 1.5 * x, radius, samples=5, starts=2, generator=generator)
    assert found == pytest.approx(float(second.max()), rel=1e-5)


def test_lip_h_by_power_iteration_is_that_of_the_whole_derivative(generator, monkeypatch):
    h, w0, _ = tanh_model(generator, n=3, d=2, m=3)
    few = {"samples": 2, "ascents": 1}
    whole = lipschitz(h, w0, 0.5, **few, generator=seeded(1))
    monkeypatch.setattr(module, "_ENTRIES", 0)
    assert lipschitz(h, w0, 0.5, **few, generator=seeded(1)) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("twice", [False, True])
def test_the_lipschitz_constant_on_a_ball_sees_beyond_the_centre(twice):
    def h(w):
        cube = w[:1] ** 3 / 6  # D^2 h = w: zero at the centre, 2 on the sphere
        return torch.cat([cube, cube]) / 2**0.5 if twice else cube

    found = derivative_lipschitz(h, torch.zeros(1, dtype=F64), 2.0, samples=3, generator=seeded(0))
    assert found == pytest.approx(2.0)


def test_a_negative_radius_is_named():
    with pytest.raises(ValueError, match="radius must be at least 0; got -1"):
        lipschitz(lambda w: w, torch.zeros(2, dtype=F64), -1.0)


@given(seed=seeds, alpha=st.floats(0.1, 1e4))
def test_kappa_of_a_scaled_centred_model_is_divided_by_alpha(seed, alpha):
    h, w0, y = tanh_model(seeded(seed), n=3, d=2, m=3)
    plain = curvature(h, w0, y, generator=seeded(0))
    scaled = curvature(lambda w: alpha * h(w), w0, y, generator=seeded(0))
    assert scaled.kappa == pytest.approx(plain.kappa / alpha, rel=1e-5)
    assert plain.scaled(alpha, plain.distance).kappa == pytest.approx(scaled.kappa, rel=1e-5)


@given(seed=seeds, factor=st.floats(0.2, 5.0))
def test_kappa_of_a_homogeneous_model_follows_the_stretch_of_its_weights(seed, factor):
    generator = seeded(seed)
    h, w0, y = cubic_model(generator), normal(generator, 6), normal(generator, 4)
    there = curvature(h, factor * w0, y, generator=seeded(0))
    distance = float((factor**3 * h(w0) - y).norm())
    predicted = curvature(h, w0, y, generator=seeded(0)).stretched(factor, 3, distance)
    assert there.kappa == pytest.approx(predicted.kappa, rel=1e-5)


def test_rank_is_that_of_the_features_and_grows_off_a_doubled_start(generator):
    x = 2 * normal(generator, 60, 2)

    def outputs(w):
        b, a = w[:12].view(6, 2), w[12:]
        return torch.tanh(x @ b.T) @ a

    b, a = normal(generator, 3, 2), normal(generator, 3)
    doubled = torch.cat([b.flatten(), b.flatten(), a, -a])
    near = doubled + 0.1 * normal(generator, 18)
    # the doubled start repeats every feature: the constant-rank hypothesis fails there
    assert derivative_rank(outputs, doubled) == 9
    assert derivative_rank(outputs, near) == 18


def test_weight_function_is_the_network_over_the_root_of_the_number_of_inputs(generator):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = normal(generator, 5, 3)
    h, w0 = weight_function(net, x)
    torch.testing.assert_close(h(w0), net(x).detach().flatten() / 5**0.5)
    moved = w0 + 0.1 * normal(generator, len(w0))
    torch.testing.assert_close(h(w0), net(x).detach().flatten() / 5**0.5)  # left as found
    nn.utils.vector_to_parameters(moved, net.parameters())
    torch.testing.assert_close(h(moved), net(x).detach().flatten() / 5**0.5)
    centred, at = weight_function(net, x, centred=True)
    assert not centred(at).any()


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_the_derivative_of_distances_is_theirs(norm, generator):
    class Distances(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.centres = nn.Linear(3, 2), nn.Parameter(torch.randn(4, 2))

        def forward(self, x):
            return torch.cdist(self.layer(x), self.centres, p=norm)

    model = Distances().double()
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    h, w = weight_function(model, x)
    step = 1e-6 * torch.eye(len(w)).double()
    expected = torch.stack([(h(w + e) - h(w - e)) / 2e-6 for e in step], dim=1)
    torch.testing.assert_close(derivative(h, w), expected, rtol=1e-6, atol=1e-8)


def test_a_derivative_that_is_batched_wrongly_is_made_one_by_one(generator):
    first = torch.randn(3, 2, generator=generator, dtype=torch.float64)

    def h(w):
        return torch.cdist(w.view(3, 2), first).flatten()

    w = torch.randn(6, generator=generator, dtype=torch.float64)
    step = 1e-6 * torch.eye(6).double()
    expected = torch.stack([(h(w + e) - h(w - e)) / 2e-6 for e in step], dim=1)
    torch.testing.assert_close(derivative(h, w), expected, rtol=1e-6, atol=1e-8)
