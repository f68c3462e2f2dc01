from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jacrev, vmap

from tangent.kernel.features import tangent_features
from tangent.kernel.matrix import tangent_kernel
from tangent.nets import resnet18, vgg11
from tests.tangent.kernel.test_features import small_cnn
from tests.tangent.naive import naive_features, naive_kernel
from tests.tangent.networks import example


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


@settings(max_examples=6)
@given(n=st.integers(1, 5), batch_size=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_any_block_size_gives_the_same(n, batch_size, seed):
    model, x = example("stride, groups and dilation", n + 2, seed)
    for outputs, other in (("full", None), ("diagonal", x[1:])):
        whole = tangent_kernel(model, x[:n], other, outputs=outputs)
        blocks = tangent_kernel(model, x[:n], other, outputs=outputs, batch_size=batch_size)
        torch.testing.assert_close(blocks, whole)


def test_blocks_of_shares_are_put_together(case):
    model, x1, x2 = case
    whole = tangent_kernel(model, x1, x2, per_layer=True)
    blocks = tangent_kernel(model, x1, x2, per_layer=True, batch_size=2)
    for name, share in whole.items():
        torch.testing.assert_close(blocks[name], share)


def test_a_small_memory_budget_means_smaller_blocks_and_the_same_kernel(case):
    model, x1, _ = case
    reports = []
    engine_needs = 4 * 2**25
    kernel = tangent_kernel(
        model,
        x1,
        memory_budget=engine_needs + 7_000,
        progress=lambda done, total: reports.append((done, total)),
    )
    torch.testing.assert_close(kernel, naive_kernel(model, x1))
    assert len(reports) > 1
    assert reports[-1][0] == reports[-1][1]
    with pytest.raises(ValueError, match="memory_budget must be at least"):
        tangent_kernel(model, x1, memory_budget=1000)


def test_float64_sums_of_float32_factors_are_near_the_kernel_in_float64(generator):
    model, x = example("normalization", 6, seed=5)
    exact = tangent_kernel(model, x)
    single = tangent_kernel(model.float(), x.float(), accumulate=torch.float64)
    assert single.dtype == torch.float64
    error = (single - exact).abs().max() / exact.abs().max()
    assert error < 1e-5


def test_factors_in_float64_of_a_float32_network(generator):
    model, x = example("stride, groups and dilation", 3, seed=5)
    model, x = model.float(), x.float()
    expected = naive_kernel(copy.deepcopy(model).double(), x.double())
    torch.testing.assert_close(tangent_kernel(model, x, dtype=torch.float64), expected)


def test_factors_in_bfloat16_are_near(generator):
    model, x = example("stride, groups and dilation", 3, seed=5)
    exact = tangent_kernel(model, x)
    rough = tangent_kernel(model.float(), x.float(), dtype=torch.bfloat16, accumulate=torch.float32)
    assert (rough - exact).abs().max() / exact.abs().max() < 0.02


@pytest.mark.parametrize("network", [vgg11, resnet18])
def test_float32_is_within_1e4_of_float64_on_the_papers_networks(network, generator):
    model = network(width=0.1, generator=generator)
    x = torch.randn(3, 3, 32, 32, generator=generator)
    exact = tangent_kernel(copy.deepcopy(model).double(), x.double())
    single = tangent_kernel(model, x)
    # A ReLU or pooling near a tie may fall the other way in float32, once in some ten million:
    # with this seed none does.
    assert (single - exact).abs().max() / exact.abs().max() < 1e-5


def test_the_recipe_of_torch_func_gives_the_same(case):
    model, x1, x2 = case
    params = {name: p.detach() for name, p in model.named_parameters()}

    def one(params, x):
        return functional_call(model, params, (x.unsqueeze(0),)).squeeze(0)

    j1 = vmap(jacrev(one), (None, 0))(params, x1)
    j2 = vmap(jacrev(one), (None, 0))(params, x2)
    recipe = sum(
        torch.einsum("iap,jbp->iajb", a.flatten(2), b.flatten(2))
        for a, b in zip(j1.values(), j2.values(), strict=True)
    )
    torch.testing.assert_close(tangent_kernel(model, x1, x2), recipe)


@pytest.mark.parametrize("k", [3, 6, 7])
def test_pseudo_kernels_are_exact_in_float64(k):
    model = torch.nn.Linear(4, k).double()
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    phi = tangent_features(model, x).sum(1) / k**0.5
    found = tangent_kernel(model, x, outputs="pseudo")
    torch.testing.assert_close(found, phi @ phi.T, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("outputs", ["full", "trace", "pseudo", 0])
def test_kernels_of_float16_weights_do_not_end_at_65504(outputs):
    model = torch.nn.Linear(4, 2).half()
    x = 300 * torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).half()
    found = tangent_kernel(model, x, outputs=outputs)
    expected = tangent_kernel(model.double(), x, outputs=outputs)
    assert float(expected.abs().max()) > 2e5
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1.0)


def test_a_kernel_beyond_its_dtype_is_refused():
    model = torch.nn.Linear(4, 2).half()
    x = torch.full((3, 4), 300.0).half()
    with pytest.raises(ValueError, match=r"in float16, which ends at 6.55e\+04, it has infinite"):
        tangent_kernel(model, x, outputs="trace", dtype=torch.float16)
    with pytest.raises(ValueError, match="the kernel must be finite; in float32"):
        tangent_kernel(model.float(), 1e19 * x.float())
    two = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.Linear(2, 1)).half()
    two[1].weight.data.fill_(3e4)
    with pytest.raises(ValueError, match=r"gradients of 0.weight exceed float16"):
        tangent_features(two, x)
