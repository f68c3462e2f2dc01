import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge

from tangent.solve.centring import KernelCentring
from tangent.solve.ridge import IllConditionedWarning, kernel_ridge
from tangent.solve.spectrum import spectrum
from tangent.solve.system import check_memory
from tests.tangent.kernels import full, problem, trace

close = torch.testing.assert_close


@given(ridge=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32 - 1))
def test_ridge_matches_scikit_learns_kernel_ridge(ridge, seed):
    phi, psi, y = problem(torch.Generator().manual_seed(seed))
    kernel, cross = trace(phi, phi), trace(psi, phi)
    theirs = KernelRidge(alpha=ridge, kernel="precomputed").fit(kernel.numpy(), y.numpy())
    ours = kernel_ridge(kernel, y, ridge)
    close(ours.predict(cross), torch.from_numpy(theirs.predict(cross.numpy())))


def test_full_kernel_ridge_is_ridge_regression_on_the_features(generator):
    phi, psi, y = problem(generator)
    flat = phi.flatten(0, 1)
    gram = flat.T @ flat + 0.3 * torch.eye(flat.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, flat.T @ y.flatten())
    ours = kernel_ridge(full(phi, phi), y, 0.3)
    close(ours.predict(full(psi, phi)), psi @ weights)
    close(ours.train_predictions, phi @ weights)


@pytest.mark.parametrize("kernel_of", [trace, full])
def test_leave_one_out_equals_n_refits(kernel_of, generator):
    phi, _, y = problem(generator)
    expected = []
    for i in range(len(phi)):
        kept = [j for j in range(len(phi)) if j != i]
        rest = phi[kept]
        fit = kernel_ridge(kernel_of(rest, rest), y[kept], 0.7)
        expected.append(fit.predict(kernel_of(phi[i : i + 1], rest))[0])
    kernel = kernel_of(phi, phi)
    close(kernel_ridge(kernel, y, 0.7).leave_one_out, torch.stack(expected))
    close(spectrum(kernel).ridge(y, 0.7).leave_one_out[0], torch.stack(expected))


@pytest.mark.parametrize("kernel_of", [trace, full])
def test_spectrum_gives_every_ridge_that_cholesky_gives(kernel_of, generator):
    phi, _, y = problem(generator)
    kernel = kernel_of(phi, phi)
    path = spectrum(kernel).ridge(y, [1e-2, 1.0, 100.0])
    for i, ridge in enumerate(path.ridges.tolist()):
        one = kernel_ridge(kernel, y, ridge)
        close(path.coefficients[i], one.coefficients)
        close(path.train_predictions[i], one.train_predictions)
        close(path.leave_one_out[i], one.leave_one_out)
        close(path.loo_error[i], ((one.leave_one_out - y) ** 2).mean())


def test_gcv_is_its_textbook_formula(generator):
    phi, _, y = problem(generator)
    kernel = trace(phi, phi)
    eye = torch.eye(len(kernel), dtype=torch.float64)
    smoother = kernel @ torch.linalg.inv(kernel + 0.5 * eye)
    residual = y - smoother @ y
    path = spectrum(kernel).ridge(y, 0.5)
    close(path.gcv_error[0], (residual**2).mean() / (torch.trace(eye - smoother) / len(y)) ** 2)
    close(path.effective_dimension[0], torch.trace(smoother))


def test_ridge_zero_interpolates_and_leaves_one_out(generator):
    phi, _, y = problem(generator)
    kernel = trace(phi, phi)
    path = spectrum(kernel).ridge(y, 0.0)
    close(path.train_predictions[0], y)
    close(path.leave_one_out[0], kernel_ridge(kernel, y, 0.0).leave_one_out)


def test_ridge_zero_of_a_singular_kernel_is_the_solution_of_least_norm(generator):
    phi, _, y = problem(generator)
    phi, y = phi.repeat(2, 1, 1), y.repeat(2, 1)
    kernel = trace(phi, phi)
    close(spectrum(kernel).ridge(y, 0.0).coefficients[0], torch.linalg.pinv(kernel) @ y)


@pytest.mark.parametrize("kernel_of", [trace, full])
def test_singular_kernel_at_ridge_zero_names_the_duplicates_and_the_way_out(kernel_of, generator):
    phi, _, y = problem(generator)
    phi[7] = phi[2]
    with pytest.raises(ValueError, match=r"inputs 2 and 7 have the same.*ridge > 0.*least norm"):
        kernel_ridge(kernel_of(phi, phi), y, 0.0)


def test_duplicate_rows_with_a_ridge_share_their_coefficient(generator):
    phi, _, y = problem(generator)
    phi[7], y[7] = phi[2], y[2]
    fit = kernel_ridge(trace(phi, phi), y, 0.1)
    close(fit.coefficients[7], fit.coefficients[2])


