"""The laziness report against exact derivatives, kernels and trainings."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from tangent import ScaledDifference, tangent_kernel
from tangent.laziness import LazinessReport, laziness
from tangent.laziness import report as report_module
from tangent.laziness.curvature import curvature, weight_function
from tangent.laziness.operators import NormalizedKernel, SecondDerivative, inner
from tangent.laziness.second import second_norm
from tangent.laziness.trainings import Trained
from tangent.laziness.words import verdict
from tangent.solve.lanczos import lanczos, ritz_values
from tangent.training.batches import Inputs
from tangent.training.lazy import LazySettings, train
from tests.tangent.laziness.layers import BETWEEN, network_with
from tests.tangent.naive import naive_kernel


def _tanh(k=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, k)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=generator)
    return model


def _data(n=12, k=2):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return x, torch.randn(n, k, generator=generator, dtype=torch.float64)


@pytest.fixture
def matrix_free(monkeypatch):
    """No kernel is small enough to be computed whole."""
    monkeypatch.setattr(report_module, "_WHOLE_ROWS", 0)


@pytest.mark.parametrize("k", [1, 2])
def test_norms_and_kappa_are_those_of_the_whole_derivatives(k):
    model, (x, y) = _tanh(k), _data(k=k)
    found = laziness(model, x, y, epochs=1, second_inputs=len(x))
    h, w0 = weight_function(model, x)
    whole = curvature(h, w0, y.flatten() / len(x) ** 0.5, starts=8)
    assert found.first == pytest.approx(whole.first, rel=1e-9)
    assert found.distance == pytest.approx(whole.distance, rel=1e-9)
    # both are searches from below
    assert found.second.value == pytest.approx(whole.second, rel=2e-2)
    assert found.kappa == pytest.approx(whole.kappa, rel=2e-2)
    size = float((y**2).sum(1).mean().sqrt())
    assert found.kappa_centred == pytest.approx(size * whole.second / whole.first**2, rel=2e-2)
    rows = len(x) * k
    values = torch.linalg.eigvalsh(naive_kernel(model, x).reshape(rows, rows))
    effective_rank = float(values.sum() / values[-1])
    assert found.spectrum.effective_rank == pytest.approx(effective_rank, rel=1e-9)
    assert found.spectrum.exact


def test_of_one_output_the_second_derivative_is_the_largest_curvature():
    model, (x, _) = _tanh(1), _data(1, 1)
    h, w = weight_function(model, x)
    exact = float(torch.linalg.eigvalsh(torch.func.hessian(h)(w)[0]).abs().max())
    found = second_norm(model, x, iterations=200, generator=torch.Generator().manual_seed(0))
    assert found.value <= exact * (1 + 1e-12)
    assert found.value == pytest.approx(exact, rel=1e-3)


def test_products_of_the_second_derivative_are_those_of_the_hessians():
    model, (x, _) = _tanh(), _data(4)
    h, w = weight_function(model, x)
    whole = torch.func.hessian(h)(w)
    second = SecondDerivative(model, x)
    v = second.random(torch.Generator().manual_seed(0))
    flat = torch.cat([t.flatten() for t in v])
    torch.testing.assert_close(second.values(v), whole @ flat @ flat)
    f = torch.randn(len(whole), dtype=torch.float64)
    expected = torch.einsum("qab,b,q->a", whole, flat, f)
    torch.testing.assert_close(torch.cat([t.flatten() for t in second.hessian(f, v)]), expected)


@pytest.mark.parametrize("fault", ["missing", "wrong"])
def test_the_second_derivative_does_without_forward_mode(fault, monkeypatch):
    """Where an operation lacks it, or where it disagrees with two backward passes."""
    model, (x, _) = _tanh(), _data(6)
    expected = second_norm(model, x, generator=torch.Generator().manual_seed(0))

    def faulty(self, v):
        if fault == "missing":
            raise NotImplementedError
        return right(self, v) * torch.linspace(1, 3, 12, dtype=torch.float64)

    right = SecondDerivative._values_forwards
    monkeypatch.setattr(SecondDerivative, "_values_forwards", faulty)
    found = second_norm(model, x, generator=torch.Generator().manual_seed(0))
    assert found.value == pytest.approx(expected.value, rel=1e-9)


def test_float32_products_of_the_second_derivative_are_near_those_in_float64():
    """They go through the faster library's products, differentiated twice."""
    model = nn.Sequential(nn.Linear(40, 300), nn.Tanh(), nn.Linear(300, 40)).double()
    x = torch.randn(128, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = torch.randn(128 * 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = SecondDerivative(model, x)
    v = exact.random(torch.Generator().manual_seed(0))
    right = exact.hessian(f, v)
    second = SecondDerivative(model.float(), x.float())
    found = second.hessian(f.float(), [t.float() for t in v])
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4 * float(other.norm()))


@pytest.mark.parametrize("name", BETWEEN)
def test_second_derivatives_of_layers_are_differences_of_outputs(name):
    """Forwards, backwards and pulled back: torch's own are wrong for some of these."""
    model, x = network_with(name)
    second = SecondDerivative(model, x)
    v = second.random(torch.Generator().manual_seed(1))

    @torch.no_grad()
    def differences(step):
        plus, minus = (
            second._outputs([w + sign * step * t for w, t in zip(second.weights, v, strict=True)])
            for sign in (1, -1)
        )
        return (plus - 2 * second._outputs() + minus) / step**2

    expected = (4 * differences(1e-3) - differences(2e-3)) / 3
    near = {"rtol": 1e-4, "atol": 1e-5 * float(expected.abs().max())}
    torch.testing.assert_close(second._values_forwards(v), expected, **near)
    torch.testing.assert_close(second._values_backwards(v), expected, **near)
    f = torch.randn(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(inner(second.hessian(f, v), v), f @ expected, **near)


@pytest.mark.parametrize("forward", [True, False])
def test_values_are_those_of_the_whole_second_derivative_either_way(forward):
    model, (x, _) = _tanh(), _data(4)
    h, w = weight_function(model, x)
    second = SecondDerivative(model, x)
    second.forward = forward
    v = second.random(torch.Generator().manual_seed(0))
    flat = torch.cat([t.flatten() for t in v])
    torch.testing.assert_close(second.values(v), torch.func.hessian(h)(w) @ flat @ flat)
    assert second.forward is forward


def test_a_network_linear_in_its_weights_has_no_second_derivative():
    model = nn.Linear(3, 2).double()
    found = laziness(model, *_data(), epochs=1)
    assert (found.second.value, found.kappa) == (0.0, 0.0)
    assert all(t.from_linearized < 1e-12 for t in found.trainings)


@pytest.mark.parametrize("seed", range(3))
def test_lanczos_values_lie_within_their_errors_of_eigenvalues(seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(60, 60, generator=generator, dtype=torch.float64))[0]
    exact = torch.linspace(1, 2, 60, dtype=torch.float64)
    matrix = vectors * exact @ vectors.T
    start = torch.randn(60, generator=generator, dtype=torch.float64)

    def ritz(products):
        *_, state = lanczos(lambda v: matrix @ v, start, products)
        return ritz_values(*state)

    values, errors = ritz(8)
    distance = (values[:, None] - exact).abs().min(1).values
    assert (distance <= errors + 1e-12).all()
    assert float(values[0]) <= 2 + 1e-12
    whole, _ = ritz(60)
    torch.testing.assert_close(whole.flip(0), exact)


def test_matrix_free_numbers_agree_with_the_whole_kernel(matrix_free):
    model, (x, y) = _tanh(), _data(30)
    found = laziness(model, x, y, epochs=1, products=60, probes=60)
    kernel = tangent_kernel(model, x).reshape(60, 60) / 30
    values = torch.linalg.eigvalsh(kernel).flip(0)
    assert not found.spectrum.exact
    assert found.first**2 == pytest.approx(float(values[0]), rel=1e-10)
    trace, error = found.spectrum.trace, found.spectrum.trace_error
    assert abs(trace - float(values.sum())) < 4 * error
    centring = torch.eye(30) - torch.ones(30, 30) / 30
    c = torch.kron(centring, torch.eye(2)).double()
    centred, target = c @ kernel @ c, c @ y.flatten()
    expected = float(target @ centred @ target / target.square().sum() / centred.norm())
    assert abs(found.alignment - expected) < 4 * found.alignment_error + 1e-12


def test_the_whole_kernel_is_aligned_exactly():
    model, (x, y) = _tanh(), _data()
    c = torch.kron(torch.eye(12) - torch.ones(12, 12) / 12, torch.eye(2)).double()
    centred = c @ tangent_kernel(model, x).reshape(24, 24) @ c
    target = c @ y.flatten()
    expected = float(target @ centred @ target / target.square().sum() / centred.norm())
    assert laziness(model, x, y, epochs=1).alignment == pytest.approx(expected, rel=1e-9)


def test_the_kernels_change_is_that_of_the_whole_kernels():
    model, (x, y) = _tanh(), _data()
    found = laziness(model, x, y, epochs=8, probes=40, alphas=(1.0,))
    own = found.trainings[0]
    # The same training by hand, in the displacement's own steps.
    module = ScaledDifference(model, 1.0)
    lr = 0.5 * 2 / found.first**2
    settings = LazySettings(lr=lr, momentum=0.0, epochs=8, batch_size=12)
    inputs = Inputs(x, x.new_zeros(()), x.new_ones(()), x.dtype)
    train(module, inputs, y, settings, generator=torch.Generator().manual_seed(0))
    before, after = (tangent_kernel(m, x).reshape(24, 24) for m in (model, module.displaced()))
    expected = float((after - before).norm() / before.norm())
    assert abs(own.kernel - expected) < 4 * own.kernel_error
    moved = torch.nn.utils.parameters_to_vector(module.displaced().parameters()).detach()
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    assert own.weights == pytest.approx(float((moved - start).norm() / start.norm()), rel=1e-9)


def test_distance_to_the_linearization_falls_as_one_over_alpha():
    model, (x, y) = _tanh(), _data()
    found = laziness(model, x, y, epochs=5, probes=0, alphas=(1e2, 1e3, 1e4))
    far = [t.from_linearized for t in found.trainings[:3]]
    assert far[0] / far[1] == pytest.approx(10, rel=0.1)
    assert far[1] / far[2] == pytest.approx(10, rel=0.01)
    assert math.isinf(found.trainings[-1].alpha)


def test_gates_of_relu_networks_are_named_and_left_out():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    found = laziness(model, *_data(), epochs=2)
    assert len(found.gates) == 1
    assert "kinks of 1 gates left out" in str(found)
    assert 0 <= found.trainings[0].least_stable <= 1
    assert found.trainings[-1].least_stable == 1


def test_the_model_and_the_random_state_are_left_as_found():
    model, (x, y) = _tanh(), _data()
    model.train()
    model[0].weight.requires_grad_(False)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    laziness(model, x, y, epochs=1)
    assert model.training
    assert not model[0].weight.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_arrays_and_class_numbers_are_taken_as_they_come():
    model, (x, _) = _tanh(), _data()
    labels = np.arange(12) % 2
    one_hot = np.eye(2)[labels]
    one = laziness(model, x.numpy().astype(np.float32), labels, epochs=1)
    other = laziness(model, x.float(), one_hot, epochs=1)
    assert one.as_dict()["target"] == pytest.approx(other.target)
    assert one.distance == pytest.approx(other.distance)


def test_a_smooth_network_with_attention_is_reported():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, activation="gelu")

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = layer, nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.layer(x).mean(1))

    x = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(0))
    second = SecondDerivative(Pooled().eval(), x)
    v = second.random(torch.Generator().manual_seed(0))
    assert torch.isfinite(second.values(v)).all()
    assert float(second.values(v).norm()) > 0


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (torch.zeros(3, 3), torch.zeros(2, 2), "as many rows"),
        (torch.zeros(0, 3), torch.zeros(0, 2), "as many rows"),
        (torch.full((3, 3), math.nan), torch.zeros(3, 2), "X must be finite"),
        (torch.zeros(3, 3), torch.tensor([0, 1, 2]), "class numbers from 0 to 1"),
        (torch.zeros(3, 3), torch.zeros(3, 4), "y must have the shape"),
    ],
)
def test_bad_data_is_named(X, y, words):
    with pytest.raises(ValueError, match=words):
        laziness(_tanh(), X, y)


