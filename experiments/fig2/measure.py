"""The computations of Figure 2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from experiments.data.teachers import Task, doubled_units, draw_task, generators, half_square, on
from experiments.runs.results import Context, Outcome
from tangent.theory.arccosine import (
    infinite_width_kernels,
    population_loss,
    tangent_population_minimum,
)
from tangent.theory.shallow import Displacement, Students, descend, stochastic_descent

_TEACHER_UNITS = 3


def _task(run: dict[str, Any]) -> tuple[Task, list[torch.Generator]]:
    """The task of panel (a), the same for every width, and generators that have drawn it."""
    draws = generators(list(run["seeds"]))
    sizes = run["n_train"], run["n_test"], run["features"], _TEACHER_UNITS
    return draw_task(draws, *sizes, scale=run["teacher_scale"]), draws


def _numpy(**arrays: Tensor) -> dict[str, Any]:
    return {name: value.cpu().numpy() for name, value in arrays.items()}


def widths(run: dict[str, Any], context: Context) -> Outcome:
    """Panel (a) at one width: both scalings of all repetitions, N(0, 1) weights, not doubled."""
    task, draws = _task(run)
    m, d, count = run["m"], run["features"], len(draws)
    for draw in draws:
        draw.manual_seed(draw.initial_seed() * 1_000_003 + m)  # weights of a width of their own
    weights = [
        torch.randn(2, m, d + 1, generator=draw, dtype=torch.float64) for draw in draws
    ]  # of the scaling 1/sqrt(m), then of 1/m
    w = torch.stack(weights, 1).reshape(2 * count, m, d + 1)
    alpha = torch.tensor([[m**-0.5], [1 / m]]).repeat_interleave(count, 0).double()
    step = torch.tensor([[run["root_step"] / m], [run["inverse_step"] / m]], dtype=torch.float64)
    step = step.repeat_interleave(count, 0)
    hidden, output, alpha, step = on(context, w[..., :-1], w[..., -1], alpha, step)
    x, y, x_test, y_test = (
        torch.cat([t, t]) for t in on(context, task.x, task.y, task.x_test, task.y_test)
    )
    result = descend(
        Students(hidden, output, alpha, centred=False),
        x,
        y,
        step,
        run["steps"],
        x_test=x_test,
        y_test=y_test,
        test_every=run["steps"],
        progress=True,
    )
    train, test = (loss[:, 0].view(2, count, -1) for loss in (result.train_loss, result.test_loss))
    arrays = _numpy(
        steps=torch.tensor(result.steps),
        root_test=test[0, :, -1],
        inverse_test=test[1, :, -1],
        root_train=train[0, :, -1],
        inverse_train=train[1, :, -1],
        test_curves=test.float(),
    )
    names = ("root_test", "inverse_test", "root_train", "inverse_train")
    return Outcome({name: float(arrays[name].mean()) for name in names}, arrays=arrays)


def wide_limit(run: dict[str, Any], context: Context) -> Outcome:
    """Panel (a)'s lazy limit: m to infinity with 1/sqrt(m), after the same steps, exactly.

    The random output at initialization is a Gaussian process; its share of the loss is taken in
    expectation. Beside it the loss of an affine least-squares fit and of the zero function.
    """
    task, _ = _task(run)
    rows = []
    for x, y, x_test, y_test in zip(task.x, task.y, task.x_test, task.y_test, strict=True):
        covariance, kernel = infinite_width_kernels(x, x)
        cross_covariance, cross = infinite_width_kernels(x_test, x)
        own = infinite_width_kernels(x_test[:1], x_test[:1])[0]  # the same for all unit inputs
        # outputs at the end = f0(test) + A (y - f0(train)), f0 Gaussian and A linear
        a = _linear_map(kernel, cross, run["root_step"], run["steps"] - 1)
        variance = (
            own[0, 0] - 2 * (a * cross_covariance).sum(1) + ((a @ covariance) * a).sum(1)
        ).mean()
        ones = torch.ones(len(x), 1, dtype=x.dtype)
        affine = torch.linalg.lstsq(torch.cat([x, ones], 1), y[:, None]).solution[:, 0]
        fitted = x_test @ affine[:-1] + affine[-1]
        rows.append(
            {
                "limit": float(half_square(a @ y, y_test) + variance / 2),
                "affine": float(half_square(fitted, y_test)),
                "null": float(half_square(torch.zeros_like(y_test), y_test)),
            }
        )
    arrays = _numpy(**{name: torch.tensor([row[name] for row in rows]) for name in rows[0]})
    return Outcome({name: float(v.mean()) for name, v in arrays.items()}, arrays=arrays)


def population(run: dict[str, Any], context: Context) -> Outcome:
    """Panel (b): all scales and repetitions at once, on fresh inputs."""
    draws = generators(list(run["seeds"]))
    d, m, count, taus = run["features"], run["units"], len(draws), len(run["taus"])
    task = draw_task(draws, 1, 1, d, _TEACHER_UNITS)
    signs, teacher = task.teacher_signs / run["teacher_divisor"], task.teacher
    alone = 1 if run["shared_draws"] else taus  # initializations a repetition
    hidden, output = doubled_units(draws, alone, m, d)
    tau = torch.tensor(run["taus"], dtype=torch.float64).repeat(count, 1).view(count * alone, -1)
    alpha = tau**2 / m
    step = torch.minimum(run["population_step"] / tau**2, torch.tensor(run["largest_step"])) * alpha
    b, a, scale, rate, t_b, t_a = on(context, hidden, output, alpha, step, teacher, signs)

    def fresh() -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step, (problems, batch, d) and (problems, batch)."""
        shape = (alone, run["batch_size"], d)
        each = [torch.randn(*shape, generator=draw, dtype=b.dtype) for draw in draws]
        x = torch.stack(each).to(b.device)
        x = x / x.norm(dim=-1, keepdim=True)
        outputs = torch.einsum("kapq,kq->kap", (x @ t_b.mT[:, None]).clamp(min=0), t_a)
        return x.flatten(0, 1), outputs.flatten(0, 1)

    u, losses = stochastic_descent(
        Students(b, a, scale),
        fresh,
        rate,
        run["population_steps"],
        metric=float(d),
        window=run["window"],
        progress=True,
    )
    losses = losses.cpu().view(count, taus, -1)
    minima = [
        [tangent_population_minimum(hidden[i * alone + j], signs[i], teacher[i]) for j in
         range(alone)] for i in range(count)
    ]  # fmt: skip
    zero = torch.zeros(count, 1).double()
    null = population_loss(zero, torch.ones(count, 1, d).double(), signs, teacher)
    arrays = _numpy(
        tau=torch.tensor(run["taus"], dtype=torch.float64),
        windows=losses,
        exact=_exact_losses(u, hidden, output, alpha, tau, signs, teacher, (count, alone)),
        tangent=torch.tensor(minima, dtype=torch.float64).expand(count, taus),
        null=null,
    )
    metrics = {
        "largest_tau_loss_over_null": float((losses[:, -1, -1] / null).mean()),
        "smallest_tau_loss_over_null": float((losses[:, 0, -1] / null).mean()),
        "tangent_over_null": float((arrays["tangent"] / null.numpy()[:, None]).mean()),
    }
    return Outcome(metrics, arrays=arrays)


