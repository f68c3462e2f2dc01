"""Blocked Cholesky factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tangent.solve.cholesky import factor_in_place, inverse_diagonal, squared_norms


def positive(n, seed):
    x = np.random.default_rng(seed).normal(size=(n, n + 2))
    return x @ x.T / n + 0.1 * np.eye(n)


@given(n=st.integers(1, 20), block=st.integers(1, 21), seed=st.integers(0, 999))
def test_the_factor_is_written_over_the_lower_triangle(n, block, seed):
    matrix = positive(n, seed)
    lower = np.asfortranarray(np.where(np.tri(n, dtype=bool), matrix, np.nan))
    lower[np.triu_indices(n, 1)] = 7.0  # not read
    factor_in_place(lower, block=block)
    np.testing.assert_allclose(np.tril(lower), np.linalg.cholesky(matrix), atol=1e-10)


@given(n=st.integers(1, 20), block=st.integers(1, 21), seed=st.integers(0, 999))
def test_the_diagonal_of_the_inverse_comes_from_the_factor(n, block, seed):
    matrix = positive(n, seed)
    factor = np.asfortranarray(np.linalg.cholesky(matrix) + np.triu(np.full((n, n), 7.0), 1))
    np.testing.assert_allclose(
        inverse_diagonal(factor, block=block), np.linalg.inv(matrix).diagonal(), rtol=1e-8
    )


def test_the_leading_minor_that_is_not_positive_is_named():
    matrix = np.asfortranarray(np.diag([1.0, 2.0, 3.0, -1.0, 1.0]))
    with pytest.raises(np.linalg.LinAlgError, match="leading minor 4"):
        factor_in_place(matrix, block=2)


@pytest.mark.parametrize("block", [3, 64])
def test_squared_norms_are_those_of_the_inverse(block):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(20, 25, generator=generator, dtype=torch.float64)
    matrix, right = root @ root.T, torch.randn(20, 7, generator=generator, dtype=torch.float64)
    factor = np.asfortranarray(matrix.numpy())
    factor_in_place(factor)
    expected = (right * torch.linalg.solve(matrix, right)).sum(0)
    found = squared_norms(factor, right.clone(), block=block)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