def test_a_network_that_cannot_train_is_an_error():
    model = nn.Sequential(nn.Linear(3, 2), nn.Flatten()).double()
    nn.init.zeros_(model[0].weight)

    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return 0 * self.inner(x)

    with pytest.raises(ValueError, match="nothing can train"):
        laziness(Dead(), *_data())


def _report(**trained) -> LazinessReport:
    found = laziness(_tanh(), *_data(), epochs=1, probes=0)
    default = {"loss": 0.5, "weights": 0.1, "kernel": 0.1, "kernel_error": 0.01}
    made = tuple(
        Trained(alpha=alpha, from_linearized=far, stability={}, **default)
        for alpha, far in trained["far"].items()
    )
    return dataclasses.replace(found, trainings=made)


def test_the_verdict_follows_the_measured_distance():
    said = verdict(_report(far={1.0: 0.5, 100.0: 0.05, math.inf: 0.0}))
    assert "not lazy at its own scale" in said
    assert "alpha below 1" not in said
    assert "LazyClassifier(alpha=100)" in said
    said = verdict(_report(far={1.0: 0.05, math.inf: 0.0}))
    assert "The network, its first outputs subtracted, is lazy at its own scale" in said
    assert "at 50% of the first loss" in said
    assert "alpha below 1" in said
    said = verdict(_report(far={1.0: 0.5, 100.0: 0.2, math.inf: 0.0}))
    assert "take alphas above 100" in said


