import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from tangent.solve.flow import descent_filter, flow_filter, stability_edge, training_path
from tangent.solve.spectrum import spectrum
from tests.tangent.kernels import full, problem, trace

close = torch.testing.assert_close


@pytest.mark.parametrize("kernel_of", [trace, full])
def test_gradient_flow_equals_an_ode_integration(kernel_of, generator):
    phi, psi, y = problem(generator)
    kernel, cross = kernel_of(phi, phi), kernel_of(psi, phi)
    rows = len(kernel) if kernel.ndim == 2 else y.numel()
    both = torch.cat([kernel, cross]).reshape(-1, rows).numpy()
    f0 = torch.randn(len(phi) + len(psi), 2, generator=generator, dtype=torch.float64)
    columns = 2 if kernel.ndim == 2 else 1
    target = y.reshape(-1, columns).numpy()

    def velocity(_, f):
        residual = f.reshape(-1, columns)[: len(target)] - target
        return (-both @ residual / len(phi)).reshape(-1)

    times = [0.0, 0.05, 1.0, 4.0]
    integrated = solve_ivp(
        velocity, (0, 4), f0.numpy().reshape(-1), "LSODA", times, rtol=1e-11, atol=1e-11
    )
    expected = torch.from_numpy(integrated.y.T.copy()).reshape(len(times), -1, 2)
    path = training_path(
        spectrum(kernel), y, times, cross_kernel=cross, initial=f0[:12], initial_test=f0[12:]
    )
    close(path.train_predictions, expected[:, :12], rtol=1e-7, atol=1e-7)
    close(path.test_predictions, expected[:, 12:], rtol=1e-7, atol=1e-7)


@given(momentum=st.sampled_from([0.0, 0.5, 0.9]), steps=st.integers(0, 60))
def test_descent_equals_torch_sgd_on_the_linear_model(momentum, steps):
    generator = torch.Generator().manual_seed(steps)
    phi, psi, y = problem(generator)
    s = spectrum(full(phi, phi))
    scale = 2 / y.numel()  # MSELoss
    lr = 0.5 * stability_edge(s.eigenvalues, scale=scale, momentum=momentum)
    delta = torch.zeros(phi.shape[2], dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([delta], lr=lr, momentum=momentum)
    for _ in range(steps):
        sgd.zero_grad()
        torch.nn.functional.mse_loss(phi @ delta, y).backward()
        sgd.step()
    path = training_path(
        s, y, [steps], cross_kernel=full(psi, phi), lr=lr, momentum=momentum, scale=scale
    )
    close(path.test_predictions[0], psi @ delta.detach())
    close(path.train_loss[0], torch.nn.functional.mse_loss(phi @ delta, y).detach())


def test_small_steps_follow_the_flow(generator):
    phi, _, y = problem(generator)
    s = spectrum(trace(phi, phi))
    flow = training_path(s, y, [0.5]).train_predictions
    error = [
        float((training_path(s, y, [0.5 / lr], lr=lr).train_predictions - flow).abs().max())
        for lr in (1e-3, 1e-4)
    ]
    assert error[1] < 0.11 * error[0] < 1e-2


def test_a_million_steps_cost_no_digits_in_slow_directions():
    eigenvalues = torch.tensor([1.0, 1e-3, 1e-12, 0.0], dtype=torch.float64)
    steps, lr = 1_000_000, 0.1
    expected = torch.tensor(
        [1.0, 1e3 * -math.expm1(steps * math.log1p(-lr * 1e-3)), steps * lr, steps * lr],
        dtype=torch.float64,
    )
    close(descent_filter(eigenvalues, steps, lr), expected, rtol=1e-7, atol=0)


def test_infinite_time_is_the_interpolant_and_time_zero_the_start(generator):
    phi, _, y = problem(generator)
    path = training_path(spectrum(trace(phi, phi)), y, [0.0, math.inf])
    close(path.train_predictions, torch.stack([torch.zeros_like(y), y]))


def test_flow_filter_at_eigenvalue_zero_is_time():
    assert flow_filter(torch.zeros(1, dtype=torch.float64), 3.0).item() == 3.0


def test_training_loss_falls_along_the_flow(generator):
    phi, _, y = problem(generator)
    loss = training_path(spectrum(full(phi, phi)), y, torch.logspace(-3, 3, 20)).train_loss
    assert (loss.diff() < 0).all()


def test_momentum_reaches_in_fewer_steps_what_plain_descent_does_not(generator):
    phi, _, y = problem(generator)
    s = spectrum(trace(phi, phi))
    lr = 0.5 * stability_edge(s.eigenvalues, scale=1 / 12)
    plain = training_path(s, y, [200], lr=lr).train_loss
    heavy = training_path(s, y, [200], lr=lr, momentum=0.9).train_loss
    assert heavy < plain / 2


def test_diverging_learning_rate_is_refused_with_the_limit(generator):
    phi, _, y = problem(generator)
    s = spectrum(trace(phi, phi))
    limit = stability_edge(s.eigenvalues, scale=1 / 12)
    with pytest.raises(ValueError, match=f"{limit:.4g}, where gradient descent diverges"):
        training_path(s, y, [10], lr=1.01 * limit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": [-1.0]}, r"times must be at least 0; got \[-1.0\]"),
        ({"times": [1.5], "lr": 1e-6}, "steps must be a whole number"),
        ({"times": [1.0], "momentum": 0.9}, "momentum needs lr"),
        ({"times": [1.0], "momentum": 1.0, "lr": 1e-6}, r"momentum must be in \[0, 1\)"),
    ],
)
def test_bad_arguments_are_named(options, message, generator):
    phi, _, y = problem(generator)
    with pytest.raises(ValueError, match=message):
        training_path(spectrum(trace(phi, phi)), y, **options)
