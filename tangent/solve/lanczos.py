"""Lanczos iterations: the head of a spectrum from a few products, with bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Product = Callable[[Float[Tensor, " m"]], Float[Tensor, " m"]]


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


def lanczos(
    product: Product, start: Float[Tensor, " m"], products: int
) -> Iterator[tuple[list[float], list[float]]]:
    """Yield the tridiagonal matrix after every product: its diagonal, and what lies beside it.

    The last entry beside the diagonal belongs to the next vector. Ends early where the space is
    invariant. Vectors are held in float64 and orthogonalized in full; ``product`` is called in
    the dtype of ``start``.
    """
    q = start.double() / start.double().norm()
    basis: list[Tensor] = []
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(max(1, min(products, len(q)))):
        basis.append(q)
        w = product(q.to(start)).double()
        diagonal.append(float(q @ w))
        known = torch.stack(basis)
        for _ in range(2):  # twice is enough
            w = w - known.T @ (known @ w)
        beside.append(float(w.norm()))
        yield diagonal, beside
        if not beside[-1] > _rounding(start) * max(map(abs, diagonal)):
            return
        q = w / beside[-1]


def _rounding(start: Tensor) -> float:
    return 8 * torch.finfo(start.dtype).eps


def ritz_values(
    diagonal: list[float], beside: list[float]
) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Ritz values, largest first, and the residuals of their vectors.

    An eigenvalue lies within the residual of every Ritz value (Parlett 1980, Theorem 4.5.1).
    """
    off = beside[: len(diagonal) - 1]
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))
    residuals = beside[len(diagonal) - 1] * np.abs(vectors[-1])
    return torch.from_numpy(values[::-1].copy()), torch.from_numpy(residuals[::-1].copy())


def upper_bound(diagonal: list[float], beside: list[float], size: int, risk: float = 1e-3) -> float:
    """Bound on the largest eigenvalue, after a random normal start in ``size`` dimensions.

    Parameters
    ----------
    diagonal, beside : list of float
        From `lanczos`.
    size : int
    risk : float
        Chance, over the start, that the bound is below the eigenvalue.

    Notes
    -----
    See `largest_eigenvalue_bounds`.
    """
    ritz = ritz_values(diagonal, beside)[0].numpy()[::-1]
    if not beside[-1] > 0:
        return float(ritz[-1])
    overlap = math.log(risk) + math.log(math.pi / (2 * size)) / 2
    return _root(ritz, sum(map(math.log, beside)) - overlap)


def largest_eigenvalue_bounds(
    product: Product,
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
    rounding = _rounding(start)
    lower = upper = 0.0
    products = 0
    for diagonal, beside in lanczos(product, start, iterations):
        products = len(diagonal)
        lower = upper = float(ritz_values(diagonal, beside)[0][0])
        if not beside[-1] > rounding * abs(lower):
            break  # the space is invariant: with a random start the Ritz value is the eigenvalue
        upper = upper_bound(diagonal, beside, start.numel(), risk)
        if upper <= (1 + tolerance) * lower:
            break
    return EigenvalueBounds(lower, upper * (1 + 2 * rounding), products)


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
