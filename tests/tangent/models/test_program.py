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
