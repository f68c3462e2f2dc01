"""What a tangent-kernel prediction rests on: the training rows that speak for and against it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tangent.estimators._dual import DualFit
from tangent.estimators._ensemble import EnsembleKernel


@dataclass(frozen=True)
class Explanation:
    """Scores as sums over training rows (the representer theorem), and what leaving one out does.

    Attributes
    ----------
    rows : ndarray of shape (m,)
        Which rows of the training X the columns are: the first of equal ones, none of weight 0.
    contributions : ndarray of shape (n, m, k)
        Kernel with a training row times its dual coefficients. With ``constant`` they sum to the
        scores.
    constant : ndarray of shape (k,)
    scores : ndarray of shape (n, k)
        Log probabilities up to a constant.
    influence : ndarray of shape (n, m, k) or None
        Scores minus those of the fit without the row, at the same ridge and temperature; exact,
        in closed form. None where there is none: cross entropy, a stopping time, conjugate
        gradients, a full kernel.
    classes : ndarray of shape (k,)
    """

    rows: Int[np.ndarray, " m"]
    contributions: Float[np.ndarray, "n m k"]
    constant: Float[np.ndarray, " k"]
    scores: Float[np.ndarray, "n k"]
    influence: Float[np.ndarray, "n m k"] | None
    classes: np.ndarray

    def speakers(
        self, index: int, *, count: int = 5, by: str = "contributions"
    ) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """Training rows that speak for the predicted class of input ``index``, and against it.

        Parameters
        ----------
        index : int
        count : int
            Of each, at most.
        by : {"contributions", "influence"}

        Returns
        -------
        for_it, against_it : list of (row, value)
            The strongest first.
        """
        if by not in ("contributions", "influence"):
            raise ValueError(f"by must be 'contributions' or 'influence'; got {by!r}")
        values = getattr(self, by)
        if values is None:
            raise ValueError(
                "by='influence' needs a fit with a closed form of leaving one out: loss='square', "
                "solver='exact', time=None and outputs other than 'full'"
            )
        column = values[index, :, int(self.scores[index].argmax())]
        order = np.argsort(column)
        for_it = [(int(self.rows[i]), float(column[i])) for i in order[::-1][:count]]
        against = [(int(self.rows[i]), float(column[i])) for i in order[:count]]
        return [s for s in for_it if s[1] > 0], [s for s in against if s[1] < 0]


def contributions(
    kernel: EnsembleKernel,
    coefficients: Float[Tensor, "m k"],
    x: Tensor,
    rows: Tensor,
    device: str | torch.device,
) -> Float[Tensor, "n m k"]:
    """Kernel values times dual coefficients, input by input and training row by training row."""
    parts = []
    for _, cross in kernel.rows(x, rows, device):
        if cross.ndim == 4:
            parts.append(torch.einsum("naib,ib->nia", cross, coefficients))
        else:
            parts.append(cross[:, :, None] * coefficients)
    return torch.cat(parts)


def influences(
    kernel: EnsembleKernel,
    fit: DualFit,
    targets: Float[Tensor, "m k"],
    x: Tensor,
    rows: Tensor,
    device: str | torch.device,
) -> Float[Tensor, "n m k"]:
    """Predictions minus those of the fits without one row, the ridge as it is.

    Predictions are s(x) . y, and the fit without row i is the fit in which y_i is replaced by its
    own prediction there: f(x) - f_i(x) = s_i(x) (y_i - f_i(x_i)), with the leave-one-out
    predictions f_i(x_i) known from the fit.
    """
    root = fit.root
    shares = root**2 / (root**2).sum() if fit.centring is not None else torch.zeros_like(root)
    values = fit.spectrum.eigenvalues.clamp(min=0) + fit.ridge * fit.unit
    inverse = torch.where(values > 0, 1 / values, 0.0)
    vectors = fit.spectrum.eigenvectors
    parts = []
    for _, cross in kernel.rows(x, rows, device):
        centred = fit.centring.cross(cross) if fit.centring is not None else cross
        smoother = shares + root * (((centred * root) @ vectors) * inverse @ vectors.T)
        parts.append(smoother[:, :, None] * (targets - fit.leave_one_out))
    return torch.cat(parts)
