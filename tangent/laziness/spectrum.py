"""The head of a kernel's spectrum, and what is known of its errors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class SpectrumHead:
    """Eigenvalues at the head of a symmetric positive semidefinite operator, largest first.

    Attributes
    ----------
    values : Tensor of shape (count,)
        float64.
    errors : Tensor of shape (count,)
        An eigenvalue lies within this distance of each value: the residual of its vector; zeros
        where all eigenvalues were computed.
    upper : float
        The largest eigenvalue from above: but for a chance of one in a thousand over the start
        (`tangent.solve.lanczos`), and exact where all eigenvalues were computed.
    trace : float
        Sum of all eigenvalues, exact or estimated.
    trace_error : float
        Standard error of ``trace``.
    exact : bool
        Whether all eigenvalues are there, to rounding.
    """

    values: Float[Tensor, " count"]
    errors: Float[Tensor, " count"]
    upper: float
    trace: float
    trace_error: float
    exact: bool

    @property
    def effective_rank(self) -> float:
        """Trace over the largest eigenvalue."""
        return self.trace / float(self.values[0])


def whole_spectrum(kernel: Float[Tensor, "q q"]) -> SpectrumHead:
    """All eigenvalues of a kernel that fits in memory."""
    values = torch.linalg.eigvalsh(kernel.double()).flip(0).clamp(min=0)
    return SpectrumHead(
        values, torch.zeros_like(values), float(values[0]), float(values.sum()), 0.0, True
    )
