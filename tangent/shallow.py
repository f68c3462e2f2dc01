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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "Descent",
    "Displacement",
    "Students",
    "descend",
    "log_spaced_steps",
    "stochastic_descent",
    "student_outputs",
]


@dataclass(frozen=True)
class Students:
    """Two-layer students at initialization.

    Attributes
    ----------
    hidden : Tensor of shape (k, m, d)
        The b_j of every problem, shared by its scales.
    output : Tensor of shape (k, m)
        The a_j.
    alpha : Tensor of shape (k, s)
        Factor before the sum, one a student. Infinity is the linearized student.
    centred : bool
        Whether the output at initialization is subtracted. A doubled initialization has the
        output zero; saying so here keeps it exactly zero, where a sum leaves rounding that alpha
        multiplies.
    """

    hidden: Float[Tensor, "k m d"]
    output: Float[Tensor, "k m"]
    alpha: Float[Tensor, "k s"]
    centred: bool = True

    def __post_init__(self):
        if not bool((self.alpha > 0).all()):
            raise ValueError(f"alpha must be positive; got a smallest of {self.alpha.min():g}")
        if self.hidden.shape[0] != self.alpha.shape[0]:
            raise ValueError(
                "alpha must have a row a problem; got "
                f"{self.alpha.shape[0]} rows for {self.hidden.shape[0]} problems"
            )
        if not self.centred and not bool(self.alpha.isfinite().all()):
            raise ValueError("alpha = inf has no output at initialization; set centred=True")


@dataclass(frozen=True)
class Displacement:
    """Scaled displacement ``alpha * (w - w0)`` of the weights of every student."""

    hidden: Float[Tensor, "k s m d"]
    output: Float[Tensor, "k s m"]


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


class _Pair:
    """The students on one set of inputs: base activations once, differences at every call."""

    def __init__(self, students: Students, n: int):
        (k, s), m = students.alpha.shape, students.hidden.shape[1]
        like = students.hidden
        self.shape, self.students = (k, s, m, n), students
        self.inverse = students.alpha.reciprocal()[:, :, None]
        self.start = like.new_zeros(k, s, n)
        self.base = like.new_empty(k, m, n)
        self.kink, self.above, self.difference, self.active = like.new_empty(4, k, s, m, n)

    def see(self, x: Float[Tensor, "k n d"]) -> _Pair:
        """Take ``x`` as the inputs: everything that does not change with the displacement."""
        self.inputs, self.transposed = x, x.transpose(1, 2).contiguous()
        z = torch.bmm(self.students.hidden, self.transposed, out=self.base)
        largest = torch.finfo(z.dtype).max / 4  # stands for infinity without its inf - inf
        torch.mul(z[:, None], -self.students.alpha[:, :, None, None], out=self.kink)
        if not bool(self.students.alpha.isfinite().all()):
            self.kink.nan_to_num_(0.0).clamp_(-largest, largest)
        torch.clamp(self.kink, min=0, out=self.above)
        z.clamp_(min=0)
        if not self.students.centred:
            at_start = torch.bmm(self.students.output[:, None], z)
            self.start = self.students.alpha[:, :, None] * at_start
        return self

    def weights(self, u: Displacement) -> Float[Tensor, "k s m"]:
        """Output weights a_j at the displacement ``u``."""
        return torch.addcmul(self.students.output[:, None], u.output, self.inverse)

    def residual(
        self, u: Displacement, y: Float[Tensor, "k n"], activity: bool = True
    ) -> Float[Tensor, "k s n"]:
        """Outputs minus targets.

        With z the pre-activation at w0 and v its scaled difference, alpha (relu(z + v/alpha) -
        relu(z)) = max(v, -alpha z) - max(-alpha z, 0), which loses no digits.
        """
        k, s, m, n = self.shape
        v = self.difference
        torch.bmm(u.hidden.view(k, s * m, -1), self.transposed, out=v.view(k, s * m, n))
        if activity:
            torch.gt(v, self.kink, out=self.active)
        torch.maximum(v, self.kink, out=v)
        v.sub_(self.above)
        moved = torch.bmm(self.weights(u).view(k * s, 1, m), v.view(k * s, m, n)).view(k, s, n)
        return moved.add_(self.start).baddbmm_(u.output, self.base).sub_(y[:, None])

    def gradient(self, u: Displacement, r: Float[Tensor, "k s n"]) -> Displacement:
        """Dh(w)^T r after ``residual`` at the same ``u``; overwrites the activity."""
        k, s, m, n = self.shape
        moved = torch.bmm(self.difference.view(k * s, m, n), r.view(k * s, n, 1)).view(k, s, m)
        output = torch.bmm(r, self.base.transpose(1, 2)).addcmul_(moved, self.inverse)
        masked = self.active.mul_(r[:, :, None, :]).view(k, s * m, n)
        hidden = torch.bmm(masked, self.inputs).view(k, s, m, -1)
        return Displacement(hidden.mul_(self.weights(u)[..., None]), output)


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
    return _Pair(students, x.shape[1]).see(x).residual(u, x.new_zeros(x.shape[:2]), activity=False)