def _linear_map(kernel: Tensor, cross: Tensor, step: float, steps: int) -> Tensor:
    """The matrix from training targets to test outputs of linearized descent from zero."""
    n = len(kernel)
    values, vectors = torch.linalg.eigh(kernel / n)
    values = values.clamp(min=1e-12 * float(values[-1]))
    done = -torch.expm1(steps * torch.log1p(-(step * values).clamp(max=1 - 1e-12)))
    return cross @ (vectors * (done / values)) @ vectors.T / n


def _exact_losses(
    u: Displacement,
    hidden: Tensor,
    output: Tensor,
    alpha: Tensor,
    tau: Tensor,
    signs: Tensor,
    teacher: Tensor,
    shape: tuple[int, int],
) -> Tensor:
    """Population losses of the students at the end, in closed form, (repetitions, scales)."""
    count, alone = shape
    size = alpha[..., None, None]
    b = tau[..., None, None] * (hidden[:, None] + u.hidden.double().cpu() / size)
    a = tau[..., None] * (output[:, None] + u.output.double().cpu() / size[..., 0])
    m = hidden.shape[1]
    signs = signs.repeat_interleave(alone, 0)[:, None].expand(-1, tau.shape[1], -1)
    teacher = teacher.repeat_interleave(alone, 0)[:, None].expand(-1, tau.shape[1], -1, -1)
    return population_loss(a / m, b, signs, teacher).view(count, -1)


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Train the students of one run together, or solve their limit."""
    parts = {"a": widths, "a-limit": wide_limit, "b": population}
    return parts[run["part"]](run, context)
