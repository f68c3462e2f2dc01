"""Batched students against one student, one loop, weights themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from tangent.theory.arccosine import relu_tangent_kernel
from tangent.theory.shallow import (
    Displacement,
    Students,
    descend,
    log_spaced_steps,
    stochastic_descent,
    student_outputs,
)
from tangent.theory.students import DifferenceStudents, DirectStudents, slices_of_one_form

F64 = torch.float64


def problem(generator, k=2, s=3, m=6, n=12, d=4, dtype=F64):
    """Doubled students, Gaussian data; test targets that the training targets tell nothing of."""
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=F64)  # noqa: E731
    b, a = draw(k, m // 2, d), draw(k, m // 2)
    hidden, output = torch.cat([b, b], 1), torch.cat([a, -a], 1)
    alpha = torch.logspace(-1, 2, s, dtype=F64).expand(k, s)
    x, x_test = draw(k, n, d), draw(k, 5, d)
    y, y_test = x[:, :, 0].sin(), draw(k, 5) / 3
    students = Students(hidden.to(dtype), output.to(dtype), alpha.to(dtype))
    return students, *(t.to(dtype) for t in (x, y, x_test, y_test))


def one_student(a, b, alpha, x, y, step, n_steps):
    """Gradient descent on F_alpha in the weights themselves, by autograd."""
    w = [b.clone().requires_grad_(), a.clone().requires_grad_()]
    losses = []
    for t in range(n_steps):
        f = alpha * torch.relu(x @ w[0].T) @ w[1]
        loss = ((f - y) ** 2).mean() / 2
        losses.append(float(loss.detach()))
        grads = torch.autograd.grad(loss / alpha**2, w)
        if t < n_steps - 1:
            w = [(p - step * g).detach().requires_grad_() for p, g in zip(w, grads, strict=True)]
    return [p.detach() for p in w], losses


def test_the_doubled_student_is_exactly_zero_at_the_start(generator):
    students, x, *_ = problem(generator)
    start = Displacement(torch.zeros(2, 3, 6, 4, dtype=F64), torch.zeros(2, 3, 6, dtype=F64))
    assert bool((student_outputs(students, start, x) == 0).all())


@given(seed=st.integers(0, 2**32 - 1), together=st.integers(1, 7))
def test_every_student_follows_its_own_loop(seed, together):
    students, x, y, x_test, y_test = problem(torch.Generator().manual_seed(seed))
    step = torch.tensor([[0.02, 0.05, 0.1]], dtype=F64).expand(2, 3)
    result = descend(
        students, x, y, step, 30, x_test=x_test, y_test=y_test, records=200, together=together
    )
    assert result.steps == tuple(range(30))
    for k in range(2):
        for s in range(3):
            alpha = students.alpha[k, s]
            (b, a), losses = one_student(
                students.output[k], students.hidden[k], alpha, x[k], y[k], step[k, s], 30
            )
            u = result.displacement
            torch.testing.assert_close(u.hidden[k, s] / alpha, b - students.hidden[k])
            torch.testing.assert_close(u.output[k, s] / alpha, a - students.output[k])
            torch.testing.assert_close(result.train_loss[k, s], torch.tensor(losses, dtype=F64))


def test_small_steps_follow_the_gradient_flow_of_an_ode_solver(generator):
    students, x, y, *_ = problem(generator, k=1, s=1, m=4, n=5, d=2)
    students = Students(students.hidden, students.output, torch.full((1, 1), 0.5, dtype=F64))
    b, a, alpha, m = students.hidden[0].numpy(), students.output[0].numpy(), 0.5, 4
    inputs, targets = x[0].numpy(), y[0].numpy()

    def slope(time, u):
        hidden, output = b + u[: 2 * m].reshape(m, 2) / alpha, a + u[2 * m :] / alpha
        z = inputs @ hidden.T
        r = (alpha * np.maximum(z, 0) @ output - targets) / len(targets)
        return -np.concatenate([(((z > 0) * r[:, None]).T @ inputs * output[:, None]).ravel(),
                                np.maximum(z, 0).T @ r])  # fmt: skip

    flow = solve_ivp(slope, (0, 3.0), np.zeros(3 * m), rtol=1e-10, atol=1e-12).y[:, -1]
    gaps = []
    for n_steps in (300, 3000):
        step = torch.full((1, 1), 3.0 / n_steps, dtype=F64)
        u = descend(students, x, y, step, n_steps + 1).displacement
        end = np.concatenate([u.hidden.numpy().ravel(), u.output.numpy().ravel()])
        gaps.append(np.linalg.norm(end - flow) / np.linalg.norm(flow))
    assert gaps[0] < 0.01
    assert gaps[1] < gaps[0] / 5  # first order in the step


def test_the_best_test_loss_is_the_smallest_of_the_path(generator):
    students, x, y, x_test, y_test = problem(generator)
    step = torch.full((2, 3), 0.05, dtype=F64)
    result = descend(students, x, y, step, 60, x_test=x_test, y_test=y_test, records=500)
    torch.testing.assert_close(result.best_test_loss, result.test_loss.amin(-1))
    assert bool((result.best_test_loss < result.test_loss[..., -1]).any())  # some overfit


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(generator, threads):
    students, x, y, x_test, y_test = problem(generator, s=5)
    step = torch.full((2, 5), 0.05, dtype=F64)
    expected = descend(students, x, y, step, 20, x_test=x_test, y_test=y_test)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = descend(students, x, y, step, 20, x_test=x_test, y_test=y_test)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found.displacement.hidden, expected.displacement.hidden)
    torch.testing.assert_close(found.test_loss, expected.test_loss)


def test_linearized_students_stand_beside_the_others(generator):
    students, x, y, x_test, y_test = problem(generator, s=3)
    alpha = torch.tensor([[0.5, math.inf, 20.0]], dtype=F64).expand(2, 3).contiguous()
    step = torch.full((2, 3), 0.05, dtype=F64)
    mixed = Students(students.hidden, students.output, alpha)
    found = descend(mixed, x, y, step, 40, x_test=x_test, y_test=y_test)
    for s in range(3):
        one = Students(students.hidden, students.output, alpha[:, s : s + 1])
        expected = descend(one, x, y, step[:, :1], 40, x_test=x_test, y_test=y_test)
        torch.testing.assert_close(found.test_loss[:, s], expected.test_loss[:, 0])


def test_infinite_alpha_is_the_exact_kernel_solution(generator):
    students, x, y, x_test, _ = problem(generator, s=1)
    linear = Students(students.hidden, students.output, torch.full((2, 1), math.inf, dtype=F64))
    n, steps, step = x.shape[1], 400, 0.05
    result = descend(linear, x, y, torch.full((2, 1), step, dtype=F64), steps + 1)
    f = student_outputs(linear, result.displacement, x_test)[:, 0]
    for k in range(2):
        weights = students.output[k], students.hidden[k]
        values, vectors = torch.linalg.eigh(relu_tangent_kernel(*weights, x[k], x[k]) / n)
        values = values.clamp(min=1e-14)
        done = (1 - (1 - step * values) ** steps) / values
        dual = vectors @ (done * (vectors.T @ y[k])) / n
        expected = relu_tangent_kernel(*weights, x_test[k], x[k]) @ dual
        torch.testing.assert_close(f[k], expected, rtol=1e-9, atol=1e-10)


def test_large_alpha_approaches_the_linearized_student_at_rate_one_over_alpha(generator):
    _, x, y, *_ = problem(generator, k=1, s=1)
    # not doubled: there the term of second order in function space cancels
    hidden, output = torch.randn(1, 6, 4, generator=generator, dtype=F64), torch.ones(1, 6)
    step = torch.full((1, 1), 0.05, dtype=F64)

    def outputs(alpha):
        scaled = Students(hidden, output.to(F64), torch.full((1, 1), alpha, dtype=F64))
        return student_outputs(scaled, descend(scaled, x, y, step, 50).displacement, x)

    gaps = [float((outputs(a) - outputs(math.inf)).norm()) for a in (1e3, 1e4, 1e5)]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2] > 0


@pytest.mark.parametrize("alpha", [0.2, 1.0, 1e4, 1e7])
def test_float32_stays_near_float64_at_every_alpha(generator, alpha):
    students, x, y, *_ = problem(generator, s=1)
    students = Students(students.hidden, students.output, torch.full((2, 1), alpha, dtype=F64))
    step = torch.full((2, 1), 0.05, dtype=F64)
    exact = descend(students, x, y, step, 200).train_loss[..., -1]
    single = Students(students.hidden.float(), students.output.float(), students.alpha.float())
    near = descend(single, x.float(), y.float(), step.float(), 200).train_loss[..., -1]
    # 200 steps of rounding at 6e-8; a subtraction of outputs would leave alpha * 1e-7
    torch.testing.assert_close(near, exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("centred", [True, False])
def test_weights_and_differences_give_the_same_students(generator, centred):
    students, x, y, *_ = problem(generator)
    students = Students(students.hidden, students.output, students.alpha, centred)
    u = Displacement(
        torch.randn(2, 3, 6, 4, generator=generator, dtype=F64),
        torch.randn(2, 3, 6, generator=generator, dtype=F64),
    )
    found = []
    for kind in (DirectStudents, DifferenceStudents):
        pair = kind(students, x.shape[1]).on_inputs(x)
        r = pair.residual(u, y).clone()
        g = pair.gradient(u, r)
        again = pair.gradient(u, 2 * r)  # a second call
        torch.testing.assert_close(again.hidden, 2 * g.hidden)
        torch.testing.assert_close(again.output, 2 * g.output)
        found.append((r, g.hidden, g.output))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_scales_of_one_form_advance_together():
    alpha = torch.tensor([[0.1, 0.2, 5.0, 0.1], [0.1, 0.2, 9.0, 2.0]])
    students = Students(torch.zeros(2, 4, 3), torch.zeros(2, 4), alpha)
    assert slices_of_one_form(students) == [slice(0, 2), slice(2, 4)]


def test_a_diverging_student_leaves_the_others_alone(generator):
    students, x, y, *_ = problem(generator)
    calm = torch.full((2, 3), 0.02, dtype=F64)
    wild = calm.clone()
    wild[0, 1] = 1e3
    expected = descend(students, x, y, calm, 60).train_loss
    loss = descend(students, x, y, wild, 60).train_loss
    assert not math.isfinite(loss[0, 1, -1])
    others = torch.ones(2, 3, dtype=torch.bool)
    others[0, 1] = False
    torch.testing.assert_close(loss[others], expected[others])


def test_the_path_starts_at_zero_and_ends_at_the_displacement(generator):
    students, x, y, *_ = problem(generator)
    result = descend(students, x, y, torch.full((2, 3), 0.05, dtype=F64), 40, keep_path=True)
    assert result.path_hidden.shape == (2, 3, len(result.steps), 6, 4)
    assert not result.path_hidden[:, :, 0].any()
    torch.testing.assert_close(result.path_output[:, :, -1], result.displacement.output)


def test_stochastic_descent_on_the_same_batch_is_descent(generator):
    students, x, y, *_ = problem(generator)
    step = torch.full((2, 3), 0.05, dtype=F64)
    u, losses = stochastic_descent(students, lambda: (x, y), step, 30, window=10)
    expected = descend(students, x, y, step, 31, records=200)
    torch.testing.assert_close(u.hidden, expected.displacement.hidden)
    windows = expected.train_loss[..., :30].unflatten(-1, (3, 10)).mean(-1)
    torch.testing.assert_close(losses, windows)


def test_the_metric_multiplies_the_step_of_the_hidden_weights(generator):
    students, x, y, *_ = problem(generator)
    step = torch.full((2, 3), 0.05, dtype=F64)
    plain, _ = stochastic_descent(students, lambda: (x, y), step, 1)
    scaled, _ = stochastic_descent(students, lambda: (x, y), step, 1, metric=7.0)
    torch.testing.assert_close(scaled.hidden, 7 * plain.hidden)
    torch.testing.assert_close(scaled.output, plain.output)


def test_steps_kept_are_increasing_and_reach_both_ends():
    steps = log_spaced_steps(10_000, 50)
    assert steps[0] == 0
    assert steps[-1] == 9_999
    assert list(steps) == sorted(set(steps))
    assert 30 < len(steps) <= 51


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n_steps": 0}, "n_steps must be at least 1; got 0"), ({"y_test": None}, "go together")],
)
def test_wrong_arguments_are_named(generator, change, message):
    students, x, y, x_test, y_test = problem(generator)
    options = {"n_steps": 3, "x_test": x_test, "y_test": y_test} | change
    with pytest.raises(ValueError, match=message):
        descend(students, x, y, torch.full((2, 3), 0.1, dtype=F64), **options)


def test_an_uncentred_student_starts_at_its_own_output(generator):
    students, x, *_ = problem(generator)
    plain = Students(students.hidden, students.output.abs(), students.alpha, centred=False)
    start = Displacement(torch.zeros(2, 3, 6, 4, dtype=F64), torch.zeros(2, 3, 6, dtype=F64))
    for k in range(2):
        h = torch.relu(x[k] @ plain.hidden[k].T) @ plain.output[k]
        torch.testing.assert_close(student_outputs(plain, start, x)[k], plain.alpha[k, :, None] * h)


def test_alpha_must_be_positive(generator):
    students, *_ = problem(generator)
    with pytest.raises(ValueError, match="alpha must be positive; got a smallest of 0"):
        Students(students.hidden, students.output, torch.zeros(2, 3, dtype=F64))
