"""Theorem 2.4: the over-parameterized case, at all times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from experiments.runs.results import Outcome
from experiments.theory.models import columns, path, small_model
from tangent.laziness.curvature import derivative
from tangent.machine.bars import counted
from tangent.theory.bounds import over_parameterized
from tangent.theory.dynamics import gaps, square_loss


def over_parameterized_path(run: dict[str, Any], device: str) -> Outcome:
    """Theorem 2.4: error under its bound at all times, and uniform distances."""
    h, w0, y, lip = small_model(run, device)
    values = torch.linalg.svdvals(derivative(h, w0))
    d = torch.linspace(1.0, run["condition"], len(y), dtype=torch.float64, device=device)
    constants = {
        "smallest": float(values[-1]),
        "largest": float(values[0]),
        "derivative_lipschitz": lip,
        "distance": 1.0,
        "target": 1.0,
        "convexity": 1.0,
        "smoothness": run["condition"],
    }
    threshold = over_parameterized(1.0, **constants).smallest_alpha
    rate = over_parameterized(1.0, **constants).rate
    times = torch.linspace(0, 4 / rate, 161, dtype=torch.float64, device=device)
    step = 0.05 / (run["condition"] * constants["largest"] ** 2) if run["model"] == "relu" else None
    rows, curves = [], {"time": times.tolist()}
    for multiple in counted(run["multiples"], "alpha"):
        alpha = multiple * threshold
        flow, linear = (
            path(
                h, w0, square_loss(y, d), alpha, times,
                linearized=linear, step=step, rtol=1e-12, atol=1e-14,
            )
            for linear in (False, True)
        )  # fmt: skip
        bound = over_parameterized(alpha, **constants)
        error = (flow.outputs - y).norm(dim=1)
        allowed = bound.factor * (-bound.rate * times).exp()
        found = gaps(flow, linear)
        rows.append(
            {
                "alpha": alpha,
                "error_over_bound": float((error / allowed).max()),
                "fitted_rate": _rate(times, error),
                "guaranteed_rate": rate,
                "weights": found.weights,
                "weights_bound": bound.weights,
                "outputs_gap": found.outputs_gap,
                "outputs_bound": bound.outputs_gap,
                "weights_gap": found.weights_gap,
                "weights_gap_bound": bound.weights_gap,
            }
        )
        curves[f"error_{multiple:g}"] = error.tolist()
    curves["bound"] = allowed.tolist()
    curves |= columns(rows)
    return Outcome({"threshold": threshold, "smallest_singular_value": float(values[-1])}, curves)


def _rate(times: Tensor, error: Tensor) -> float:
    """Of decay, past the faster directions and before rounding."""
    late = error[80:121].log()
    return -float(late[-1] - late[0]) / float(times[120] - times[80])
