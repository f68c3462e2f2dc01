"""The caller's modes of torch make no difference to any public function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tangent
from tangent import TangentKernel, TangentOperator, linearize, tangent_features, tangent_kernel
from tangent.kernel import KernelProduct, kernel_eigenvalues, kernel_trace
from tangent.models import CentredModel, mean_tangent_features
from tangent.solve import kernel_ridge, spectrum


class Odd(nn.Module):
    """A network whose record is checked against autograd, and whose product has no rule."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
        self.scale = nn.Parameter(torch.full((4,), 1.5, dtype=torch.float64))

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)) * self.scale.cumsum(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def odd():
    torch.manual_seed(0)
    return Odd()


def inputs():
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def seeded():
    return torch.Generator().manual_seed(0)


CALLS = {
    "kernel": lambda m, x: tangent_kernel(m, x),
    "trace kernel": lambda m, x: tangent_kernel(m, x, x[:2], outputs="trace"),
    "features": lambda m, x: tangent_features(m, x),
    "sketch": lambda m, x: tangent_features(m, x, project=7, generator=seeded()),
    "product": lambda m, x: KernelProduct(m, x)(torch.ones(8, 1, dtype=torch.float64)),
    "displacement": lambda m, x: KernelProduct(m, x).displacement(x.new_ones(8))[
        next(iter(dict(m.named_parameters())))
    ],
    "operator": lambda m, x: TangentOperator(m, x, centred=True).apply(x.new_ones(8)),
    "eigenvalues": lambda m, x: kernel_eigenvalues(TangentOperator(m, x), 2, generator=seeded()),
    "trace": lambda m, x: kernel_trace(TangentOperator(m, x), generator=seeded()),
    "mean features": lambda m, x: torch.cat(
        [f.flatten() for f in mean_tangent_features(m, x.split(3))]
    ),
    "ridge": lambda m, x: kernel_ridge(tangent_kernel(m, x, outputs="trace"), x, 0.1).coefficients,
    "spectrum": lambda m, x: spectrum(tangent_kernel(m, x)).eigenvalues,
}


@pytest.mark.parametrize("model", [network, odd])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", CALLS)
def test_functions_give_the_same_in_the_callers_mode(name, mode, model):
    expected = torch.as_tensor(CALLS[name](model(), inputs()))
    with mode():
        within = torch.as_tensor(CALLS[name](model(), inputs()))  # network and inputs of the mode
    m, x = model(), inputs()
    with mode():
        again = torch.as_tensor(CALLS[name](m, x))
    torch.testing.assert_close(within.clone(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(again.clone(), expected, rtol=1e-12, atol=1e-12)
    assert all(p.requires_grad and p.grad is None for p in m.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_report_is_the_same_in_the_callers_mode(mode):
    x, y = inputs(), torch.tensor([0, 1, 0, 1])
    expected = tangent.laziness(network(), x, y, epochs=1).as_dict()
    with mode():
        assert tangent.laziness(network(), inputs(), y.clone(), epochs=1).as_dict() == expected


def test_a_kernel_function_is_the_same_in_inference_mode():
    x = inputs().numpy()
    expected = TangentKernel(width=0.02)(x)
    with torch.inference_mode():
        assert (TangentKernel(width=0.02)(x) == expected).all()


def test_a_centred_model_predicts_in_inference_mode():
    m, x = network(), inputs()
    centred = CentredModel(linearize(m), mean_tangent_features(m, [x]))
    with torch.no_grad():
        expected = centred(x)
    with torch.inference_mode():
        assert torch.equal(centred(x), expected)
