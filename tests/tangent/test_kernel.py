from __future__ import annotations

import pytest
import torch
from torch import nn

from tangent.kernel import tangent_kernel
from tests.tangent.naive import naive_features, naive_kernel
from tests.tangent.test_features import small_cnn


@pytest.fixture
def case(generator):
    model = small_cnn(generator)
    x1 = torch.randn(4, 2, 4, 4, generator=generator, dtype=torch.float64)
    x2 = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    return model, x1, x2


def test_the_full_kernel_is_that_of_one_backward_pass_an_output(case):
    model, x1, x2 = case
    torch.testing.assert_close(tangent_kernel(model, x1), naive_kernel(model, x1))
    torch.testing.assert_close(tangent_kernel(model, x1, x2), naive_kernel(model, x1, x2))


def test_diagonal_trace_pseudo_and_index_are_parts_of_the_full_kernel(case):
    model, x1, x2 = case
    full = tangent_kernel(model, x1, x2)
    diagonal = torch.einsum("iaja->ija", full)
    torch.testing.assert_close(tangent_kernel(model, x1, x2, outputs="diagonal"), diagonal)
    torch.testing.assert_close(tangent_kernel(model, x1, x2, outputs="trace"), diagonal.sum(2))
    pseudo = full.sum((1, 3)) / full.shape[1]
    torch.testing.assert_close(tangent_kernel(model, x1, x2, outputs="pseudo"), pseudo)
    torch.testing.assert_close(tangent_kernel(model, x1, x2, outputs=1), full[:, 1, :, 1])
    torch.testing.assert_close(tangent_kernel(model, x1, x2, outputs=-1), full[:, -1, :, -1])


def test_the_kernel_is_symmetric_and_positive_semidefinite(case):
    model, x1, _ = case
    matrix = tangent_kernel(model, x1).flatten(2).flatten(0, 1)
    assert torch.equal(matrix, matrix.T)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > -1e-12 * eigenvalues.max()


def test_the_shares_of_the_parameters_are_their_own_kernels(case):
    model, x1, x2 = case
    shares = tangent_kernel(model, x1, x2, per_layer=True)
    phi1, phi2 = naive_features(model, x1), naive_features(model, x2)
    assert list(shares) == list(phi1)
    for name, share in shares.items():
        torch.testing.assert_close(share, torch.einsum("iap,jbp->iajb", phi1[name], phi2[name]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"outputs": "mean"}, "outputs must be one of"),
        ({"outputs": True}, "outputs must be one of"),
        ({"outputs": 3}, "outputs must be below"),
    ],
)
def test_a_wrong_option_is_refused_by_name(case, options, words):
    model, x1, _ = case
    with pytest.raises(ValueError, match=words):
        tangent_kernel(model, x1, **options)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="model must have parameters"):
        tangent_kernel(nn.ReLU(), torch.ones(1, 2))
