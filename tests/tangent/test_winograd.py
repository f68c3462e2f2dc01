"""Winograd's convolution against the direct one, and its steps against their adjoints."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tangent import ScaledDifference
from tangent.difference import winograd
from tangent.difference.pair import Pair

OPTIONS = ([1, 1], [1, 1], [1, 1], 1)


def normal(generator, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (1, 1, 2, 2), (3, 4, 8, 8)])
def test_the_convolution_is_the_direct_one(generator, shape):
    x, w = normal(generator, *shape), normal(generator, 5, shape[1], 3, 3)
    products = torch.bmm(winograd.tiles_of(x), winograd.kernel_of(w).transpose(1, 2))
    expected = F.conv2d(x, w, padding=1)
    out = torch.full_like(expected, torch.nan)
    winograd.outputs_of(products, out)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    ("step", "adjoint", "shape"),
    [
        (winograd.tiles_of, winograd.tiles_adjoint, (2, 3, 4, 6)),
        (winograd.kernel_of, winograd.kernel_adjoint, (5, 3, 3, 3)),
    ],
)
def test_adjoints_are_adjoint(generator, step, adjoint, shape):
    x = normal(generator, *shape)
    y = normal(generator, *step(x).shape)
    back = adjoint(y, x.shape) if adjoint is winograd.tiles_adjoint else adjoint(y)
    torch.testing.assert_close((step(x) * y).sum(), (x * back).sum())


def test_the_adjoint_of_the_outputs_is_adjoint(generator):
    products, grad = normal(generator, 16, 2 * 2 * 3, 5), normal(generator, 2, 5, 4, 6)
    out = torch.empty_like(grad)
    winograd.outputs_of(products, out)
    left = (out * grad).sum()
    torch.testing.assert_close(left, (products * winograd.outputs_adjoint(grad)).sum())


@pytest.mark.parametrize("alpha", [1.0, 1e4, 1e7, math.inf])
@pytest.mark.parametrize("bias", [True, False])
def test_pairs_and_gradients_are_those_of_the_direct_rule(generator, monkeypatch, alpha, bias):
    layers = (nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 3, padding=1, bias=bias))
    module = ScaledDifference(nn.Sequential(*layers).double(), alpha)
    for delta in module.delta:
        nn.init.normal_(delta, generator=generator)
    x = normal(generator, 3, 2, 4, 6)
    weights = normal(generator, 3, 4, 4, 6)
    found = []
    for use in (True, False):
        # A twin of suits without the conditions of speed.
        monkeypatch.setattr(winograd, "suits", lambda x, w, options, use=use: use)
        pair = module.pair(x)
        grads = torch.autograd.grad(pair.difference, list(module.delta), weights)
        found.append((pair.base, pair.difference, grads))
    torch.testing.assert_close(*found)


def test_a_large_network_in_float32_is_near_float64(generator):
    layers = (nn.Conv2d(3, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1))
    single = ScaledDifference(nn.Sequential(*layers), 1e7)
    for delta in single.delta:
        nn.init.normal_(delta, generator=generator)
    double = ScaledDifference(nn.Sequential(*layers).double(), 1e7)
    double.load_state_dict(single.state_dict())
    x = normal(generator, 4, 3, 8, 8, dtype=torch.float32)
    assert winograd.suits(torch.empty(4, 128, 8, 8), single.network[2].weight, OPTIONS)
    ours, oracle = single(x), double(x.double())
    assert (ours - oracle).norm() < 1e-6 * oracle.norm()
    for a, b in zip(
        torch.autograd.grad(ours.square().sum(), list(single.delta)),
        torch.autograd.grad(oracle.square().sum(), list(double.delta)),
        strict=True,
    ):
        assert (a - b).norm() < 1e-5 * b.norm()


@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((64, 128, 8, 8), (128, 128, 5, 5), OPTIONS),
        ((64, 128, 7, 8), (128, 128, 3, 3), OPTIONS),
        ((64, 128, 8, 8), (128, 128, 3, 3), ([2, 1], [1, 1], [1, 1], 1)),
        ((64, 128, 8, 8), (128, 128, 3, 3), ([1, 1], [0, 1], [1, 1], 1)),
        ((64, 128, 8, 8), (128, 64, 3, 3), ([1, 1], [1, 1], [1, 1], 2)),
        ((64, 16, 8, 8), (128, 16, 3, 3), OPTIONS),
        ((1, 128, 2, 2), (128, 128, 3, 3), OPTIONS),
    ],
)
def test_other_convolutions_are_left_to_the_library(x, w, options):
    assert winograd.suits(torch.empty(64, 128, 8, 8), torch.empty(128, 128, 3, 3), OPTIONS)
    assert not winograd.suits(torch.empty(x), torch.empty(w), options)


def test_a_batch_in_parts_is_the_batch(generator, monkeypatch):
    x = Pair(normal(generator, 7, 3, 4, 4), normal(generator, 7, 3, 4, 4).requires_grad_())
    w = Pair(normal(generator, 5, 3, 3, 3), normal(generator, 5, 3, 3, 3).requires_grad_())
    found = []
    for n in (7, 2):
        parts = lambda *tensors, n=n: zip(*(t.split(n) for t in tensors), strict=True)  # noqa: E731
        monkeypatch.setattr(winograd, "_parts", parts)
        pair = winograd.convolution_pair(3.0, x, w, None)
        grads = torch.autograd.grad(pair.difference.square().sum(), [x.difference, w.difference])
        found.append((*pair, *grads))
    torch.testing.assert_close(*found)


def test_it_takes_pairs_with_a_base_that_stays_as_it_was(generator):
    x = Pair(normal(generator, 2, 3, 4, 4), normal(generator, 2, 3, 4, 4))
    w = Pair(normal(generator, 5, 3, 3, 3), normal(generator, 5, 3, 3, 3))
    before = [t.clone() for t in (*x, *w)]
    winograd.convolution_pair(10.0, x, w, None)
    assert all(torch.equal(a, b) for a, b in zip(before, (*x, *w), strict=True))
