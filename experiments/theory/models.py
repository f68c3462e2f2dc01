"""Small models of the theorems' hypotheses, and ReLU; flows of them, and random numbers.

For ReLU the constants of the theorems are those of the piece at w0, its kinks left out, and the
flows are descents in small equal steps: an adaptive integrator stalls at kinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tangent.laziness.curvature import WeightFunction, second_derivative_norm
from tangent.theory.dynamics import (
    ConvexLoss,
    Flow,
    gradient_flow,
    logistic_loss,
    momentum_descent,
    square_loss,
)

_STEPS = 1000  # of a descent that stands for a flow, to a finite horizon
LOSSES: dict[str, Callable[[Tensor], ConvexLoss]] = {
    "square": square_loss,
    "logistic": logistic_loss,
    # Bounded, its gradient Lipschitz; concave where |f - y| > 1/2, and |f - y| = 1 at the start.
    "bounded": lambda y: lambda f: (1 - (-2 * (f - y).square()).exp()).mean(),
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


@dataclass(frozen=True)
class Draws:
    """Random numbers of one seed, the same on every device."""

    generator: torch.Generator
    device: str

    @classmethod
    def of(cls, run: dict[str, Any], device: str) -> Draws:
        """Those of the seed of a run."""
        return cls(torch.Generator().manual_seed(run["seed"]), device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float64, drawn on the CPU."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), float64, drawn on the CPU."""
        return torch.rand(*shape, generator=self.generator, dtype=torch.float64).to(self.device)


def unit_rows(x: Tensor) -> Tensor:
    """The rows, each divided by its norm."""
    return x / x.norm(dim=1, keepdim=True)


def centred(raw: WeightFunction, w0: Tensor) -> WeightFunction:
    """``raw`` less its value at w0."""
    start = raw(w0)
    return lambda w: raw(w) - start


def two_layer(x: Tensor, m: int, scale: float, activation: str) -> WeightFunction:
    """``scale * sum_j a_j phi(b_j.x)`` as a function of (b, a)."""
    phi, d = ACTIVATIONS[activation], x.shape[1]

    def outputs(w: Tensor) -> Tensor:
        return scale * phi(x @ w[: m * d].view(m, d).T) @ w[m * d :]

    return outputs


def path(
    h: WeightFunction,
    w0: Tensor,
    loss: ConvexLoss,
    alpha: float,
    times: Tensor,
    *,
    linearized: bool = False,
    step: float | None = None,
    rtol: float = 1e-11,
    atol: float = 1e-12,
) -> Flow:
    """A flow at equidistant times from 0; by descent in steps of at most ``step`` if given."""
    if step is None:
        return gradient_flow(h, w0, loss, alpha, times, linearized=linearized, rtol=rtol, atol=atol)
    each = float(times[1])
    inside = max(1, math.ceil(each / step))
    return momentum_descent(
        h, w0, loss, alpha, each / inside, inside * (len(times) - 1),
        linearized=linearized, keep_every=inside,
    )  # fmt: skip


def descent_step(run: dict[str, Any], horizon: float) -> float | None:
    """The step of `path` to a finite horizon: ``None``, an adaptive integrator, except for ReLU."""
    return horizon / _STEPS if run["model"] == "relu" else None


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """A list for each key of the rows, for the curves of an outcome."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def small_model(run: dict[str, Any], device: str) -> tuple[WeightFunction, Tensor, Tensor, float]:
    """Centred h, w0, a unit target, and Lip(Dh): exact for the quadratic model.

    The quadratic one is ``X (w+**2 - w-**2)``. The two-layer ReLU network has no Lip(Dh); the
    number is |D^2 h(w0)| without its kinks.
    """
    draws = Draws.of(run, device)
    n, p = 5, 20
    x = draws.normal(n, p) / p**0.5
    if run["model"] == "quadratic":
        w0 = draws.uniform(2 * p) + 0.5
        y = draws.normal(n)
        h = centred(lambda w: x @ (w[:p].square() - w[p:].square()), w0)
        return h, w0, y / y.norm(), 2 * float(x.norm(dim=0).max())
    m = 50
    w0, y = draws.normal(m * (p + 1)), draws.normal(n)
    h = centred(two_layer(unit_rows(x), m, m**-0.5, run["model"]), w0)
    lip = second_derivative_norm(h, w0, starts=4, tolerance=1e-5, generator=draws.generator)
    return h, w0, y / y.norm(), lip
