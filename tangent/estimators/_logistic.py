"""Cross entropy in the dual, and the calibration of scores by leaving one out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from tangent.solve.conjugate import UnconvergedWarning
from tangent.solve.leave_one_out import cross_entropy_leave_one_out
from tangent.solve.newton import cross_entropy_solution


@dataclass(frozen=True)
class LogisticFit:
    """Logits are ``cross_kernel @ coefficients + constant``; fields as those of `DualFit`.

    ``error`` is the approximate leave-one-out log loss, after calibration by ``temperature``.
    """

    coefficients: Float[Tensor, "n k"]
    constant: Float[Tensor, " k"]
    leave_one_out: Float[Tensor, "n k"]
    error: float
    ridge: float
    unit: float
    temperature: float


def logistic_fit(
    kernel: Float[Tensor, "n n"],
    target: Float[Tensor, "n k"],
    weights: Float[Tensor, " n"],
    *,
    ridges: Sequence[float],
    intercept: bool,
    coarse: bool = False,
    near: float | None = None,
) -> LogisticFit:
    """Multinomial logistic regression at the ridge of least leave-one-out log loss.

    From the largest ridge down, each starting at the one before, until the loss has risen
    twice. ``intercept`` adds a constant to the kernel, of the size of its mean diagonal entry.
    ``coarse`` takes every third ridge, stops at the first rise and solves to a hundredth: for an
    ``error`` to rank kernels by, at a fifth of the cost. ``near``, the ridge it found, spares the
    ridges more than thirty times as large.
    """
    ridges = sorted(ridges, reverse=True)[:: 3 if coarse else 1]
    ridges = [r for r in ridges if near is None or r <= 32 * near]
    tolerance, patience = (1e-2, 1) if coarse else (1e-4, 2)
    unit = float((weights / weights.sum()) @ kernel.diagonal()) or 1.0
    shift = unit if intercept else 0.0
    kernel = kernel + shift
    best, previous, rises = None, None, 0
    for ridge in ridges:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnconvergedWarning)
            fit = cross_entropy_solution(
                kernel.matmul,
                target,
                ridge * unit,
                sample_weight=weights,
                initial=previous,
                tolerance=tolerance,
                max_iterations=60,
            )
        if not fit.converged and best is not None:
            break  # smaller ridges are harder still
        previous = fit.coefficients
        left = cross_entropy_leave_one_out(kernel, fit.outputs, target, ridge * unit, weights)
        factor, loss = calibration(left, target, weights)
        if best is None or loss < best.error:
            rises = 0
            constant = shift * fit.coefficients.sum(0)
            best = LogisticFit(fit.coefficients, constant, left, loss, ridge, unit, factor)
        else:
            rises += 1
            if rises == patience:
                break
    assert best is not None
    return best


def _log_loss(scores: Tensor, target: Tensor, weights: Tensor) -> float:
    """Weighted mean cross entropy of ``softmax(scores)``."""
    each = -(target * torch.log_softmax(scores, dim=1)).sum(1)
    return float(weights @ each / weights.sum())


def calibration(scores: Tensor, target: Tensor, weights: Tensor) -> tuple[float, float]:
    """Return the factor of the scores with the least log loss, and that loss."""
    aimed = float((weights[:, None] * target * scores).sum())

    def slope(log: float) -> float:
        p = torch.softmax(np.exp(log) * scores, dim=1)
        return float((weights[:, None] * p * scores).sum()) - aimed

    low, high = np.log(0.1), np.log(1e4)
    if slope(low) >= 0:
        found = low
    elif slope(high) <= 0:
        found = high
    else:
        found = brentq(slope, low, high, xtol=1e-12)
    return float(np.exp(found)), _log_loss(np.exp(found) * scores, target, weights)
