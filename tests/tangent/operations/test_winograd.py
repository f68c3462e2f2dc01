"""Winograd's convolution against the direct one, and its steps against their adjoints."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tangent import ScaledDifference
from tangent.operations import winograd
from tangent.operations.registry import Pair

OPTIONS = ([1, 1], [1, 1], [1, 1], 1)


def normal(generator, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 3, 4, 4), (3, 4, 8, 8), (2, 2, 12, 12)])
def test_the_convolution_is_the_direct_one(generator, shape):
    x, w = normal(generator, *shape), normal(generator, 5, shape[1], 3, 3)
    scheme = winograd.scheme_of(shape[2])
    kernel = winograd.kernel_of(w, scheme).transpose(1, 2)
    products = torch.bmm(winograd.tiles_of(x, scheme), kernel)
    expected = F.conv2d(x, w, padding=1)
    out = torch.full_like(expected, torch.nan)
    winograd.outputs_of(products, out, scheme)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("side", [2, 4, 8])
def test_adjoints_are_adjoint(generator, side):
    scheme = winograd.scheme_of(side)
    x, w = normal(generator, 2, 3, side, side), normal(generator, 5, 3, 3, 3)
    tiles, kernel = winograd.tiles_of(x, scheme), winograd.kernel_of(w, scheme)
    y, back = normal(generator, *tiles.shape), torch.zeros_like(x)
    winograd.tiles_adjoint(y, back, scheme)
    torch.testing.assert_close((tiles * y).sum(), (x * back).sum())
    y = normal(generator, *kernel.shape)
    torch.testing.assert_close((kernel * y).sum(), (w * winograd.kernel_adjoint(y, scheme)).sum())
    y, out = normal(generator, *tiles.shape), torch.empty_like(x)
    winograd.outputs_of(y, out, scheme)
    left, right = (out * x).sum(), (y * winograd.outputs_adjoint(x, scheme)).sum()
    torch.testing.assert_close(left, right)


@pytest.mark.parametrize("side", [2, 4, 8])
def test_a_constant_at_its_place_is_the_constant(side):
    scheme = winograd.scheme_of(side)
    products = torch.zeros(len(scheme.kernel), len(scheme.tiles), 1)
    products[scheme.constant] = 3.0
    out = torch.empty(1, 1, side, side)
    winograd.outputs_of(products, out, scheme)
    torch.testing.assert_close(out, torch.full_like(out, 3.0))


@pytest.mark.parametrize("alpha", [1.0, 1e4, 1e7, math.inf])
@pytest.mark.parametrize("bias", [True, False])
def test_pairs_and_gradients_are_those_of_the_direct_rule(generator, monkeypatch, alpha, bias):
    layers = (nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 3, padding=1, bias=bias))
    module = ScaledDifference(nn.Sequential(*layers).double(), alpha)
    for delta in module.delta:
        nn.init.normal_(delta, generator=generator)
    x = normal(generator, 3, 2, 8, 8)
    weights = normal(generator, 3, 4, 8, 8)
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
    x = normal(generator, 16, 3, 8, 8, dtype=torch.float32)
    assert winograd.suits(torch.empty(16, 128, 8, 8), single.network[2].weight, OPTIONS)
    ours, oracle = single(x), double(x.double())
    assert (ours - oracle).norm() < 4e-6 * oracle.norm()
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
        ((64, 128, 6, 6), (128, 128, 3, 3), OPTIONS),
        ((64, 128, 4, 8), (128, 128, 3, 3), OPTIONS),
        ((64, 2048, 4, 4), (2048, 2048, 3, 3), OPTIONS),
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
        parts = lambda scheme, *tensors, n=n: zip(*(t.split(n) for t in tensors), strict=True)  # noqa: E731
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
