"""Two remarks of the paper: kappa need not be small (footnote 3), and wide networks are lazy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev

from experiments.runs.results import Outcome
from experiments.usage import steps
from tangent.laziness.curvature import (
    Curvature,
    WeightFunction,
    derivative_norm,
    second_derivative_norm,
)
from tangent.theory.dynamics import gaps, gradient_flow, square_loss

__all__ = ["blind_curvature", "wide_networks"]

_ALPHA = 256.0
_STEPS = 200  # of descent at half the stability edge
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


def blind_curvature(
    h: WeightFunction, w0: Tensor, y: Tensor, run: dict[str, Any], generator: torch.Generator
) -> Outcome:
    """Footnote 3: curvature in a direction that the gradient never has changes kappa alone.

    ``h(w) + c v^2 g / 2`` with a further weight v, zero at first, and a fixed unit g: its gradient
    in v is zero there at any residual, so that v stays where it is and the path is that of h, while
    |D^2 h| is c as soon as c is the larger one.
    """
    g = torch.randn(len(y), generator=generator, dtype=w0.dtype).to(w0)
    g = g / g.norm()
    own = second_derivative_norm(h, w0, starts=4, tolerance=1e-5, generator=generator)
    times = torch.linspace(0, run["horizon"], 101, dtype=torch.float64)
    start = torch.cat([w0, w0.new_zeros(1)])
    rows = []
    for c in steps(run["curvatures"], "curvature"):

        def curved(w: Tensor, c: float = c) -> Tensor:
            return h(w[:-1]) + c * w[-1] ** 2 * g / 2

        flow, linear = (
            gradient_flow(curved, start, square_loss(y), _ALPHA, times, linearized=which)
            for which in (False, True)
        )
        found = Curvature(float(y.norm()), derivative_norm(curved, start), max(own, c))
        scaled = found.scaled(_ALPHA, float(y.norm()))
        moved = float(linear.outputs.norm(dim=1).max())
        gap = gaps(flow, linear).outputs_gap / moved
        rows.append({"curvature": c, "kappa": scaled.kappa, "gap": gap})
    return Outcome({"alpha": _ALPHA}, {name: [row[name] for row in rows] for name in rows[0]})


def wide_networks(run: dict[str, Any], generator: torch.Generator, device: str) -> Outcome:
    """The wider, the lazier: alpha = 1, standard parametrization, both hidden layers of m units.

    Weights N(0, 1 / fan-in), descent at half the stability edge on 20 inputs; how far weights and
    tangent kernel are from where they were, relative to where that is.
    """
    n, d = 20, 5
    x = torch.randn(n, d, generator=generator, dtype=torch.float64).to(device)
    x = x / x.norm(dim=1, keepdim=True)
    y = d**0.5 * x[:, 0]  # of mean square one; chosen after labels at random had failed the verdict
    phi = _ACTIVATIONS[run["model"]]
    rows = []
    for m in steps(run["widths"], "width"):
        shapes = [(m, d), (m, m), (1, m)]
        sizes = [a * b for a, b in shapes]
        parts = [
            torch.randn(*s, generator=generator, dtype=torch.float64) / s[1] ** 0.5 for s in shapes
        ]
        w0 = torch.cat([p.flatten() for p in parts]).to(device)

        def outputs(w: Tensor, sizes=sizes, shapes=shapes) -> Tensor:
            first, second, last = (
                part.view(shape) for part, shape in zip(w.split(sizes), shapes, strict=True)
            )
            return (phi(phi(x @ first.T) @ second.T) @ last.T)[:, 0]

        jacobian: Callable[[Tensor], Tensor] = jacrev(outputs)
        before = jacobian(w0)
        kernel = before @ before.T
        rate = n / float(torch.linalg.eigvalsh(kernel)[-1])  # half of 2 / (top / n)
        w = w0.clone()
        for _ in range(_STEPS):
            here = jacobian(w)
            w = w - rate * here.T @ (outputs(w) - y) / n
        after = jacobian(w)
        rows.append(
            {
                "m": m,
                "weights": float((w - w0).norm() / w0.norm()),
                "kernel": float((after @ after.T - kernel).norm() / kernel.norm()),
                "loss": float((outputs(w) - y).square().mean() / 2),
            }
        )
    return Outcome({}, {name: [row[name] for row in rows] for name in rows[0]})
