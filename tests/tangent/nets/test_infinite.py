"""The infinitely wide convolution: patch by patch, and as the limit of wide ones."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tangent.nets.infinite import infinite_conv_shares
from tangent.nets.shares import ShareConv2d, ShareLinear, conv_features

POOL = nn.AvgPool2d(3, 2)


@pytest.fixture
def maps(generator):
    return torch.randn(2, 4, 3, 5, 5, generator=generator, dtype=torch.float64)


def _patch_by_patch(maps):
    """Both shares by a loop over views, images, cells and positions."""
    views, n, c, h, w = maps.shape
    spread = POOL(torch.eye(h * w, dtype=maps.dtype).view(-1, 1, h, w)).flatten(1)
    z = F.unfold(maps.flatten(0, 1), 3, padding=1).view(views, n, 9 * c, h * w)
    hidden, last = torch.zeros(2, n, n, dtype=maps.dtype)
    for i in range(n):
        for j in range(n):
            for a in z[:, i]:
                for b in z[:, j]:
                    sizes = a.norm(dim=0)[:, None] * b.norm(dim=0)
                    theta = (a.T @ b / sizes).clamp(-1, 1).acos()
                    zero = (math.pi - theta) / (2 * math.pi)
                    one = sizes * (theta.sin() + (math.pi - theta) * theta.cos()) / (2 * math.pi)
                    for cell in spread.T:
                        pair = cell[:, None] * cell
                        hidden[i, j] += (pair * (a.T @ b + 1) * zero).sum()
                        last[i, j] += (pair * one).sum()
    return hidden * 2 / spread.shape[1] / views**2, last * 2 / (9 * c) / views**2


def test_shares_are_sums_over_patches(maps):
    for ours, expected in zip(infinite_conv_shares(POOL, maps), _patch_by_patch(maps), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-7)
        assert torch.equal(ours, ours.T)


def test_shares_of_other_images_are_blocks_of_all(maps):
    whole = infinite_conv_shares(POOL, maps)
    some = infinite_conv_shares(POOL, maps[:, :1], maps[:, 1:])
    for share, block in zip(whole, some, strict=True):
        torch.testing.assert_close(share[:1, 1:], block, rtol=1e-12, atol=0)


def test_wide_networks_come_close(maps, generator):
    width, cells = 20_000, 4
    conv = ShareConv2d(3, width, 3, padding=1).double()
    head = ShareLinear(width * cells, 1).double()
    for layer in (conv, head):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
    hidden, last = conv_features(conv, POOL, head, maps)
    limit = infinite_conv_shares(POOL, maps)
    for features, share, factor in ((hidden, limit[0], 1.0), (last[:, :-1], limit[1], width)):
        error = features @ features.T / factor - share
        # Fluctuations are of order 1 / sqrt(width): a factor of two anywhere would be seen.
        assert error.abs().max() < 0.05 * share.abs().max()


def test_float32_and_empty_maps(maps):
    maps = torch.cat([maps, torch.zeros_like(maps[:, :1])], dim=1)
    exact = infinite_conv_shares(POOL, maps)
    for ours, expected in zip(infinite_conv_shares(POOL, maps.float()), exact, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)
