from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tangent.kernel.matrix import tangent_kernel
from tangent.kernel.operator import (
    TangentOperator,
    kernel_eigenvalues,
    kernel_trace,
    largest_eigenvalue,
)
from tests.tangent.networks import example

NAME = "stride, groups and dilation"


def matrix_of(model, x, outputs="full") -> torch.Tensor:
    kernel = tangent_kernel(model, x, outputs=outputs)
    return kernel.flatten(2).flatten(0, 1) if outputs == "full" else kernel


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1), batch_size=st.integers(1, 5))
@pytest.mark.parametrize("outputs", ["full", "pseudo", 1])
def test_the_operator_is_the_kernel(outputs, seed, batch_size):
    model, x = example(NAME, 4, seed)
    matrix = matrix_of(model, x, outputs)
    operator = TangentOperator(model, x, outputs=outputs, batch_size=batch_size)
    v = torch.randn(len(matrix), 2, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(operator.apply(v), matrix @ v)
    torch.testing.assert_close(operator.apply(v[:, 0]), matrix @ v[:, 0])
    assert np.allclose(operator @ v.numpy(), (matrix @ v).numpy())
    assert np.allclose(operator.T @ v[:, 0].numpy(), (matrix @ v[:, 0]).numpy())


@pytest.mark.parametrize("outputs", ["full", "pseudo", 1])
def test_the_centred_operator_has_centred_features(outputs, generator):
    model, x = example(NAME, 6, seed=0)
    matrix = matrix_of(model, x, outputs)
    k = len(matrix) // 6
    centre = torch.eye(6, dtype=torch.float64) - 1 / 6
    centre = torch.kron(centre, torch.eye(k, dtype=torch.float64))  # each output on its own
    expected = centre @ matrix @ centre
    v = torch.randn(6 * k, 2, generator=generator, dtype=torch.float64)
    operator = TangentOperator(model, x, outputs=outputs, batch_size=4, centred=True)
    torch.testing.assert_close(operator.apply(v), expected @ v)
    torch.testing.assert_close(operator.apply(v[:, 0]), expected @ v[:, 0])


def test_eigenvalues_by_lanczos_are_those_of_the_matrix(generator):
    model, x = example(NAME, 6, seed=0)
    exact = torch.linalg.eigvalsh(matrix_of(model, x)).flip(0)
    operator = TangentOperator(model, x)
    found = kernel_eigenvalues(operator, 3, generator=generator)
    torch.testing.assert_close(found, exact[:3], rtol=1e-5, atol=0)
    smallest = kernel_eigenvalues(operator, 1, largest=False, generator=generator)
    torch.testing.assert_close(smallest, exact[-1:], rtol=1e-3, atol=1e-5 * exact[0].item())
    assert largest_eigenvalue(operator, generator=generator) == pytest.approx(exact[0].item())
    one = TangentOperator(model, x[:1], outputs=0)
    alone = tangent_kernel(model, x[:1], outputs=0).item()
    assert largest_eigenvalue(one) == pytest.approx(alone)


def test_the_trace_is_estimated_without_the_matrix(generator):
    model, x = example(NAME, 12, seed=0)
    exact = matrix_of(model, x).trace().item()
    operator = TangentOperator(model, x)
    estimates = [kernel_trace(operator, 15, generator=generator) for _ in range(20)]
    # 36 rows, a subspace of 5: single estimates are within some percent, their mean nearer.
    assert np.mean(estimates) == pytest.approx(exact, rel=0.02)
    whole = kernel_trace(operator, 200, generator=generator)  # the subspace is everything
    assert whole == pytest.approx(exact, rel=1e-9)


def test_a_wrong_option_is_refused_by_name():
    model, x = example(NAME, 2, seed=0)
    with pytest.raises(ValueError, match="outputs must be"):
        TangentOperator(model, x, outputs="trace")


def test_counts_out_of_range_are_refused():
    model, x = example(NAME, 2, seed=0)
    operator = TangentOperator(model, x)
    with pytest.raises(ValueError, match="count must be between 1 and 5"):
        kernel_eigenvalues(operator, 6)
    with pytest.raises(ValueError, match="products must be at least 3"):
        kernel_trace(operator, 2)
