"""Kernel ridge regression by conjugate gradients, against Cholesky factors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.gaussian import gaussian_kernel
from baselines.iterative_ridge import PackedKernel, iterative_kernel_ridge
from baselines.moments import left_out_accuracy
from baselines.weighted_ridge import weighted_kernel_ridge


def example(n, seed=0, p=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=generator)
    full = gaussian_kernel(x, x, 1 / (2 * p))
    labels = (x[:, 0] > 0.3).long() + (x[:, 1] > 0).long()
    targets = torch.nn.functional.one_hot(labels, 3).double()
    return full, targets - targets.mean(0)


def packed(full, size):
    return PackedKernel(full[s : s + size, s:].clone() for s in range(0, len(full), size))


@given(n=st.integers(1, 12), size=st.integers(1, 13), seed=st.integers(0, 99))
def test_a_packed_kernel_multiplies_as_the_whole_one(n, size, seed):
    full, _ = example(n, seed)
    v = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(packed(full, size) @ v, full @ v)


def test_what_lies_below_the_diagonal_of_a_corner_is_not_read():
    full, _ = example(7)
    torch.testing.assert_close(packed(full.triu(), 3) @ torch.eye(7), full)


def test_the_solution_and_the_ridge_are_those_of_the_factors():
    full, targets = example(500)
    alphas = (0.01, 0.1, 10.0)
    expected = weighted_kernel_ridge(full, targets.numpy(), np.ones(500), alphas)
    found = iterative_kernel_ridge(
        packed(full, 128), targets.numpy(), np.ones(500), alphas, rank=50
    )
    assert found.alpha == expected.alpha
    scores = full.double().numpy() @ np.stack([found.dual, expected.dual])
    np.testing.assert_allclose(scores[0], scores[1], atol=0.01)
    for alpha in alphas:
        assert found.gcv[alpha] == pytest.approx(expected.gcv[alpha], rel=0.1)  # a trace estimated
        inverse = np.linalg.inv(full.double().numpy() + alpha * np.eye(500))
        level = np.full(500, 1 - alpha * np.trace(inverse) / 500)
        residuals = alpha * inverse @ targets.numpy()
        here = left_out_accuracy(targets.numpy(), residuals, level, np.ones(500))
        assert found.accuracies[alpha] == pytest.approx(here, abs=0.01)


def test_running_out_of_products_says_what_to_do():
    full, targets = example(60)
    with pytest.raises(RuntimeError, match=r"max_iterations=1 .* larger alpha"):
        iterative_kernel_ridge(
            packed(full, 60), targets.numpy(), np.ones(60), (1e-4,), max_iterations=1, rank=1
        )
