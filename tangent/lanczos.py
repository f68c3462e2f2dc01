"""The largest eigenvalue of a symmetric operator from a few products, bounded from both sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["EigenvalueBounds", "largest_eigenvalue_bounds"]


@dataclass(frozen=True)
class EigenvalueBounds:
    """What a few products tell of the largest eigenvalue.

    Attributes
    ----------
    lower : float
        A Ritz value: never above the eigenvalue, up to rounding.
    upper : float
        Below the eigenvalue with a chance of at most ``risk`` over the starting vector.
    products : int
        Products that were taken.
    """

    lower: float
    upper: float
    products: int


def largest_eigenvalue_bounds(
    product: Callable[[Float[Tensor, " m"]], Float[Tensor, " m"]],
    start: Float[Tensor, " m"],
    *,
    iterations: int = 24,
    tolerance: float = 0.05,
    risk: float = 1e-3,
) -> EigenvalueBounds:
    """Bounds on the largest eigenvalue of a positive semidefinite operator, by Lanczos.

    Parameters
    ----------
    product : callable
        ``product(v)`` is K v; K is never formed.
    start : Tensor of shape (m,)
        Normal random numbers: the upper bound rests on their being so.
    iterations : int
        Products at most.
    tolerance : float
        Stop once ``upper <= (1 + tolerance) * lower``.
    risk : float
        Chance, over ``start``, that the upper bound is below the eigenvalue.

    Returns
    -------
    EigenvalueBounds
        Holds ``iterations`` vectors in float64, orthogonalized in full.

    Notes
    -----
    A small residual says that *an* eigenvalue is near, not that it is the largest: where the
    leading ones are close, power iteration and Ritz value plus residual both end below it. Here,
    the next Lanczos vector is p(K) q1 with ``p(t) = prod(t - theta_i) / prod(beta_j)`` and has
    norm 1, so that ``|p(lambda)| |<q1, v>| <= 1`` for the leading eigenvector v; a random unit
    vector has ``|<q1, v>| > risk sqrt(pi / (2 m))`` but for the chance ``risk``, and the root of
    p = 1 / that is the bound (van Dorsselaer, Hochstenbach and van der Vorst 2000). Rounding of
    the products is allowed for by 16 epsilon of their dtype.
    """
    q = start.double() / start.double().norm()
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    overlap = math.log(risk) + math.log(math.pi / (2 * len(q))) / 2
    rounding = 8 * torch.finfo(start.dtype).eps
    lower = upper = 0.0
    for _ in range(max(1, min(iterations, len(q)))):
        basis.append(q)
        w = product(q.to(start)).double()
        diagonal.append(float(q @ w))
        known = torch.stack(basis)
        for _ in range(2):  # twice is enough
            w = w - known.T @ (known @ w)
        beside.append(float(w.norm()))
        ritz = _ritz_values(diagonal, beside)
        lower = upper = float(ritz[-1])
        if not beside[-1] > rounding * abs(lower):
            break  # the space is invariant: with a random start the Ritz value is the eigenvalue
        upper = _root(ritz, sum(map(math.log, beside)) - overlap)
        if upper <= (1 + tolerance) * lower:
            break
        q = w / beside[-1]
    return EigenvalueBounds(lower, upper * (1 + 2 * rounding), len(basis))


def _ritz_values(diagonal: list[float], beside: list[float]) -> np.ndarray:
    off = beside[: len(diagonal) - 1]
    return np.linalg.eigvalsh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))


def _root(ritz: np.ndarray, target: float) -> float:
    """Where the sum of log(t - ritz) is ``target``, to the right of all, by bisection."""
    low = float(ritz[-1])
    high = low + math.exp(target / len(ritz))  # all factors at least as large as the last
    for _ in range(60):
        middle = (low + high) / 2
        if middle > ritz[-1] and np.log(middle - ritz).sum() > target:
            high = middle
        else:
            low = middle
    return high