def test_a_training_that_left_most_of_the_loss_is_not_relied_on():
    found = _report(far={1.0: 0.05, math.inf: 0.0})
    hardly = dataclasses.replace(found.trainings[0], loss=0.9)
    found = dataclasses.replace(found, trainings=(hardly, found.trainings[1]))
    assert "take more epochs" in verdict(found)
    assert "alpha below 1" not in verdict(found)


def test_a_training_that_diverges_is_said():
    found = _report(far={1.0: None, math.inf: 0.0})
    lost = dataclasses.replace(found.trainings[0], loss=math.inf)
    found = dataclasses.replace(found, trainings=(lost, found.trainings[1]))
    assert "diverged" in verdict(found)
    assert "diverged" in str(found)


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_a_report_reads_bags_of_words(mode):
    def bags(kind):
        torch.manual_seed(0)
        return nn.Sequential(kind(7, 3), nn.Tanh(), nn.Linear(3, 2)).double()

    class Looked(nn.Embedding):
        def forward(self, x):
            rows = super().forward(x)
            return {"mean": rows.mean, "sum": rows.sum, "max": rows.amax}[mode](1)

    x = torch.arange(20).reshape(5, 4) % 7
    y = torch.linspace(-1, 1, 10, dtype=torch.float64).view(5, 2)
    found = laziness(bags(lambda *size: nn.EmbeddingBag(*size, mode=mode)), x, y, epochs=1)
    expected = laziness(bags(Looked), x, y, epochs=1)
    assert found.second.value == pytest.approx(expected.second.value, rel=1e-6)


