"""Bounds on the largest eigenvalue, on spectra that are known."""

from __future__ import annotations

import pytest
import torch

from tangent.solve.lanczos import largest_eigenvalue_bounds


def bounds(eigenvalues, seed, dtype=torch.float64, **options):
    eigenvalues = torch.as_tensor(eigenvalues, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(len(eigenvalues), generator=generator).to(dtype)
    return largest_eigenvalue_bounds(lambda v: eigenvalues * v, start, **options)


def tail(n, top=0.5):
    return top * 10.0 ** -torch.linspace(0, 4, n, dtype=torch.float64)


ONE = torch.ones(1, dtype=torch.float64)
SPECTRA = {
    "one far apart": torch.cat([ONE, tail(999)]),
    "two within a per cent": torch.cat([ONE, 0.99 * ONE, tail(998)]),
    "ten in a tenth": torch.cat([torch.linspace(1, 0.9, 10), tail(990)]),
    "a cluster below": torch.cat([ONE, torch.linspace(0.95, 0.9, 99), tail(900)]),
    "an even spread": torch.linspace(1, 0, 1000),
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("iterations", [3, 12, 24])
def test_the_largest_eigenvalue_is_between_the_bounds(spectrum, iterations):
    for seed in range(6):
        found = bounds(SPECTRA[spectrum], seed, iterations=iterations)
        assert found.lower <= 1 + 1e-12
        assert found.upper >= 1
        assert found.products <= iterations


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_defaults_leave_a_gap_of_a_few_per_cent(spectrum):
    for seed in range(5):
        found = bounds(SPECTRA[spectrum], seed)
        assert found.upper <= 1.05
        assert found.upper <= 1.05 * found.lower or found.products == 24


def test_a_ritz_value_and_its_residual_alone_would_be_below():
    # The spectrum is made so that power iteration ends on the unsafe side; the bound does not.
    eigenvalues = SPECTRA["ten in a tenth"]
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(1000, generator=generator, dtype=torch.float64)
    for _ in range(12):
        v = eigenvalues * v / v.norm()
    estimate = float(v @ (eigenvalues * v) / (v @ v))
    assert estimate < 0.99
    assert bounds(eigenvalues, 0).upper >= 1


def test_far_apart_eigenvalues_need_few_products():
    assert max(bounds(SPECTRA["one far apart"], seed).products for seed in range(5)) <= 8


def test_the_bounds_scale_with_the_operator():
    for factor in (1e-20, 1e20):
        found = bounds(factor * SPECTRA["ten in a tenth"], 1)
        unit = bounds(SPECTRA["ten in a tenth"], 1)
        assert found.upper == pytest.approx(factor * unit.upper, rel=1e-9)


def test_float32_products_are_allowed_for():
    for seed in range(5):
        found = bounds(SPECTRA["one far apart"], seed, torch.float32, tolerance=0, iterations=40)
        assert 1 <= found.upper <= 1 + 1e-4


def test_an_invariant_space_ends_the_search_with_the_eigenvalue():
    found = bounds([3.0], 0)
    assert (found.lower, found.products) == (pytest.approx(3), 1)
    assert found.upper == pytest.approx(3)
    found = bounds([2.0, 2.0, 2.0], 0)
    assert found.products == 1
    assert found.upper == pytest.approx(2)


def test_nothing_is_bounded_by_nothing():
    found = bounds([0.0, 0.0], 0)
    assert (found.lower, found.upper) == (0, 0)
