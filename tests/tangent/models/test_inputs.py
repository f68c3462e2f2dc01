"""Differences as functions of the inputs: gradients there against central differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

from tangent import ScaledDifference, linearize
from tangent.operations import Pair


class Between(nn.Module):
    """A function of entries between two linear layers, of eight channels to as many."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def attention(z):
    z = z.view(-1, 4, 2)
    return F.scaled_dot_product_attention(z, 2 * z, z + 1).flatten(1)


FUNCTIONS = {
    "ReLU": F.relu,
    "GELU": F.gelu,
    "SiLU": F.silu,
    "tanh": torch.tanh,
    "softmax": lambda z: F.softmax(z, -1),
    "layer norm": lambda z: F.layer_norm(z, (8,)),
    "group norm": lambda z: F.group_norm(z, 2),
    "attention": attention,
    "products": lambda z: z * z.roll(1, -1),
}


def moved(network, alpha, generator):
    made = ScaledDifference(network.double().eval(), alpha)
    with torch.no_grad():
        for d in made.delta:
            d.add_(0.3 * torch.randn(d.shape, generator=generator, dtype=d.dtype))
    return made


def check_gradient(of, at, generator, rtol=1e-6):
    """The gradient of a scalar function against a central difference in a random direction."""
    step, along = 1e-5, torch.randn(at.shape, generator=generator, dtype=at.dtype)
    expected = (of(at + step * along) - of(at - step * along)) / (2 * step)
    leaf = at.clone().requires_grad_()
    (found,) = torch.autograd.grad(of(leaf), leaf)
    allowed = rtol * float(found.norm() * along.norm())
    torch.testing.assert_close((found * along).sum(), expected.detach(), rtol=0, atol=allowed)
    assert found.abs().max() > 0


@pytest.mark.parametrize("alpha", [1.0, 1e4, math.inf])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_in_the_inputs_are_those_of_the_difference(name, alpha, generator):
    made = moved(Between(FUNCTIONS[name]), alpha, generator)
    x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    c = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    check_gradient(lambda x: (made(x) * c).sum(), x, generator)
    leaf = x.clone().requires_grad_()
    out = made(leaf)
    torch.testing.assert_close(out, made(x), rtol=1e-6, atol=1e-8)
    found = torch.autograd.grad((out * c).sum(), list(made.delta))
    expected = torch.autograd.grad((made(x) * c).sum(), list(made.delta))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("alpha", [1.0, math.inf])
def test_what_stands_before_a_linearized_head_is_trained_rightly(alpha, generator):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    )
    head = moved(network, alpha, generator)
    x = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 3, 1, 1, generator=generator, dtype=torch.float64)
    check_gradient(lambda w: head(F.conv2d(x, w)).square().sum(), weight, generator)


def test_the_base_output_of_a_pair_is_differentiable_in_the_inputs(generator):
    made = moved(Between(torch.tanh), math.inf, generator)
    x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    check_gradient(lambda x: made.pair(x).base.sum(), x, generator)


def test_embedded_tokens_by_keyword_have_gradients(generator):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, ids=None, *, embeds=None):
            return torch.tanh(self.layer(embeds)).sum(1)

    made = moved(Tokens(), math.inf, generator)
    x = torch.randn(4, 2, 5, generator=generator, dtype=torch.float64)
    check_gradient(lambda x: made(embeds=x).square().sum(), x, generator)


def test_inputs_with_gradients_change_no_number_where_none_are_asked_for(generator):
    made = moved(Between(F.gelu), 1e7, generator)
    x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(made(x.clone().requires_grad_()), made(x))
    seen = []
    pair = moved(Between(F.relu), 1e7, generator).pair(
        x.clone().requires_grad_(), on_gate=lambda name, stable: seen.append(name)
    )
    assert isinstance(pair, Pair)
    assert len(seen) == 1


def test_float32_stays_float32(generator):
    made = linearize(Between(F.gelu).eval())
    x = torch.randn(4, 5, generator=generator, requires_grad=True)
    assert made(x).dtype == torch.float32
    assert torch.equal(made(x), torch.zeros(4, 3))


@pytest.mark.parametrize("alpha", [1.0, 1e4, math.inf])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_in_the_displacements_have_gradients(name, alpha, generator):
    made = moved(Between(FUNCTIONS[name]), alpha, generator)
    x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    along = [torch.randn(d.shape, generator=generator, dtype=d.dtype) for d in made.delta]

    def slope(step):
        delta = [
            (d + step * v).detach().requires_grad_() for d, v in zip(made.delta, along, strict=True)
        ]
        pair = made.pair(x, delta=delta)
        return delta, torch.autograd.grad(pair.difference.square().sum(), delta, create_graph=True)

    delta, gradient = slope(0.0)
    inner = sum((g * v).sum() for g, v in zip(gradient, along, strict=True))
    found = torch.autograd.grad(inner, delta)
    for one, up, down in zip(found, slope(1e-5)[1], slope(-1e-5)[1], strict=True):
        expected = ((up - down) / 2e-5).detach()
        near = 1e-6 * float(expected.norm() + 1)
        torch.testing.assert_close(one, expected, rtol=0, atol=near)


@pytest.mark.parametrize("alpha", [1.0, 1e4, math.inf])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_transforms_of_torch_func_differentiate_a_difference(name, alpha, generator):
    made = moved(Between(FUNCTIONS[name]), alpha, generator)
    x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    delta = {f"delta.{i}": d.detach() for i, d in enumerate(made.delta)}

    def loss(delta, x):
        return functional_call(made, delta, (x,)).square().sum()

    expected = torch.autograd.grad(made(x).square().sum(), list(made.delta))
    found = grad(loss)(delta, x)
    near = {"rtol": 1e-6, "atol": 1e-7}
    for one, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(one, other, **near)
    each = vmap(grad(loss), (None, 0))(delta, x.unsqueeze(1))  # per-example gradients
    for one, other in zip(each.values(), expected, strict=True):
        torch.testing.assert_close(one.sum(0), other, **near)
    rows = jacrev(lambda x: functional_call(made, delta, (x,)))(x)
    leaf = x.clone().requires_grad_()
    (whole,) = torch.autograd.grad(made(leaf).sum(), leaf)
    torch.testing.assert_close(rows.sum((0, 1)), whole, **near)
    _, along = jvp(lambda x: functional_call(made, delta, (x,)), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(along, rows.sum((2, 3)), **near)


def test_weights_that_reach_no_output_move_nothing(generator):
    network = Between(F.gelu)
    network.unused = nn.Linear(2, 2)
    made = linearize(network.eval(), parameters="unused")
    x = torch.randn(4, 5, generator=generator, requires_grad=True)
    with torch.no_grad():
        made.delta[0].add_(1)
    assert torch.equal(made(x), torch.zeros(4, 3))
