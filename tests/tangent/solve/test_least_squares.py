import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tangent.solve import least_squares_steps

close = torch.testing.assert_close


def problem(generator: torch.Generator, m: int = 14, p: int = 9):
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return draw(m, p), draw(m)


def steps(J, y, count, **options):
    return list(itertools.islice(least_squares_steps(J.matmul, J.T.matmul, y, **options), count))


def best_in_krylov_space(J, y, size):
    """The least squares fit among weights in the span of (J^T J)^i J^T y, i < size."""
    vectors, v = [], J.T @ y
    for _ in range(size):
        vectors.append(v / v.norm())
        v = J.T @ (J @ vectors[-1])
    basis = torch.linalg.qr(torch.stack(vectors, 1))[0]
    return basis @ torch.linalg.lstsq(J @ basis, y[:, None]).solution[:, 0]


@given(seed=st.integers(0, 2**32 - 1))
def test_every_step_is_the_best_fit_in_its_krylov_space(seed):
    J, y = problem(torch.Generator().manual_seed(seed))
    for size, step in enumerate(steps(J, y, 4), 1):
        assert step.step == size
        close(step.weights, best_in_krylov_space(J, y, size), rtol=1e-5, atol=1e-6)
        close(step.outputs, J @ step.weights)
        assert step.residual == pytest.approx(float((y - step.outputs).norm() / y.norm()))


@pytest.mark.parametrize("shape", [(14, 9), (9, 14)])
@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_the_end_is_the_ridge_solution_of_least_norm(shape, ridge, generator):
    J, y = problem(generator, *shape)
    last = steps(J, y, 40, ridge=ridge)[-1]
    if ridge:
        system = J.T @ J + ridge * torch.eye(shape[1], dtype=J.dtype)
        expected = torch.linalg.solve(system, J.T @ y)
    else:
        expected = torch.linalg.pinv(J) @ y
    close(last.weights, expected)


def test_residual_never_rises_where_the_kernel_is_stiff(generator):
    J, y = problem(generator, 60, 80)
    J *= 10.0 ** -torch.linspace(0, 3, 80, dtype=torch.float64)
    residuals = [step.residual for step in steps(J, y, 40)]
    assert residuals == sorted(residuals, reverse=True)


def test_watched_rows_are_predicted_and_change_nothing(generator):
    J, y = problem(generator)
    watched, _ = problem(generator, 5)
    both = torch.cat([J, watched])
    plain = steps(J, y, 5)[-1]
    found = list(itertools.islice(least_squares_steps(both.matmul, J.T.matmul, y), 5))[-1]
    close(found.weights, plain.weights)
    close(found.outputs, both @ plain.weights)


def test_goes_on_from_a_step_as_if_it_had_never_stopped(generator):
    J, y = problem(generator, 60, 80)
    whole = steps(J, y, 9)
    rest = steps(J, y, 4, start=whole[4])
    for expected, found in zip(whole[5:], rest, strict=True):
        for field in dataclasses.fields(found):
            a, b = getattr(expected, field.name), getattr(found, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_products_are_in_the_dtype_of_the_targets(generator):
    J, y = problem(generator)
    seen = set()

    def forward(w):
        seen.add(w.dtype)
        return J.float() @ w

    def adjoint(r):
        seen.add(r.dtype)
        return J.float().T @ r

    last = list(itertools.islice(least_squares_steps(forward, adjoint, y.float()), 3))[-1]
    assert seen == {torch.float32}
    assert last.weights.dtype == torch.float64
    close(last.weights, steps(J, y.float().double(), 3)[-1].weights, rtol=1e-4, atol=1e-5)


def test_nothing_to_fit_ends_at_once(generator):
    J, y = problem(generator)
    assert steps(J, torch.zeros_like(y), 3) == []
    outside = y - J @ torch.linalg.lstsq(J, y[:, None]).solution[:, 0]
    assert steps(J * 0, outside, 3) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_name(bad, generator):
    J, y = problem(generator)
    with pytest.raises(ValueError, match="y must be finite"):
        steps(J, torch.full_like(y, bad), 1)
    with pytest.raises(ValueError, match=r"forward\(w\) must be finite"):
        next(least_squares_steps(lambda w: J @ w * bad, J.T.matmul, y))
    with pytest.raises(ValueError, match="ridge"):
        steps(J, y, 1, ridge=-1.0)
