import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tangent.solve.conjugate import UnconvergedWarning, conjugate_gradients
from tangent.solve.nystrom import nystrom_preconditioner
from tangent.solve.ridge import kernel_ridge
from tests.tangent.kernels import full, problem, trace

close = torch.testing.assert_close


def stiff(generator: torch.Generator, m: int = 120) -> torch.Tensor:
    """A kernel whose eigenvalues fall like 1 / i^2 from 1000."""
    q = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64))[0]
    return q * (1000.0 / torch.arange(1, m + 1, dtype=torch.float64) ** 2) @ q.T


@pytest.mark.parametrize("method", ["columns", "block"])
@pytest.mark.parametrize("rank", [None, 1, 8])
@given(seed=st.integers(0, 2**32 - 1))
def test_conjugate_gradients_match_cholesky(method, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    phi, _, y = problem(generator)
    kernel = trace(phi, phi)
    preconditioner = rank and nystrom_preconditioner(
        kernel.matmul, len(kernel), rank=rank, ridge=0.1, generator=generator
    )
    solved = conjugate_gradients(
        kernel.matmul,
        y,
        ridge=0.1,
        preconditioner=preconditioner,
        tolerance=1e-12,
        method=method,
        max_iterations=200,
    )
    close(solved.coefficients, kernel_ridge(kernel, y, 0.1).coefficients, rtol=1e-6, atol=1e-8)
    assert solved.converged
    assert solved.log[-1].residual == solved.residual <= 1e-12


def test_full_kernel_is_solved_flat(generator):
    phi, _, y = problem(generator)
    kernel = full(phi, phi)
    solved = conjugate_gradients(
        kernel.reshape(24, 24).matmul, y.flatten(), ridge=0.1, tolerance=1e-12
    )
    close(solved.coefficients.reshape(12, 2), kernel_ridge(kernel, y, 0.1).coefficients)


def test_nystrom_preconditioner_of_full_rank_inverts_the_system(generator):
    kernel = stiff(generator, 40)
    p = nystrom_preconditioner(kernel.matmul, 40, rank=40, ridge=0.5, generator=generator)
    system = kernel + 0.5 * torch.eye(40, dtype=torch.float64)
    v = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    last = float(p.eigenvalues[-1]) + 0.5
    close(p.power(system @ v, -1.0), last * v, rtol=1e-6, atol=1e-6)
    close(p.power(p.power(v, 0.5), 0.5), p.power(v, 1.0))
    close(p.power(p.power(v, 0.5), -0.5), v)


def test_nystrom_finds_the_leading_eigenvalues(generator):
    kernel = stiff(generator)
    p = nystrom_preconditioner(kernel.matmul, 120, rank=30, ridge=0.1, generator=generator)
    exact = torch.linalg.eigvalsh(kernel).flip(0)
    close(p.eigenvalues[:3], exact[:3], rtol=0.05, atol=0)
    assert (p.eigenvalues <= exact[:30] * (1 + 1e-9)).all()  # Nystrom never overestimates


def test_preconditioner_saves_iterations(generator):
    kernel = stiff(generator)
    y = torch.randn(120, 3, generator=generator, dtype=torch.float64)
    p = nystrom_preconditioner(kernel.matmul, 120, rank=40, ridge=0.05, generator=generator)
    plain = conjugate_gradients(kernel.matmul, y, ridge=0.05, tolerance=1e-6)
    fast = conjugate_gradients(kernel.matmul, y, ridge=0.05, tolerance=1e-6, preconditioner=p)
    assert fast.iterations < plain.iterations / 3


def test_block_needs_fewer_iterations_than_columns(generator):
    kernel = stiff(generator)
    y = torch.randn(120, 10, generator=generator, dtype=torch.float64)
    plain = conjugate_gradients(kernel.matmul, y, ridge=0.05, tolerance=1e-6)
    block = conjugate_gradients(kernel.matmul, y, ridge=0.05, tolerance=1e-6, method="block")
    assert block.iterations < plain.iterations / 2


@pytest.mark.parametrize("method", ["columns", "block"])
def test_dependent_and_zero_columns_do_not_break_it(method, generator):
    kernel = stiff(generator)
    y = torch.randn(120, 1, generator=generator, dtype=torch.float64)
    y = torch.cat([y, -y, torch.zeros_like(y)], dim=1)
    solved = conjugate_gradients(kernel.matmul, y, ridge=1.0, tolerance=1e-10, method=method)
    close(solved.coefficients, kernel_ridge(kernel, y, 1.0).coefficients, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", ["columns", "block"])
def test_warm_start_at_the_solution_takes_no_iteration(method, generator):
    kernel = stiff(generator)
    y = torch.randn(120, 2, generator=generator, dtype=torch.float64)
    first = conjugate_gradients(kernel.matmul, y, ridge=1.0, tolerance=1e-8, method=method)
    again = conjugate_gradients(
        kernel.matmul, y, ridge=1.0, tolerance=1e-7, initial=first.coefficients, method=method
    )
    near = conjugate_gradients(
        kernel.matmul, y, ridge=0.9, tolerance=1e-7, initial=first.coefficients, method=method
    )
    cold = conjugate_gradients(kernel.matmul, y, ridge=0.9, tolerance=1e-7, method=method)
    assert again.iterations == 0 < first.iterations
    assert near.iterations < cold.iterations


def test_log_is_called_back_and_counts_products(generator):
    lines = []
    kernel = stiff(generator)
    y = torch.randn(120, 4, generator=generator, dtype=torch.float64)
    widths = []

    def product(v):
        widths.append(v.shape[1])
        return kernel @ v

    solved = conjugate_gradients(product, y, ridge=1.0, callback=lines.append)
    assert lines == solved.log
    assert [line.step for line in lines] == list(range(solved.iterations + 1))
    assert solved.products == sum(widths)
    assert len(widths) == solved.iterations + 1  # one to see the residual


def test_running_out_of_iterations_warns_with_the_residual(generator):
    kernel = stiff(generator)
    y = torch.randn(120, generator=generator, dtype=torch.float64)
    with pytest.warns(UnconvergedWarning, match="max_iterations=3.*raise max_iterations or ridge"):
        solved = conjugate_gradients(kernel.matmul, y, ridge=0.01, max_iterations=3)
    assert not solved.converged
    residual = y - kernel @ solved.coefficients - 0.01 * solved.coefficients
    assert solved.residual == pytest.approx(float(residual.norm() / y.norm()))


@pytest.mark.parametrize("method", ["columns", "block"])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_rounding_is_said_and_the_residual_is_that_of_the_coefficients(
    method, preconditioned, generator
):
    kernel = stiff(generator)
    y = torch.randn(120, 2, generator=generator)
    single = kernel.float()
    p = preconditioned and nystrom_preconditioner(
        single.matmul, 120, rank=20, ridge=0.01, generator=generator, dtype=torch.float32
    )
    with pytest.warns(UnconvergedWarning, match="stopped by rounding.*take a float64 network"):
        solved = conjugate_gradients(
            single.matmul, y, ridge=0.01, method=method, preconditioner=p or None, tolerance=1e-9
        )
    assert solved.coefficients.dtype == torch.float32
    residual = y.double() - (kernel @ solved.coefficients.double()) - 0.01 * solved.coefficients
    true = float((residual.norm(dim=0) / y.norm(dim=0)).max())
    assert solved.residual == pytest.approx(true, rel=0.5)
    assert not solved.converged


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ridge": -1.0}, ValueError, "ridge must be at least 0"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be positive"),
        ({"method": "steepest"}, ValueError, "method must be 'columns' or 'block'"),
        ({"y": torch.tensor([float("nan")])}, ValueError, "y must be finite"),
        ({"y": torch.tensor([1])}, TypeError, "floating dtype"),
        ({"product": lambda v: v * float("nan")}, ValueError, "met NaN at iteration 1"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    arguments = {"product": lambda v: v, "y": torch.ones(1), "ridge": 0.5} | options
    with pytest.raises(error, match=message):
        conjugate_gradients(**arguments)


def test_preconditioner_of_an_indefinite_operator_is_refused(generator):
    with pytest.raises(ValueError, match="product must be positive semidefinite"):
        nystrom_preconditioner(lambda v: -v, 20, rank=5, ridge=0.1, generator=generator)
    with pytest.raises(ValueError, match="rank must be between 1 and the 20 rows"):
        nystrom_preconditioner(lambda v: v, 20, rank=21, ridge=0.1)


@pytest.mark.parametrize("rank", [None, 30])
def test_every_column_is_solved_with_its_own_ridge_and_left_out_when_it_is_done(generator, rank):
    kernel = stiff(generator)
    y = torch.randn(120, 4, generator=generator, dtype=torch.float64)
    y[:, 3] = 0
    ridges = torch.tensor([0.01, 0.1, 100.0, 1.0], dtype=torch.float64)
    widths = []

    def product(v):
        widths.append(v.shape[1])
        return kernel @ v

    preconditioner = rank and nystrom_preconditioner(
        kernel.matmul, 120, rank=rank, ridge=ridges, generator=generator
    )
    solved = conjugate_gradients(
        product, y, ridge=ridges, preconditioner=preconditioner, tolerance=1e-10
    )
    for column, ridge in enumerate(ridges):
        expected = kernel_ridge(kernel, y[:, column], float(ridge)).coefficients
        close(solved.coefficients[:, column], expected, rtol=1e-6, atol=1e-8)
    assert solved.products == sum(widths)
    assert widths[0] == widths[-1] == 4  # the end is checked with all of them
    assert min(widths) < 4
    assert not solved.coefficients[:, 3].any()


def test_ridges_that_do_not_fit_the_columns_are_named(generator):
    kernel, y = stiff(generator), torch.ones(120, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="ridge must be a number, or hold one for each column"):
        conjugate_gradients(kernel.matmul, y, ridge=torch.ones(3))
    with pytest.raises(ValueError, match="method='block'"):
        conjugate_gradients(kernel.matmul, y, ridge=torch.ones(2), method="block")
    with pytest.raises(ValueError, match="ridge must be at least 0"):
        conjugate_gradients(kernel.matmul, y, ridge=torch.tensor([1.0, -1.0]))