def test_a_large_network_gets_fewer_products_and_epochs(matrix_free, monkeypatch):
    x, y = _data()
    asked = []

    def counted(product, start, products):
        asked.append(products)
        return lanczos(product, start, products)

    monkeypatch.setattr(report_module, "lanczos", counted)
    small = laziness(_tanh(), x, y, probes=0)
    monkeypatch.setattr(report_module, "_LARGE_ENTRIES", 10)
    large = laziness(_tanh(), x, y, probes=0)
    given = laziness(_tanh(), x, y, probes=0, epochs=3, products=7)
    assert asked == [10, 5, 7]
    assert [found.epochs for found in (small, large, given)] == [5, 2, 3]


def test_the_kernel_at_w0_meets_each_probe_once(matrix_free, monkeypatch):
    """Its images serve the trace and the change at every scale."""
    calls = []
    apply = NormalizedKernel.__call__

    def counted(self, v):
        calls.extend([id(self)] * (v.shape[1] if v.ndim == 2 else 1))
        return apply(self, v)

    monkeypatch.setattr(NormalizedKernel, "__call__", counted)
    laziness(_tanh(), *_data(), epochs=1, products=3, probes=2, alphas=(1.0, 10.0))
    assert len(calls) == 3 + 1 + 4 * 2
    assert calls.count(calls[0]) == 3 + 1 + 2 * 2