@torch.no_grad()
def _descend_block(students, x, y, step, n_steps, steps, x_test, y_test, test_every, keep_path):
    """`descend` for students that fit the cache together."""
    u, train = _zero(students), _Pair(students, x.shape[1]).see(x)
    test = _Pair(students, x_test.shape[1]).see(x_test) if x_test is not None else None
    kept: dict[str, list[Tensor]] = {"train": [], "test": [], "hidden": [], "output": []}
    nothing = torch.full_like(students.alpha, math.nan, dtype=torch.float64)
    best, rate, marked = torch.full_like(nothing, math.inf), step / x.shape[1], frozenset(steps)
    for t in range(n_steps):
        r = train.residual(u, y)
        latest = nothing
        if test is not None and (t in marked or t % test_every == 0):
            latest = _loss(test.residual(u, y_test, activity=False))
            best = torch.fmin(best, latest)
        if t in marked:
            kept["train"].append(_loss(r))
            kept["test"].append(latest)
            if keep_path:
                kept["hidden"].append(u.hidden.clone())
                kept["output"].append(u.output.clone())
        if t < n_steps - 1:
            _advance(u, train.gradient(u, r), rate, 1.0)
    stacked = [torch.stack(kept[name], 2) for name in ("train", "test")]
    path = [
        torch.stack(kept["hidden"], 2) if keep_path else u.hidden[:, :, None][:, :, :0],
        torch.stack(kept["output"], 2) if keep_path else u.output[:, :, None][:, :, :0],
    ]
    return [u.hidden, u.output, *stacked, best, *path]


def _runs_together(students: Students, n: int) -> int:
    """Scales of a problem advanced together: what fits a core's cache, or all on a GPU."""
    if students.alpha.device.type != "cpu":
        return students.alpha.shape[1]
    bytes_each = 4 * n * students.hidden.shape[1] * students.hidden.element_size()
    return max(1, 3_000_000 // bytes_each)


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
    loss is looked at.
    """
    for name, value in (("n_steps", n_steps), ("test_every", test_every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    if (x_test is None) != (y_test is None):
        raise ValueError("x_test and y_test go together; got one without the other")
    steps = log_spaced_steps(n_steps, records)
    k, s = students.alpha.shape
    size = together or _runs_together(students, x.shape[1])
    per_block = k if x.device.type != "cpu" else max(1, size // s)
    rows = []
    for i in range(0, k, per_block):
        problem = slice(i, i + per_block)
        columns = []
        for j in range(0, s, size):
            some = slice(j, j + size)
            part = Students(
                students.hidden[problem],
                students.output[problem],
                students.alpha[problem, some],
                students.centred,
            )
            columns.append(
                _descend_block(
                    part,
                    x[problem],
                    y[problem],
                    step[problem, some],
                    n_steps,
                    steps,
                    None if x_test is None else x_test[problem],
                    None if y_test is None else y_test[problem],
                    test_every,
                    keep_path,
                )
            )
        rows.append([torch.cat(parts, dim=1) for parts in zip(*columns, strict=True)])
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
    for t in range(n_steps):
        x, y = draw()
        pair = _Pair(students, x.shape[1]) if pair is None else pair
        r = pair.see(x).residual(u, y)
        if t >= skipped:
            losses[:, :, (t - skipped) // window] += _loss(r) / window
        _advance(u, pair.gradient(u, r), step / x.shape[1], metric)
    return u, losses
