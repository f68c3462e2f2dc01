"""Two-layer ReLU students of a two-layer teacher, many of them trained together.

A student is ``f(x) = alpha * sum_j a_j relu(b_j . x)``. It is carried as its weights at
initialization and the scaled displacement ``u = alpha * (w - w0)``, so that float32 keeps its
digits at every alpha and ``alpha = inf`` is the linearized student (its own exact dynamics). The
gradient is written out: a step is two matrix products.

Students come in ``k`` problems (data, teacher and initialization of their own) of ``s`` scales,
which share all of these; they advance together.

Source: Chizat et al. 2019, Section 3.1 and its published code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from tangent.machine.threads import side_by_side
from tangent.theory.students import (
    DifferenceStudents,
    Displacement,
    Students,
    slices_of_one_form,
    students_on,
)

__all__ = [
    "Descent",
    "Displacement",
    "Students",
    "descend",
    "log_spaced_steps",
    "stochastic_descent",
    "student_outputs",
]


# Activations a core advances at once. Measured: 1e5 is slower, 8e5 the same.
_CACHED_NUMBERS = 400_000


@dataclass(frozen=True)
class Descent:
    """What a descent leaves: losses are half the mean squared error, after ``steps`` updates.

    Attributes
    ----------
    displacement : Displacement
        At the last step.
    steps : tuple of int
        The ``t`` steps at which the losses were kept.
    train_loss, test_loss : Tensor of shape (k, s, t)
        In float64. ``test_loss`` is NaN where there is no test set.
    best_test_loss : Tensor of shape (k, s)
        Smallest test loss over the steps at which it was looked at.
    path_hidden : Tensor of shape (k, s, t, m, d)
    path_output : Tensor of shape (k, s, t, m)
        Displacements at ``steps``; ``t = 0`` unless the path was asked for.
    """

    displacement: Displacement
    steps: tuple[int, ...]
    train_loss: Float[Tensor, "k s t"]
    test_loss: Float[Tensor, "k s t"]
    best_test_loss: Float[Tensor, "k s"]
    path_hidden: Float[Tensor, "k s q m d"]
    path_output: Float[Tensor, "k s q m"]


def log_spaced_steps(n_steps: int, count: int) -> tuple[int, ...]:
    """Return about ``count`` different numbers of updates from 0 to ``n_steps - 1``, both in."""
    last = max(n_steps - 1, 0)
    points = torch.linspace(0.0, math.log1p(last), max(count, 2), dtype=torch.float64)
    return tuple(sorted({round(math.expm1(p)) for p in points.tolist()} | {0, last}))


def _bar(total: int, progress: bool) -> tqdm:
    """A bar of steps; silent unless asked for, and where standard error is no terminal."""
    return tqdm(total=total, unit="step", leave=False, disable=None if progress else True)


def _loss(r: Float[Tensor, "k s n"]) -> Float[Tensor, "k s"]:
    return r.square().mean(-1, dtype=torch.float64) / 2


def _zero(students: Students) -> Displacement:
    (k, s), (_, m, d) = students.alpha.shape, students.hidden.shape
    return Displacement(students.hidden.new_zeros(k, s, m, d), students.output.new_zeros(k, s, m))


def _advance(u: Displacement, g: Displacement, step: Float[Tensor, "k s"], metric: float) -> None:
    u.hidden.addcmul_(g.hidden, step[:, :, None, None], value=-metric)
    u.output.addcmul_(g.output, step[:, :, None], value=-1.0)


@torch.no_grad()
def student_outputs(
    students: Students, u: Displacement, x: Float[Tensor, "k n d"]
) -> Float[Tensor, "k s n"]:
    """Outputs alpha h(w0 + u/alpha) of every student on the inputs of its problem."""
    return (
        students_on(students, x.shape[1])
        .on_inputs(x)
        .residual(u, x.new_zeros(x.shape[:2]), activity=False)
    )


@torch.no_grad()
def _descend_block(
    students: Students,
    train_set: tuple[Tensor, Tensor],
    test_set: tuple[Tensor, Tensor] | None,
    step: Float[Tensor, "k s"],
    n_steps: int,
    steps: Sequence[int],
    test_every: int,
    keep_path: bool,
    bar: tqdm,
) -> list[Tensor]:
    """`descend` for students that fit the cache together."""
    (x, y), (x_test, y_test) = train_set, test_set or train_set
    u, train = _zero(students), students_on(students, x.shape[1]).on_inputs(x)
    test = students_on(students, x_test.shape[1], train).on_inputs(x_test) if test_set else None
    kept: dict[str, list[Tensor]] = {"train": [], "test": [], "hidden": [], "output": []}
    nothing = torch.full_like(students.alpha, math.nan, dtype=torch.float64)
    best, rate, marked = torch.full_like(nothing, math.inf), step / x.shape[1], frozenset(steps)
    for t in range(n_steps):
        latest = nothing
        if test is not None and (t in marked or t % test_every == 0):
            latest = _loss(test.residual(u, y_test, activity=False))
            best = torch.fmin(best, latest)
        r = train.residual(u, y)  # after the test set: they share arrays
        if t in marked:
            kept["train"].append(_loss(r))
            kept["test"].append(latest)
            if keep_path:
                kept["hidden"].append(u.hidden.clone())
                kept["output"].append(u.output.clone())
        if t < n_steps - 1:
            _advance(u, train.gradient(u, r), rate, 1.0)
        bar.update()
    stacked = [torch.stack(kept[name], 2) for name in ("train", "test")]
    path = [
        torch.stack(kept["hidden"], 2) if keep_path else u.hidden[:, :, None][:, :, :0],
        torch.stack(kept["output"], 2) if keep_path else u.output[:, :, None][:, :, :0],
    ]
    return [u.hidden, u.output, *stacked, best, *path]


def _split(whole: slice, parts: int) -> list[slice]:
    """``parts`` nearly equal ranges that cover ``whole``."""
    count = whole.stop - whole.start
    ends = [whole.start + count * i // parts for i in range(parts + 1)]
    return [slice(i, j) for i, j in pairwise(ends)]


def _blocks(students: Students, n: int, together: int | None) -> list[list[tuple[slice, slice]]]:
    """Problems and scales that advance together, in rows: all on a GPU, else a cache's worth.

    There is a block a thread at least, for `side_by_side`.
    """
    (k, s), m = students.alpha.shape, students.hidden.shape[1]
    on_gpu = students.alpha.device.type != "cpu"
    size = together or (k * s if on_gpu else max(1, _CACHED_NUMBERS // (m * n)))
    rows, columns = math.ceil(k / max(1, size // s)), math.ceil(s / size)
    if not on_gpu:
        rows = max(rows, min(k, torch.get_num_threads()))
        columns = max(columns, min(s, math.ceil(torch.get_num_threads() / rows)))
    parts = [
        part
        for some in slices_of_one_form(students)
        for part in _split(some, math.ceil(columns * (some.stop - some.start) / s))
    ]
    return [[(i, j) for j in parts] for i in _split(slice(0, k), rows)]


def descend(
    students: Students,
    x: Float[Tensor, "k n d"],
    y: Float[Tensor, "k n"],
    step: Float[Tensor, "k s"],
    n_steps: int,
    *,
    x_test: Float[Tensor, "k p d"] | None = None,
    y_test: Float[Tensor, "k p"] | None = None,
    test_every: int = 1,
    records: int = 50,
    keep_path: bool = False,
    together: int | None = None,
    progress: bool = False,
) -> Descent:
    """Gradient descent of every student on half the mean squared error of its outputs.

    One step is ``u <- u - step * Dh(w0 + u/alpha)^T (outputs - y) / n``: gradient descent on the
    weights with step size ``step / alpha`` of the gradient of h without its factor alpha.

    Parameters
    ----------
    students : Students
        Their dtype and device are those of the computation.
    x, y : Tensor
        Training inputs and targets of every problem.
    step : Tensor of shape (k, s)
    n_steps : int
        Losses are looked at after 0, ..., n_steps - 1 updates, as in the published code.
    x_test, y_test : Tensor, optional
    test_every : int
        The test loss is looked at every so many steps (and at the steps kept).
    records : int
        Log-spaced steps at which losses (and, with ``keep_path``, displacements) are kept.
    together : int, optional
        Scales of a problem advanced at once. It bounds memory and does not change the result
        beyond rounding. By default what fits the cache of a core, or everything on a GPU.
    progress : bool
        Show a bar with the time left on standard error, where that is a terminal.

    Returns
    -------
    Descent

    Raises
    ------
    ValueError
        If ``n_steps`` or ``test_every`` is not positive, or a test set has no targets.

    Notes
    -----
    A student that diverges has infinite or NaN losses; the others are not touched by it. The
    cost of a step is two products of 2 k s m n d operations, and half that again where the test
    loss is looked at. On a CPU every thread of torch advances students of its own; in float32 the
    products alone are three quarters of the time of a step. Where alpha is small the weights
    themselves are used instead of differences, which saves passes over the activations.
    """
    for name, value in (("n_steps", n_steps), ("test_every", test_every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    if (x_test is None) != (y_test is None):
        raise ValueError("x_test and y_test go together; got one without the other")
    steps = log_spaced_steps(n_steps, records)
    blocks = _blocks(students, x.shape[1], together)

    def advance(block: tuple[slice, slice]) -> list[Tensor]:
        i, j = block
        some = Students(
            students.hidden[i], students.output[i], students.alpha[i, j], students.centred
        )
        test = None if x_test is None or y_test is None else (x_test[i], y_test[i])
        return _descend_block(
            some, (x[i], y[i]), test, step[i, j], n_steps, steps, test_every, keep_path, bar
        )

    each = [block for row in blocks for block in row]
    with _bar(n_steps * len(each), progress) as bar:
        results = iter(list(side_by_side(advance, each)))
    rows = [
        [torch.cat(parts, dim=1) for parts in zip(*(next(results) for _ in row), strict=True)]
        for row in blocks
    ]
    whole = [torch.cat(parts) for parts in zip(*rows, strict=True)]
    return Descent(Displacement(*whole[:2]), steps, *whole[2:])


@torch.no_grad()
def stochastic_descent(
    students: Students,
    draw: Callable[[], tuple[Float[Tensor, "k n d"], Float[Tensor, "k n"]]],
    step: Float[Tensor, "k s"],
    n_steps: int,
    *,
    metric: float = 1.0,
    window: int = 2000,
    progress: bool = False,
) -> tuple[Displacement, Float[Tensor, "k s w"]]:
    """Stochastic gradient descent on fresh batches, hence on the population loss.

    Parameters
    ----------
    students : Students
    draw : callable
        Returns fresh inputs and targets for every problem, shared by its scales.
    step : Tensor of shape (k, s)
        As in `descend`.
    n_steps : int
    metric : float
        Multiplies the step of the hidden weights.
    window : int
        Steps over which batch losses are averaged.
    progress : bool
        Show a bar with the time left on standard error, where that is a terminal.

    Returns
    -------
    u : Displacement
    losses : Tensor of shape (k, s, w)
        Mean batch loss (before the update) of each of the last ``n_steps // window`` windows,
        in time order, in float64.
    """
    count = max(n_steps // window, 1)
    window = min(window, n_steps)
    losses = torch.zeros(
        *students.alpha.shape, count, dtype=torch.float64, device=students.alpha.device
    )
    u, pair, skipped = _zero(students), None, n_steps - count * window
    with _bar(n_steps, progress) as bar:
        for t in range(n_steps):
            x, y = draw()
            # the other form would need the start's outputs on every batch, another product
            pair = DifferenceStudents(students, x.shape[1]) if pair is None else pair
            r = pair.on_inputs(x).residual(u, y)
            if t >= skipped:
                losses[:, :, (t - skipped) // window] += _loss(r) / window
            _advance(u, pair.gradient(u, r), step / x.shape[1], metric)
            bar.update()
    return u, losses
