"""Theorems 2.2 and 2.3 and Proposition A.1: both models' distance up to a finite time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch.func import jvp

from experiments.runs.results import Outcome
from experiments.theory.models import (
    LOSSES,
    Draws,
    centred,
    columns,
    descent_step,
    path,
    small_model,
    two_layer,
    unit_rows,
)
from tangent.laziness.curvature import derivative
from tangent.machine.bars import counted
from tangent.theory.bounds import finite_horizon, square_loss_bound
from tangent.theory.dynamics import gaps, square_loss


def finite_horizon_distances(run: dict[str, Any], device: str) -> Outcome:
    """Theorem 2.2: three distances up to a fixed time, at every alpha."""
    draws = Draws.of(run, device)
    n, d, m = 10, 3, 20
    x, y = unit_rows(draws.normal(n, d)), draws.normal(n).sign()
    w0 = draws.normal(m * (d + 1))
    h = centred(two_layer(x, m, m**-0.5, run["model"]), w0)
    loss = LOSSES[run["loss"]](y)
    times = torch.linspace(0, run["horizon"], 101, dtype=torch.float64)
    step = descent_step(run, run["horizon"])
    rows = []
    for alpha in counted(run["alphas"], "alpha"):
        flow, linear = (
            path(h, w0, loss, alpha, times, linearized=linearized, step=step)
            for linearized in (False, True)
        )
        bound = finite_horizon(alpha, run["horizon"], float(loss(alpha * h(w0))))
        found = asdict(gaps(flow, linear))
        rows.append({"alpha": alpha, **found, "weights_bound": bound.weights})
    return Outcome({}, curves=columns(rows))


def held_out_distances(run: dict[str, Any], device: str) -> Outcome:
    """Proposition A.1: the two models' distance after training, on training and other inputs."""
    draws = Draws.of(run, device)
    n, d, m = 10, 3, 20
    x, y, others = unit_rows(draws.normal(n, d)), draws.normal(n).sign(), draws.normal(500, d)
    w0 = draws.normal(m * (d + 1))
    h = centred(two_layer(x, m, m**-0.5, run["model"]), w0)
    everywhere = two_layer(torch.cat([x, unit_rows(others)]), m, m**-0.5, run["model"])
    times = torch.tensor([0.0, run["horizon"]], dtype=torch.float64)
    rows = []
    for alpha in counted(run["alphas"], "alpha"):
        u, linear = (
            path(h, w0, square_loss(y), alpha, times, linearized=which).displacement[-1]
            for which in (False, True)
        )
        _, moved = jvp(everywhere, (w0,), (linear,))
        gap = (alpha * (everywhere(w0 + u / alpha) - everywhere(w0)) - moved).abs()
        rows.append({"alpha": alpha, "seen": float(gap[:n].max()), "others": float(gap[n:].max())})
    return Outcome({}, curves=columns(rows))


def square_loss_distances(run: dict[str, Any], device: str) -> Outcome:
    """Theorem 2.3: distances at T = K / L**2 beside their bounds, for every K and alpha."""
    h, w0, y, lip = small_model(run, device)
    radius = 0.5
    lipschitz = float(torch.linalg.matrix_norm(derivative(h, w0), ord=2)) + radius * lip
    rows = []
    for k in counted(run["ks"], "K"):
        for alpha in counted(run["alphas"], "alpha"):
            bound = square_loss_bound(alpha, k, 1.0, lipschitz, lip, radius)
            times = torch.tensor([0.0, bound.horizon], dtype=torch.float64)
            step = descent_step(run, bound.horizon)
            pair = [
                path(h, w0, square_loss(y), alpha, times, linearized=linear, step=step, rtol=1e-10)
                for linear in (False, True)
            ]
            found = gaps(*pair)
            rows.append(
                {
                    "k": k,
                    "alpha": alpha,
                    "allowed": alpha >= bound.smallest_alpha,
                    "outputs_gap": found.outputs_gap,
                    "outputs_bound": bound.outputs,
                    "weights": found.weights,
                    "weights_bound": bound.weights,
                    "weights_gap": found.weights_gap,
                    "weights_gap_bound": bound.weights_gap,
                }
            )
    return Outcome({}, curves=columns(rows))
