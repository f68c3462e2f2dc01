"""Kernel ridge regression on weighted class indicators, the ridge taken by leaving rows out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import cho_solve
from torch import Tensor

from baselines.moments import best_of, gcv, left_out_accuracy
from tangent.solve.cholesky import factor_in_place, inverse_diagonal


@dataclass(frozen=True)
class KernelSolution:
    """Dual coefficients and how the ridge was taken."""

    dual: np.ndarray
    """(n, k), float64."""
    alpha: float
    gcv: dict[float, float]
    """Generalized cross-validation error of each candidate; empty for a single one."""
    accuracies: dict[float, float]
    """Leave-one-out accuracy of each candidate; empty for a single one."""


def weighted_kernel_ridge(
    kernel: Float[Tensor, "n n"],
    targets: Float[np.ndarray, "n k"],
    weight: Float[np.ndarray, " n"],
    alphas: tuple[float, ...],
) -> KernelSolution:
    """Solve (K + alpha / weight) a = targets in float64, for the best of several ridges.

    Parameters
    ----------
    kernel : Tensor of shape (n, n)
        The upper triangle is read; kept as it is.
    targets : ndarray of shape (n, k)
        Centred class indicators.
    weight : ndarray of shape (n,)
        Above zero; two is a row twice.
    alphas : tuple of float
        Of several, the one with the best leave-one-out accuracy, in closed form, is taken; at a
        tie the one with the least generalized cross-validation error.

    Notes
    -----
    n^2 values in float64; n^3 / 6 multiply-adds an alpha and as many again where there are several.
    """
    root = np.sqrt(weight)
    right = targets * root[:, None]
    duals, errors, accuracies = {}, {}, {}
    for alpha in alphas:
        # Made symmetric by the roots of the weights.
        matrix = kernel.to(torch.float64, copy=True).numpy()
        matrix *= root
        matrix *= root[:, None]
        matrix[np.diag_indices_from(matrix)] += alpha
        factor_in_place(matrix.T)
        dual = cho_solve((matrix.T, True), right, check_finite=False)
        duals[alpha] = dual * root[:, None]
        if len(alphas) > 1:
            leverages = 1 - alpha * inverse_diagonal(matrix.T)
            squares = float(alpha**2 * (dual**2).sum())
            errors[alpha] = gcv(squares, float(leverages.sum()), float(weight.sum()))
            residuals = alpha * dual / root[:, None]
            accuracies[alpha] = left_out_accuracy(targets, residuals, leverages, weight)
        del matrix
    alpha = best_of(errors, accuracies) if len(alphas) > 1 else alphas[0]
    return KernelSolution(duals[alpha], alpha, errors, accuracies)
