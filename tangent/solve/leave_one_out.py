"""Approximate leave-one-out for cross entropy, from one fit.

At its minimum the fit is that of a weighted least-squares problem (its Newton step), whose
leave-one-out residuals have a closed form (Opper & Winther 2000; Rad & Maleki 2020). The Hessian
of the softmax is taken class by class: ``p (1 - p) k / (k - 1)``, which is exact, since outputs
sum to a constant, for two classes and for equal probabilities.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def cross_entropy_leave_one_out(
    kernel: Float[Tensor, "n n"],
    outputs: Float[Tensor, "n k"],
    target: Float[Tensor, "n k"],
    ridge: float,
    sample_weight: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, "n k"]:
    """Outputs at each input of the fit without it, to first order.

    Parameters
    ----------
    kernel : Tensor of shape (n, n)
        Shared across outputs, float64.
    outputs : Tensor of shape (n, k)
        Of the fit: `tangent.solve.newton.cross_entropy_solution`.
    target : Tensor of shape (n, k)
        Probabilities; rows sum to 1.
    ridge : float
    sample_weight : Tensor of shape (n,), optional

    Notes
    -----
    One Cholesky factorization and inverse of an n x n matrix a class (one in all for two
    classes without an initial output, whose outputs are each other's negative).
    """
    k = outputs.shape[1]
    weight = outputs.new_ones(len(outputs)) if sample_weight is None else sample_weight
    p = torch.softmax(outputs, dim=1)
    mirrored = k == 2 and torch.allclose(outputs.sum(1), outputs.new_zeros(1))
    left = torch.empty_like(outputs)
    for c in range(1 if mirrored else k):
        pull = target[:, c] - p[:, c]
        curvature = (p[:, c] * (1 - p[:, c]) * k / (k - 1)).clamp(min=1e-10)
        system = kernel.clone()
        system.diagonal().add_(ridge / (weight * curvature))
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(system)).diagonal()
        residual = weight * pull / ridge / inverse  # of the weighted least squares, left out
        left[:, c] = outputs[:, c] + pull / curvature - residual
    if mirrored:
        left[:, 1] = -left[:, 0]
    return left
