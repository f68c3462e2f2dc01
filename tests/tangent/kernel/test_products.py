import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from tangent import tangent_features
from tangent.kernel.matrix import tangent_kernel
from tangent.kernel.products import KernelProduct
from tangent.solve.conjugate import conjugate_gradients
from tangent.solve.nystrom import nystrom_preconditioner
from tests.processes import in_a_group
from tests.tangent.kernels import features, full, perceptron, trace

close = torch.testing.assert_close


@pytest.fixture
def model(generator):
    return perceptron(generator)


@pytest.fixture
def x(generator):
    return torch.randn(7, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("outputs", ["full", "pseudo", "trace", 1])
def test_product_is_that_with_the_kernel(outputs, model, x, generator):
    phi = features(model, x)
    kernel = {
        "full": full(phi, phi).reshape(14, 14),
        "pseudo": trace(phi.sum(1, keepdim=True), phi.sum(1, keepdim=True)) / 2,
        "trace": trace(phi, phi),
        1: phi[:, 1] @ phi[:, 1].T,
    }[outputs]
    product = KernelProduct(model, x, outputs=outputs, batch_size=3)
    v = torch.randn(product.rows, 2, generator=generator, dtype=torch.float64)
    close(product(v), kernel @ v)
    close(product(v[:, 0]), kernel @ v[:, 0])
    assert product.products == 3


@pytest.mark.parametrize("outputs", ["full", "pseudo"])
def test_displacement_and_its_outputs_are_the_two_halves(outputs, model, x, generator):
    product = KernelProduct(model, x, outputs=outputs, batch_size=4)
    v = torch.randn(product.rows, generator=generator, dtype=torch.float64)
    close(product.linear_outputs(product.displacement(v), x).flatten(), product(v))


def test_float32_network_keeps_float64_vectors(model, x):
    product = KernelProduct(model.float(), x, outputs="pseudo")
    assert product(torch.ones(7, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: KernelProduct(m, x, outputs="sum"), "outputs must be 'full', 'pseudo'"),
        (lambda m, x: KernelProduct(m, x, batch_size=0), "batch_size must be at least 1"),
        (lambda m, x: KernelProduct(m, x)(torch.ones(7)), "v must have the 14 rows"),
        (lambda m, x: KernelProduct(m, x * float("nan")), "x must be finite"),
        (
            lambda m, x: KernelProduct(m, x, outputs="trace").displacement(torch.ones(7)),
            "no one displacement",
        ),
    ],
)
def test_bad_arguments_are_named(call, message, model, x):
    with pytest.raises(ValueError, match=message):
        call(model, x)


def _solve(x, group=None):
    generator = torch.Generator().manual_seed(0)
    model = perceptron(generator)
    product = KernelProduct(model, x, group=group)
    y = torch.randn(product.rows, 1, generator=generator, dtype=torch.float64)
    preconditioner = nystrom_preconditioner(
        product, product.rows, rank=5, ridge=0.1, generator=generator
    )
    return conjugate_gradients(
        product, y, ridge=0.1, preconditioner=preconditioner, tolerance=1e-10
    ).coefficients


def _rank(rank: int, folder: Path, x: torch.Tensor) -> None:
    share = x[:3] if rank == 0 else x[3:]
    torch.save(_solve(share, "world"), folder / f"{rank}.pt")


def test_two_processes_solve_what_one_solves(x, tmp_path):
    in_a_group(_rank, tmp_path, tmp_path, x)
    expected = _solve(x)
    for rank in range(2):
        close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected)


@pytest.mark.parametrize("outputs", ["full", "trace", "pseudo", 0])
def test_products_of_float16_weights_do_not_end_at_65504(outputs):
    model = torch.nn.Linear(4, 2).half()
    x = torch.full((3, 4), 300.0).half()
    product = KernelProduct(model, x, outputs=outputs)
    v = torch.linspace(-1, 2, product.rows)
    exact = tangent_kernel(copy.deepcopy(model).double(), x.double(), outputs=outputs)
    expected = exact.reshape(product.rows, -1) @ v.double()
    assert float(expected.abs().max()) > 65504
    close(product(v).double(), expected, rtol=1e-5, atol=1.0)
    with pytest.raises(ValueError, match=r"product with v must be finite; in float16, which ends"):
        product(v.half())
    assert next(model.parameters()).dtype == torch.float16


def test_a_product_that_leaves_its_dtype_is_refused():
    product = KernelProduct(torch.nn.Linear(4, 2), torch.full((3, 4), 1e19))
    with pytest.raises(ValueError, match="take v and the weights in float64"):
        product(torch.ones(6))
    with pytest.raises(ValueError, match="check that v is finite"):
        KernelProduct(torch.nn.Linear(4, 2), torch.ones(3, 4))(torch.full((6,), torch.nan))


class OfTwoPrecisions(nn.Module):
    """Attention in float32, whatever the network's own dtype is."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 8), nn.Linear(4, 2)

    def forward(self, x):
        q, k = self.enter(x).float().chunk(2, -1)
        out = (q @ k.transpose(-1, -2)) @ k
        out = out[..., :-1] / (1 + out[..., -1:].square())
        return self.leave(torch.cat([out, out[..., :1]], -1).to(x.dtype)).mean(1)


def test_a_cast_in_between_keeps_kernel_features_and_products():
    torch.manual_seed(0)
    model, x = OfTwoPrecisions().double(), torch.randn(3, 5, 3, dtype=torch.float64)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(o, list(model.parameters()))])
        for one in x
        for o in (model(one[None])[0, 0], model(one[None])[0, 1])
    ]
    phi = torch.stack(rows)
    near = {"rtol": 1e-5, "atol": 1e-6}
    close(tangent_features(model, x).flatten(0, 1), phi, **near)
    close(tangent_kernel(model, x).reshape(6, 6), phi @ phi.T, **near)
    v = torch.cos(torch.arange(6).double())
    close(KernelProduct(model, x)(v), phi @ (phi.T @ v), **near)