def test_condition_number_is_that_of_the_regularized_kernel(generator):
    phi, _, y = problem(generator)
    kernel = trace(phi, phi)
    eye = torch.eye(len(kernel), dtype=torch.float64)
    expected = float(torch.linalg.cond(kernel + 0.1 * eye))
    assert kernel_ridge(kernel, y, 0.1).condition_number == pytest.approx(expected, rel=0.1)
    assert spectrum(kernel).condition_number == pytest.approx(
        float(torch.linalg.cond(kernel)), rel=1e-6
    )


def test_jitter_is_added_only_when_needed_and_said(generator):
    phi, _, y = problem(generator)
    kernel = trace(phi, phi)
    assert kernel_ridge(kernel, y, 1e-3).jitter == 0
    rank_one = torch.ones(12, 12)
    rank_one.diagonal()[0] -= 1e-6  # what float32 rounding does to a kernel of rank one
    with pytest.warns(IllConditionedWarning) as caught:
        fit = kernel_ridge(rank_one, y, 1e-9)
    assert fit.jitter > 0
    assert f"jitter={fit.jitter:.3g}" in str(caught[0].message)
    close(fit.train_predictions.mean(0), y.mean(0), rtol=1e-3, atol=1e-3)


def test_rounding_that_rules_is_warned_of_with_the_cure():
    x = torch.linspace(0, 1, 30, dtype=torch.float64)
    kernel = torch.exp(-((x[:, None] - x) ** 2))  # condition number above 1e16
    with pytest.warns(IllConditionedWarning, match="larger ridge, stop earlier, centre"):
        kernel_ridge(kernel.float(), x, 2e-6)


def test_constant_targets_are_fitted_without_a_warning(generator):
    phi, _, y = problem(generator)
    fit = spectrum(trace(phi, phi)).ridge(torch.ones_like(y), [1e-4, 1e2])
    assert torch.isfinite(fit.loo_error).all()
    assert fit.best == 0


@pytest.mark.parametrize(
    ("kernel", "y", "message"),
    [
        (torch.full((3, 3), float("nan")), torch.ones(3), "kernel must be finite; 9 of its 9"),
        (torch.eye(3), torch.tensor([1.0, float("inf"), 0.0]), "y must be finite; 1 of its 3"),
        (torch.ones(3, 4), torch.ones(3), r"kernel must have shape \(n, n\).*got \(3, 4\)"),
        (torch.eye(3), torch.ones(4), r"y must have shape \(n,\) or \(n, k\).*n = 3.*\(4,\)"),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.ones(2), "kernel must be symmetric"),
        (-torch.eye(3), torch.ones(3), "kernel must be positive semidefinite"),
        (torch.zeros(0, 0), torch.ones(0), "at least one input"),
    ],
)
def test_bad_input_is_named(kernel, y, message):
    with pytest.raises(ValueError, match=message):
        kernel_ridge(kernel, y, 0.1)


@pytest.mark.parametrize("ridge", [-1.0, float("nan"), float("inf")])
def test_bad_ridge_is_named(ridge):
    with pytest.raises(ValueError, match="ridge must be at least 0 and finite"):
        kernel_ridge(torch.eye(2), torch.ones(2), ridge)
    with pytest.raises(ValueError, match="ridge must be at least 0 and finite"):
        spectrum(torch.eye(2)).ridge(torch.ones(2), [0.1, ridge])


def test_cross_kernel_of_another_shape_is_named(generator):
    phi, psi, y = problem(generator)
    fit = kernel_ridge(full(phi, phi), y, 0.1)
    with pytest.raises(ValueError, match=r"cross_kernel must have shape \(n_new, 2, 12, 2\)"):
        fit.predict(full(phi, psi))


def test_kernel_too_large_for_memory_says_what_would_fit():
    with pytest.raises(MemoryError, match=r"rows would fit.*take the other solver"):
        check_memory(10**8, 2, "factorization", "take the other solver")


def test_float32_kernel_is_solved_in_float64(generator):
    phi, _, y = problem(generator)
    kernel = trace(phi, phi)
    fit = kernel_ridge(kernel.float(), y.float(), 0.5)
    assert fit.coefficients.dtype == torch.float64
    close(fit.coefficients, kernel_ridge(kernel, y, 0.5).coefficients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel_of", [trace, full])
def test_leave_one_out_of_a_centred_kernel_refits_the_constant(kernel_of, generator):
    phi, _, y = problem(generator)
    n = len(phi)

    def fitted(rows, new):
        """Ridge regression with an unpenalized constant, on the features."""
        mean, middle = phi[rows].mean(0), y[rows].mean(0)
        a = phi[rows] - mean
        fit = kernel_ridge(kernel_of(a, a), y[rows] - middle, 0.7)
        return fit.predict(kernel_of(phi[new] - mean, a)) + middle

    expected = torch.cat([fitted([j for j in range(n) if j != i], [i]) for i in range(n)])
    kernel = KernelCentring.fit(kernel_of(phi, phi)).train(kernel_of(phi, phi))
    constant = torch.full((n,), n**-0.5, dtype=torch.float64)
    path = spectrum(kernel).ridge(y, 0.7, eliminated=constant)
    close(path.leave_one_out[0], expected)
    close(path.train_predictions[0], fitted(list(range(n)), list(range(n))))
