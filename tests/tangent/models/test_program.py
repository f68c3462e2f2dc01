"""A record of a network that is run on tensors and on pairs."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.func import functional_call, jvp

from tangent.capture import captured
from tangent.models.program import Program


def recorded(generator):
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    return model, x, Program(captured(model, (x,), {}, output=None, custom=False))


def test_on_tensors_it_is_the_network_at_any_weights(generator):
    model, x, program = recorded(generator)
    weights = {n: p.detach() + 1 for n, p in model.named_parameters()}
    expected = functional_call(model, weights, (x,))
    torch.testing.assert_close(program.plain([x], weights), expected)


def test_on_pairs_at_infinity_it_is_the_forward_derivative(generator):
    model, x, program = recorded(generator)
    weights = {n: p.detach() for n, p in model.named_parameters()}
    delta = {
        n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in weights.items()
    }
    found = program.run([x], weights, delta, math.inf, None)
    base, moved = jvp(lambda w: functional_call(model, w, (x,)), (weights,), (delta,))
    torch.testing.assert_close(found.base, base)
    torch.testing.assert_close(found.difference, moved)


def test_gates_are_reported_by_name(generator):
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU()).double()
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    program = Program(captured(model, (x,), {}, output=None, custom=False))
    weights = {n: p.detach() for n, p in model.named_parameters()}
    seen = {}
    program.run([x], weights, {n: -2 * p for n, p in weights.items()}, 1.0, seen.__setitem__)
    (stable,) = seen.values()
    assert not stable.any()  # all weights change their sign, and with them every pre-activation


def test_a_linear_layer_on_turned_inputs_is_one_product(generator):
    """torch makes it products with as many copies of the weights; their gradient is as large."""
    layer = nn.MultiheadAttention(6, 2, batch_first=True).double().eval()

    class Attended(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x, x, x, need_weights=False)[0].mean(1)

    model = Attended()
    x = torch.randn(3, 5, 6, generator=generator, dtype=torch.float64)
    program = Program(captured(model, (x,), {}, output=None, custom=False))
    batched = torch.ops.aten.bmm.default
    assert sum(call.op is batched for call in program.graph.calls) == 2  # scores, and their use
    weights = {n: p.detach() for n, p in model.named_parameters()}
    torch.testing.assert_close(program.plain([x], weights), functional_call(model, weights, (x,)))
    delta = {
        n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in weights.items()
    }
    moved = {n: p + delta[n] for n, p in weights.items()}
    expected = functional_call(model, moved, (x,)) - functional_call(model, weights, (x,))
    torch.testing.assert_close(program.run([x], weights, delta, 1.0, None).difference, expected)


def test_products_of_the_faster_library_have_torchs_gradients(generator):
    model = nn.Sequential(nn.Linear(64, 300), nn.Tanh(), nn.Linear(300, 40, bias=False))
    x = torch.randn(256, 64, generator=generator)
    program = Program(captured(model, (x,), {}, output=None, custom=False))
    weights = {n: p.detach().requires_grad_() for n, p in model.named_parameters()}
    program.plain([x], weights).square().mean().backward()
    exact = {n: p.detach().double().requires_grad_() for n, p in model.named_parameters()}
    functional_call(model.double(), exact, (x.double(),)).square().mean().backward()
    for name, p in weights.items():
        torch.testing.assert_close(p.grad.double(), exact[name].grad, rtol=1e-4, atol=1e-6)
