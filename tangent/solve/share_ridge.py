"""Ridge regression on a weighted sum of kernels, weights and ridge taken by leaving one out.

The kernel of a network is the sum of the shares of its layers. How much each layer moves is a
choice like the ridge is, and both can be made on the training inputs alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tangent.solve.cholesky import inverse_diagonal
from tangent.solve.system import check_memory, check_ridge

_POWER_STEPS = 20


@dataclass(frozen=True)
class ShareRidge:
    """A ridge regression on ``sum(c * K for c, K in zip(coefficients, shares))``.

    Attributes
    ----------
    coefficients : tuple of float
        Weight over mean centred diagonal, of each share.
    weights : tuple of float
        The weights taken.
    ridge : float
        The ridge taken.
    dual : Tensor of shape (n, k)
        float64; every column sums to zero.
    constant : Tensor of shape (k,)
        Added to ``(sum of c K(new, old)) @ dual``.
    left_out : dict
        Leave-one-out accuracy (of the largest output) of every pair (weights, ridge).
    left_out_outputs : Tensor of shape (n, k)
        What the fit without each input predicts there, of the pair taken.
    condition_number : float
        Of centred kernel plus ridge, of the pair taken; its largest eigenvalue by power
        iteration, over the ridge.
    """

    coefficients: tuple[float, ...]
    weights: tuple[float, ...]
    ridge: float
    dual: Tensor
    constant: Tensor
    left_out: dict[tuple[tuple[float, ...], float], float]
    left_out_outputs: Tensor
    condition_number: float

    def predict(self, shares: Iterable[Float[Tensor, "m n"]]) -> Float[Tensor, "m k"]:
        """Outputs at new inputs from each share's kernel with the fitted ones."""
        total = self.constant
        for coefficient, share in zip(self.coefficients, shares, strict=True):
            # In the share's own dtype: a float64 copy of it may be all of the memory.
            total = total + coefficient * (share @ self.dual.to(share.dtype)).double()
        return total


def share_ridge(
    shares: Sequence[Tensor],
    y: Tensor,
    weights: Sequence[tuple[float, ...]],
    ridges: Sequence[float],
) -> ShareRidge:
    """Fit targets with an unpenalized constant for the best of several weights and ridges.

    Parameters
    ----------
    shares : sequence of Tensor of shape (n, n)
        Symmetric positive semidefinite; kept as they are.
    y : Tensor of shape (n, k)
        One-hot, or any targets of which the largest is the class.
    weights : sequence of tuple of float
        Mean diagonal of each share in the sum, once centred; at least 0.
    ridges : sequence of float
        Above 0, in units of the sum's diagonal.

    Returns
    -------
    ShareRidge
        Of the best leave-one-out accuracy, at a tie the largest ridge.

    Raises
    ------
    ValueError
        If an argument breaks its rule.
    MemoryError
        Before any work, if two float64 matrices of n rows would not fit.

    Notes
    -----
    One Cholesky factorization in float64 and the diagonal of the inverse, n^3 / 3 multiply-adds,
    for every pair; leave-one-out is exact, the constant left out with the input.
    """
    _check(shares, y, weights)
    ridges = sorted({check_ridge(r) for r in ridges}, reverse=True)
    if not ridges or ridges[-1] == 0:
        raise ValueError(f"ridges must be above 0; got {ridges}")
    check_memory(
        len(y),
        3,
        "leave-one-out over shares",
        "take tangent.solve.NormalEquations",
    )
    targets = y.double()
    centred_targets = targets - targets.mean(0)
    labels = targets.argmax(1)
    scales = [_centred_diagonal(share) for share in shares]
    found: dict[tuple[tuple[float, ...], float], float] = {}
    best: tuple[float, tuple[float, ...], float, Tensor, Tensor] | None = None
    for choice in weights:
        kernel = _centred_sum(shares, [w / s for w, s in zip(choice, scales, strict=True)])
        for ridge in ridges:
            dual, residual = _left_out(kernel, centred_targets, ridge)
            left_out = targets - residual
            accuracy = float((left_out.argmax(1) == labels).double().mean())
            found[choice, ridge] = accuracy
            if best is None or accuracy > best[0]:
                best = accuracy, choice, ridge, dual, left_out
    assert best is not None
    _, choice, ridge, dual, left_out = best
    coefficients = tuple(w / s for w, s in zip(choice, scales, strict=True))
    kernel = _centred_sum(shares, coefficients)
    largest = _largest_eigenvalue(kernel)
    # Uncentred kernels predict the same up to a constant, since the dual sums to zero.
    constant = targets.mean(0)
    for coefficient, share in zip(coefficients, shares, strict=True):
        constant = constant - coefficient * (share.mean(0, dtype=torch.float64) @ dual)
    return ShareRidge(
        coefficients,
        choice,
        ridge,
        dual,
        constant,
        found,
        left_out,
        (largest + ridge) / ridge,
    )


def _check(shares: Sequence[Tensor], y: Tensor, weights: Sequence[tuple[float, ...]]) -> None:
    if not shares or y.ndim != 2:
        raise ValueError(
            f"shares must hold a kernel and y be of shape (n, k); got {len(shares)} kernels and y "
            f"of shape {tuple(y.shape)}"
        )
    for share in shares:
        if share.shape != (len(y), len(y)):
            raise ValueError(
                f"shares must be of shape ({len(y)}, {len(y)}), as y has {len(y)} rows; got "
                f"{tuple(share.shape)}"
            )
    wrong = [w for w in weights if len(w) != len(shares) or min(w) < 0 or max(w) <= 0]
    if wrong or not weights:
        raise ValueError(
            f"weights must be tuples of {len(shares)} numbers, at least 0 and not all 0; got "
            f"{wrong or weights}"
        )


def _centred_diagonal(kernel: Tensor) -> float:
    mean = float(kernel.diagonal().double().mean()) - float(kernel.mean(dtype=torch.float64))
    if not mean > 0:
        raise ValueError("shares must have more than a constant in them; one has a centred trace 0")
    return mean


def _centred_sum(shares: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    kernel = torch.zeros(len(shares[0]), len(shares[0]), dtype=torch.float64)
    for coefficient, share in zip(coefficients, shares, strict=True):
        if coefficient:
            kernel.add_(share, alpha=coefficient)
    means = kernel.mean(0)
    kernel.sub_(means).sub_(means[:, None] - means.mean())
    return kernel


def _left_out(kernel: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Dual coefficients, and targets less what the fit without each input predicts there."""
    shifted = kernel.clone()
    shifted.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(shifted)
    del shifted
    dual = torch.cholesky_solve(targets, factor)
    inverse = torch.from_numpy(inverse_diagonal(factor.numpy()))
    slack = ridge * inverse - 1 / len(targets)
    return dual, ridge * dual / slack[:, None]


def _largest_eigenvalue(kernel: Tensor) -> float:
    vector = torch.cos(torch.arange(len(kernel), dtype=torch.float64) + 1)
    for _ in range(_POWER_STEPS):
        vector = kernel @ (vector / vector.norm())
    return float(vector.norm())
