"""Differences of GELU in every range of steps, and formulas taken block by block."""

from __future__ import annotations

import mpmath
import pytest
import torch

from tangent.operations import smooth
from tangent.operations.registry import Pair


def _gelu_oracle(z: float, v: float, alpha: float) -> tuple[float, float]:
    """The difference, and the size of the two terms that make it up."""
    with mpmath.workdps(60):
        z, v, alpha = map(mpmath.mpf, (z, v, alpha))
        moved = z + v / alpha
        rise = alpha * (mpmath.ncdf(moved) - mpmath.ncdf(z))
        terms = v * mpmath.ncdf(moved), z * rise
        return float(sum(terms)), float(abs(terms[0]) + abs(terms[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 3.0, 8.0, 30.0, 1e3, 1e7])
def test_gelu_keeps_its_digits_whatever_the_step(dtype, alpha):
    z = torch.cat([torch.linspace(-7, 7, 41), torch.tensor([0.0, 1e-3, -0.75])]).to(dtype)
    for v in (-1.0, 0.7):
        found = smooth.gelu(Pair(z, torch.full_like(z, v)), alpha).difference
        right = [_gelu_oracle(a, torch.full((), v, dtype=dtype).item(), alpha) for a in z.tolist()]
        pairs = zip(found.tolist(), right, strict=True)
        error = [abs(f - r) / max(t, 1e-30) for f, (r, t) in pairs]
        assert max(error) < 50 * torch.finfo(dtype).eps  # z^2 epsilon in the tails


def test_the_gradient_of_gelus_difference_is_the_slope_at_the_moved_place():
    v = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    z = torch.linspace(-3, 3, 9, dtype=torch.float64)
    smooth.gelu(Pair(z, v), 2.0).difference.sum().backward()
    moved = (z + v.detach() / 2).requires_grad_()
    torch.nn.functional.gelu(moved).sum().backward()
    torch.testing.assert_close(v.grad, moved.grad, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("rule", [smooth.gelu, smooth.tanh, smooth.sin])
@pytest.mark.parametrize("alpha", [1.0, float("inf")])
def test_blocks_do_not_show(rule, alpha, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 11, 7, generator=generator, dtype=torch.float64)
    ends = []
    for block in (5, 1000):
        monkeypatch.setattr(smooth, "_BLOCK", block)
        moving = v.clone().requires_grad_()
        out = rule(Pair(z, moving), alpha).difference
        out.square().sum().backward()
        ends.append((out.detach(), moving.grad))
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-15)
