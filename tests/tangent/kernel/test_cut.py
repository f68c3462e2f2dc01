"""Gradients that a network cuts: when they are another thing than the derivatives of its values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tangent import tangent_features
from tangent.kernel.cut import cuts_gradients, pushed_forward
from tangent.models.propagation import sharing
from tests.zoo.plain import Net

NETWORKS = {
    "none": (lambda s, x: s.m(torch.tanh(s.l(x))), False),
    "of the inputs, which do not move": (lambda s, x: s.m(torch.tanh(s.l(x.detach()))), False),
    "of a value": (lambda s, x: s.m(torch.tanh(s.l(x).detach())), True),
    "of a shift": (lambda s, x: s.m(s.l(x) - s.l(x).data.mean(1, keepdim=True)), True),
    "of a small share": (lambda s, x: s.m(torch.tanh(s.l(x)) + 1e-3 * s.l(x).detach()), True),
    "of all": (lambda s, x: s.m(s.l(x)).detach(), True),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Net(NETWORKS[name][0], l=nn.Linear(4, 3), m=nn.Linear(3, 2)).double().eval()


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_counts_where_it_changes_gradients(name, n):
    model = network(name)
    linear = sharing(model, [key for key, _ in model.named_parameters()])
    assert cuts_gradients(linear, torch.randn(n, 4, dtype=torch.float64)) == NETWORKS[name][1]


@pytest.mark.parametrize("name", NETWORKS)
def test_pushed_forward_is_the_features_times_the_displacement(name):
    model, x = network(name), torch.randn(5, 4, dtype=torch.float64)
    delta = {key: torch.randn_like(p) for key, p in model.named_parameters()}
    whole = torch.cat([d.flatten() for d in delta.values()])
    expected = tangent_features(model, x) @ whole if name != "of all" else torch.zeros(5, 2)
    torch.testing.assert_close(pushed_forward(model, x, delta), expected.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_what_autograd_gives(name, dtype):
    model, x = network(name).to(dtype), torch.randn(5, 4, dtype=dtype)
    if name == "of all":
        return
    found = tangent_features(model, x)
    for row, one in zip(found, x, strict=True):
        for feature, output in zip(row, model(one[None])[0], strict=True):
            grads = torch.autograd.grad(
                output, list(model.parameters()), retain_graph=True, allow_unused=True,
                materialize_grads=True,
            )  # fmt: skip
            expected = torch.cat([g.flatten() for g in grads])
            torch.testing.assert_close(feature, expected, rtol=2e-3, atol=1e-6)
