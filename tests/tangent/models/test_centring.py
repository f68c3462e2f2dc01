import pytest
import torch
from torch import nn

from tangent.models import linearize
from tangent.models.centring import CentredModel, mean_tangent_features
from tangent.solve.centring import KernelCentring, centred_product
from tests.tangent.kernels import features, full, perceptron, problem, trace

close = torch.testing.assert_close


@pytest.mark.parametrize("kernel_of", [trace, full])
def test_centred_kernel_is_that_of_centred_features(kernel_of, generator):
    phi, psi, _ = problem(generator)
    mean = phi.mean(0)
    centring = KernelCentring.fit(kernel_of(phi, phi))
    close(centring.train(kernel_of(phi, phi)), kernel_of(phi - mean, phi - mean))
    close(centring.cross(kernel_of(psi, phi)), kernel_of(psi - mean, phi - mean))


def test_weights_weigh_the_mean(generator):
    phi, psi, _ = problem(generator)
    weights = torch.rand(len(phi), generator=generator, dtype=torch.float64)
    mean = torch.tensordot(weights / weights.sum(), phi, 1)
    centring = KernelCentring.fit(trace(phi, phi), weights)
    close(centring.cross(trace(psi, phi)), trace(psi - mean, phi - mean))
    own = trace(psi, psi).diagonal()
    expected = trace(psi - mean, psi - mean).diagonal()
    close(centring.diagonal(own, trace(psi, phi)), expected)


@pytest.mark.parametrize("kernel_of", [trace, full])
def test_centred_product_is_the_product_with_the_centred_kernel(kernel_of, generator):
    phi, _, _ = problem(generator)
    rows = 12 if kernel_of is trace else 24
    kernel = kernel_of(phi, phi)
    v = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    product = centred_product(kernel.reshape(rows, rows).matmul, 12)
    close(product(v), KernelCentring.fit(kernel).train(kernel).reshape(rows, rows) @ v)


def test_mean_features_are_the_mean_whatever_the_batches(generator):
    model = perceptron(generator)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    means = mean_tangent_features(model, x.split(3))
    close(torch.cat([m.flatten(1) for m in means], dim=1), features(model, x).mean(0))
    with pytest.raises(ValueError, match="at least one batch"):
        mean_tangent_features(model, [])


class _Linear(nn.Module):
    """A linearized network from explicit features."""

    def __init__(self, phi_of, shapes):
        super().__init__()
        self.phi_of = phi_of
        self.deltas = nn.ParameterList(nn.Parameter(torch.zeros(s).double()) for s in shapes)

    def forward(self, x):
        return self.phi_of(x) @ torch.cat([d.flatten() for d in self.deltas])


def test_centred_model_has_the_centred_features(generator):
    model = perceptron(generator)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    linear = _Linear(lambda x: features(model, x), [p.shape for p in model.parameters()])
    constant = torch.tensor([0.5, -1.0], dtype=torch.float64)
    centred = CentredModel(linear, mean_tangent_features(model, [x]), constant)
    phi = features(model, x)
    close(features(centred, x), phi - phi.mean(0))
    close(centred(x), constant.expand(7, 2))
    with pytest.raises(ValueError, match="means must hold one tensor"):
        CentredModel(linear, [])


def test_centring_lowers_the_top_eigenvalue_of_a_relu_network(generator):
    from tangent import mlp

    model = mlp(10, 1, hidden=(64, 64), generator=generator).double()
    x = torch.rand(60, 10, generator=generator, dtype=torch.float64)
    phi = features(model, x)
    kernel = trace(phi, phi)
    centred = KernelCentring.fit(kernel).train(kernel)
    top = torch.linalg.eigvalsh(kernel)[-1]
    assert torch.linalg.eigvalsh(centred)[-1] < top / 10


@pytest.mark.parametrize("frozen", [False, True])
def test_a_linearized_network_is_centred_in_what_is_trainable(frozen, generator):
    model = perceptron(generator)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    if frozen:
        next(model.parameters()).requires_grad_(False)
    linear = linearize(model)
    centred = CentredModel(linear, mean_tangent_features(model, x.split(4)))
    with torch.no_grad():
        for delta in linear.delta:
            delta.normal_(generator=generator)
    expected = linear(x)
    torch.testing.assert_close(centred(x), expected - expected.mean(0))
    loss = centred(x).square().sum()
    assert len(torch.autograd.grad(loss, list(linear.delta))) == len(linear.delta)


def test_mean_features_of_a_network_that_cannot_move_are_refused(generator):
    model = perceptron(generator).requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter with requires_grad=True"):
        mean_tangent_features(model, [torch.zeros(2, 3, dtype=torch.float64)])
