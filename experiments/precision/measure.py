"""What a run of `experiments.precision` measures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from experiments.precision.training import Problem
from experiments.runs.results import Context, Outcome
from experiments.usage import UsageError
from tangent.machine.bars import counted


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Train by every method and compare with the float64 oracle."""
    problem = Problem(run, context)
    oracle = problem.trained("direct-float64")
    metrics: dict[str, Any] = {"lr": problem.lr, **oracle.metrics("oracle")}
    curves: dict[str, Any] = {"oracle": oracle.losses}
    for method in counted(run["methods"], "method"):
        with _tf32(method.endswith("tf32"), context.device):
            found = problem.trained(method)
        name = method.replace("-", "_")
        metrics |= found.metrics(name)
        metrics[f"{name}_distance"] = found.distance(oracle)
        metrics[f"{name}_test_distance"] = found.test_distance(oracle)
        curves[name] = found.losses
    return Outcome(metrics, curves)


@contextlib.contextmanager
def _tf32(on: bool, device: str) -> Iterator[None]:
    """Allow TF32 in matrix products and convolutions inside, or forbid it; then as it was."""
    if on and not device.startswith("cuda"):
        raise UsageError("tf32 is a mode of GPUs; take --device cuda, or leave it out")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
