"""What the theorems speak of, measured: each part of the experiment and what measures it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.runs.results import Context, Outcome
from experiments.theory.finite_horizon import (
    finite_horizon_distances,
    held_out_distances,
    square_loss_distances,
)
from experiments.theory.kappa import kappa_by_width
from experiments.theory.over_parameterized import over_parameterized_path
from experiments.theory.remarks import blind_curvature, mean_field
from experiments.theory.under_parameterized import under_parameterized_path
from experiments.theory.wide import wide
from experiments.usage import UsageError

MEASURES: dict[str, Callable[[dict[str, Any], str], Outcome]] = {
    "finite-horizon": finite_horizon_distances,
    "held-out": held_out_distances,
    "square-loss": square_loss_distances,
    "over-parameterized": over_parameterized_path,
    "under-parameterized": under_parameterized_path,
    "kappa": kappa_by_width,
    "not-necessary": blind_curvature,
    "wide": wide,
    "mean-field": mean_field,
}


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Measure what one theorem speaks of, on one model.

    On the device of the context; models as small as these are faster on the CPU.
    """
    if context.dtype != "float64":
        raise UsageError(f"theory works in float64; got --dtype {context.dtype}")
    return MEASURES[run["part"]](run, context.device)
