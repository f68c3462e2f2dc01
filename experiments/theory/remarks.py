"""Remarks of the paper: kappa need not be small (footnote 3); 1/m learns what is not lazy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from experiments.runs.results import Outcome
from experiments.theory.models import Draws, centred, columns, two_layer, unit_rows
from tangent.laziness.curvature import Curvature, derivative_norm, second_derivative_norm
from tangent.machine.bars import counted
from tangent.theory.arccosine import population_loss, tangent_population_minimum
from tangent.theory.dynamics import gaps, gradient_flow, square_loss

_ALPHA = 256.0
_TEACHERS = 3
_STEP = 2.0  # of descent in the metric of each scaling, below the stability edge of both


def blind_curvature(run: dict[str, Any], device: str) -> Outcome:
    """Footnote 3: curvature in a direction that the gradient never has changes kappa alone.

    ``h(w) + c v^2 g / 2`` with a further weight v, zero at first, and a fixed unit g: its gradient
    in v is zero there at any residual, so that v stays where it is and the path is that of h, while
    |D^2 h| is c as soon as c is the larger one.
    """
    draws = Draws.of(run, device)
    x, y = unit_rows(draws.normal(10, 3)), draws.normal(10).sign()
    w0 = draws.normal(20 * 4)
    h = centred(two_layer(x, 20, 20**-0.5, run["model"]), w0)
    g = draws.normal(len(y))
    g = g / g.norm()
    own = second_derivative_norm(h, w0, starts=4, tolerance=1e-5, generator=draws.generator)
    times = torch.linspace(0, run["horizon"], 101, dtype=torch.float64)
    start = torch.cat([w0, w0.new_zeros(1)])
    rows = []
    for c in counted(run["curvatures"], "curvature"):

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
    return Outcome({"alpha": _ALPHA}, columns(rows))


def mean_field(run: dict[str, Any], device: str) -> Outcome:
    """Two-layer ReLU networks with 1/m and 1/sqrt(m), on the population loss, m growing.

    Chizat and Bach (2018), the paper's [7]: with 1/m, descent can reach the global minimum as m
    grows. A teacher of three units; students of m units, doubled, so that they begin at zero;
    inputs uniform on the sphere, the expectation in closed form. The same time in the metric of
    each scaling: steps of m times the gradient for 1/m. Losses are shares of the zero function's;
    "minimum" is the least that any training of the linearized student could reach.
    """
    d, draws = run["inputs"], Draws.of(run, device).normal
    teacher, signs = unit_rows(draws(_TEACHERS, d)), draws(_TEACHERS).sign()
    rows = []
    for m in counted(run["widths"], "width"):
        hidden, output = unit_rows(draws(m // 2, d)), draws(m // 2).sign()
        b, a = torch.cat([hidden, hidden]), torch.cat([output, -output])
        null = float(population_loss(0 * a, b, signs, teacher))
        row = {"m": m, "minimum": tangent_population_minimum(b, signs, teacher) / null}
        for name, scale, metric in (("inverse", 1 / m, m), ("root", m**-0.5, 1)):

            def loss(a: Tensor, b: Tensor, scale: float = scale) -> Tensor:
                return population_loss(scale * a, b, signs, teacher)

            weights = (a, b)
            for _ in range(round(run["horizon"] / _STEP)):
                slopes = grad(loss, argnums=(0, 1))(*weights)
                moved = [w - _STEP * metric * s for w, s in zip(weights, slopes, strict=True)]
                weights = (moved[0], moved[1])
            row[name] = float(loss(*weights)) / null
        rows.append(row)
    return Outcome({}, columns(rows))
