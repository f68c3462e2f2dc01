"""The computations of Figure 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from experiments.data.teachers import (
    Task,
    doubled,
    doubled_units,
    draw_task,
    generators,
    half_square,
    linear_descent,
    on,
    sphere,
)
from experiments.runs.results import Context, Outcome
from tangent.theory.arccosine import relu_tangent_kernel
from tangent.theory.shallow import Students, descend

_TEACHER_UNITS = 3


def problem(run: dict[str, Any], context: Context) -> tuple[Students, Task, Tensor, Tensor]:
    """Students at tau = 1, their task, steps of the scaled displacement, and the taus.

    Teacher, data and initialization belong to a repetition and are shared by all tau.
    """
    draws = generators(list(run["seeds"]))
    d = run["features"]
    task = draw_task(draws, run["n_train"], run["n_test"], d, _TEACHER_UNITS)
    hidden, output = doubled_units(draws, 1, run["units"], d)
    tau = torch.tensor(run["taus"], dtype=torch.float64)
    step = (run["largest_step"] * tau**2).clamp(max=run["step"]).expand(len(draws), -1)
    alpha = (tau**2).expand(len(draws), -1)
    hidden, output, alpha, step = on(context, hidden, output, alpha, step)
    x, y, x_test, y_test = on(context, task.x, task.y, task.x_test, task.y_test)
    task = replace(task, x=x, y=y, x_test=x_test, y_test=y_test)
    return Students(hidden, output, alpha), task, step, tau


def losses(run: dict[str, Any], context: Context) -> Outcome:
    """Panel (c): losses of all repetitions and scales, and of the linearized students."""
    students, task, step, tau = problem(run, context)
    result = descend(
        students,
        task.x,
        task.y,
        step,
        run["steps"],
        x_test=task.x_test,
        y_test=task.y_test,
        test_every=run["test_every"],
        progress=True,
    )
    references = [_linear(run, students, task, k) for k in range(len(run["seeds"]))]
    arrays = {
        "tau": tau,
        "steps": torch.tensor(result.steps),
        "end": result.test_loss[..., -1],
        "best": result.best_test_loss,
        "train": result.train_loss[..., -1],
        "test_curves": result.test_loss.float(),
        **{name: torch.tensor([r[name] for r in references]) for name in references[0]},
    }
    means = {
        f"{name}_at_largest_tau": float(arrays[name][:, -1].mean())
        for name in ("end", "best", "train")
    }
    means |= {name: float(arrays[name].mean()) for name in references[0]}
    return Outcome(means, arrays={name: value.cpu().numpy() for name, value in arrays.items()})


def _linear(run: dict[str, Any], students: Students, task: Task, k: int) -> dict[str, float]:
    """Test losses of the linearized student of repetition ``k``, solved exactly in float64."""
    hidden, output = students.hidden[k].double().cpu(), students.output[k].double().cpu()
    x, y, x_test, y_test = (t[k].double().cpu() for t in (task.x, task.y, task.x_test, task.y_test))
    kernel = relu_tangent_kernel(output, hidden, x, x)
    cross = relu_tangent_kernel(output, hidden, x_test, x)
    last = run["steps"] - 1
    looked = [*range(0, last, run["test_every"]), last, torch.inf]
    train, test = linear_descent(
        kernel, cross, y, run["step"], torch.tensor(looked, dtype=torch.float64)
    )
    train_loss, test_loss = half_square(train, y), half_square(test, y_test)
    return {
        "linear_end": float(test_loss[-2]),
        "linear_best": float(test_loss[:-1].min()),
        "linear_interpolant": float(test_loss[-1]),
        "linear_train": float(train_loss[-2]),
        "null": float(half_square(torch.zeros_like(y_test), y_test)),
    }


def paths(run: dict[str, Any], context: Context) -> Outcome:
    """Panels (a) and (b): weights of every unit along the descent, in the plane."""
    draws = generators([run["seed"]])
    task = draw_task(draws, run["n_train"], 1000, 2, _TEACHER_UNITS)
    half = run["units"] // 2
    if run["law"] == "circle":
        hidden = sphere(draws[0], half, 2)
        output = torch.rand(half, generator=draws[0], dtype=torch.float64)
    else:
        hidden = torch.randn(half, 2, generator=draws[0], dtype=torch.float64)
        output = torch.randn(half, generator=draws[0], dtype=torch.float64)
    hidden, output = doubled(hidden[None], output[None])
    tau = torch.tensor([run["taus"]], dtype=torch.float64)
    b, a, alpha, step = on(context, hidden, output, tau**2, run["step"] * tau**2)
    x, y, x_test, y_test = on(context, task.x, task.y, task.x_test, task.y_test)
    students = Students(b, a, alpha)
    result = descend(
        students,
        x,
        y,
        step,
        run["steps"],
        x_test=x_test,
        y_test=y_test,
        test_every=run["steps"],
        records=120,
        keep_path=True,
        progress=True,
    )
    # w = tau (w0 + u / tau^2), a path for every tau
    scale = tau[0].cpu()[:, None, None, None]
    path_b = scale * hidden[0] + result.path_hidden[0].double().cpu() / scale
    path_a = scale[..., 0] * output[0] + result.path_output[0].double().cpu() / scale[..., 0]
    arrays = {
        "tau": tau[0],
        "steps": torch.tensor(result.steps),
        "hidden": path_b,
        "output": path_a,
        "teacher": task.teacher[0],
        "teacher_signs": task.teacher_signs[0],
        "train": result.train_loss[0],
        "test": result.test_loss[0],
    }
    metrics: dict[str, float] = {}
    for s, value in enumerate(run["taus"]):
        measured = _movement(path_b[s], path_a[s], task)
        measured["train_loss"] = float(result.train_loss[0, s, -1])
        measured["test_loss"] = float(result.test_loss[0, s, -1])
        metrics |= {f"{name}_tau_{value:g}": number for name, number in measured.items()}
    return Outcome(metrics, arrays={name: value.cpu().numpy() for name, value in arrays.items()})


def _movement(b: Tensor, a: Tensor, task: Task) -> dict[str, float]:
    """How far the units went, how many signs they kept, and whether they found the teacher."""
    start = torch.cat([b[0], a[0][:, None]], 1)
    moved = torch.cat([b[-1], a[-1][:, None]], 1) - start
    x = task.x[0].double().cpu()
    kept = ((x @ b[0].T > 0) == (x @ b[-1].T > 0)).double().mean()
    direction = b[-1] / b[-1].norm(dim=1, keepdim=True)
    cosine = direction @ task.teacher[0].T
    same_sign = a[-1].sign()[:, None] == task.teacher_signs[0][None, :]
    nearest = torch.where(same_sign, cosine, -1.0).amax(1)
    mass = a[-1].abs() * b[-1].norm(dim=1)
    return {
        "relative_displacement": float(moved.norm() / start.norm()),
        "kept_signs": float(kept),
        "alignment": float((mass * nearest).sum() / mass.sum()),
    }


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Train the students of one run together."""
    return (paths if run["part"] == "ab" else losses)(run, context)
