"""The constants of Theorems 2.2 to 2.5 of Chizat, Oyallon and Bach 2019, as functions.

E is the initial distance ``|alpha h(w0) - y*|`` throughout. Time is that of the gradient flows of
``R(alpha h)/alpha**2`` and of its linearization. The paper prints the constants of Theorem 2.3(ii)
and the C0 of Theorem 2.4; the others are those its proofs give.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "FiniteHorizon",
    "OverParameterized",
    "SquareLossBound",
    "finite_horizon",
    "kappa_order",
    "over_parameterized",
    "square_loss_bound",
    "under_parameterized_rate",
]


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value!r}")


@dataclass(frozen=True)
class FiniteHorizon:
    """Theorem 2.2: any smooth loss, fixed time.

    Attributes
    ----------
    weights : float
        Bound on sup |w - w0| up to the time given.
    orders : tuple of float
        Exponents of alpha in sup |w - w0|, sup |w - wbar| and sup |alpha h(w) - alpha hbar(wbar)|.
    """

    weights: float
    orders: tuple[float, float, float] = (-1.0, -2.0, -1.0)


def finite_horizon(alpha: float, time: float, loss: float) -> FiniteHorizon:
    """Theorem 2.2: ``sqrt(T R(alpha h(w0))) / alpha``, by Cauchy-Schwarz along the flow.

    Parameters
    ----------
    alpha, time : float
    loss : float
        R(alpha h(w0)), for a loss whose infimum is at least 0.
    """
    _positive(alpha=alpha, time=time)
    return FiniteHorizon(math.sqrt(time * loss) / alpha)


@dataclass(frozen=True)
class SquareLossBound:
    """Theorem 2.3: square loss, explicit constants, up to ``horizon``.

    Attributes
    ----------
    horizon : float
        T = K / L**2.
    smallest_alpha : float
        The theorem holds from here on.
    weights : float
        Bound on |w(T) - w0|, the smaller of ``K E/(alpha L)`` and ``sqrt(K/2) E/(alpha L)``.
    outputs : float
        Bound on ``|alpha h(w(T)) - alpha hbar(wbar(T))| / E``.
    weights_gap : float
        Bound on |w(T) - wbar(T)|.
    """

    horizon: float
    smallest_alpha: float
    weights: float
    outputs: float
    weights_gap: float


def square_loss_bound(
    alpha: float, k: float, distance: float, lipschitz: float, derivative_lipschitz: float,
    radius: float = math.inf,
) -> SquareLossBound:  # fmt: skip
    """Theorem 2.3 for ``R = |y - y*|**2 / 2``.

    Parameters
    ----------
    alpha : float
    k : float
        K: time in units of 1/L**2.
    distance : float
        E = |alpha h(w0) - y*|.
    lipschitz, derivative_lipschitz : float
        L and Lip(Dh) on the ball of ``radius`` around w0.
    radius : float
    """
    _positive(alpha=alpha, k=k, lipschitz=lipschitz, radius=radius)
    ratio = distance / (alpha * lipschitz)
    return SquareLossBound(
        horizon=k / lipschitz**2,
        smallest_alpha=k * distance / (radius * lipschitz),
        weights=min(k, math.sqrt(k / 2)) * ratio,
        outputs=k**2 * derivative_lipschitz * ratio / lipschitz,
        weights_gap=derivative_lipschitz / lipschitz * ratio**2 * (k**2 / 2 + k**3 / 3),
    )


@dataclass(frozen=True)
class OverParameterized:
    """Theorem 2.4: strongly convex loss, Dh(w0) onto, all times.

    Attributes
    ----------
    c0 : float
        The constant |h(w0)| must stay below.
    smallest_alpha : float
        |y*| / c0.
    factor, rate : float
        ``|alpha h(w(t)) - y*| <= factor * E * exp(-rate * t)``.
    weights : float
        Bound on sup |w - w0|, of order 1/alpha.
    outputs_gap : float
        Bound on sup |alpha h(w) - alpha hbar(wbar)|, of order 1/alpha.
    weights_gap : float
        Bound on sup |w - wbar|, of order 1/alpha**2: the paper's log(alpha) can be removed.
    """

    c0: float
    smallest_alpha: float
    factor: float
    rate: float
    weights: float
    outputs_gap: float
    weights_gap: float


def over_parameterized(
    alpha: float,
    *,
    smallest: float,
    largest: float,
    derivative_lipschitz: float,
    distance: float,
    target: float,
    convexity: float = 1.0,
    smoothness: float = 1.0,
) -> OverParameterized:
    """Theorem 2.4.

    Parameters
    ----------
    alpha : float
    smallest, largest : float
        Singular values of Dh(w0): the smallest of its transpose, positive, and the largest.
    derivative_lipschitz : float
        Lip(Dh).
    distance, target : float
        E = |alpha h(w0) - y*| and |y*|.
    convexity, smoothness : float
        m and M of the loss.

    Raises
    ------
    ValueError
        If ``smallest`` is not positive: the theorem wants Dh(w0) onto.
    """
    _positive(alpha=alpha, smallest=smallest, convexity=convexity)
    condition = smoothness / convexity
    s, lip, gap = smallest, derivative_lipschitz, distance
    c0 = s**3 / (32 * condition**1.5 * largest * lip)
    outputs = 20 * condition**3 * lip * largest**3 * gap**2 / s**5
    first = 32 * condition**3 * lip * largest * gap**2 / s**4
    second = 16 / 3 * condition * outputs * largest / s**2
    return OverParameterized(
        c0=c0,
        smallest_alpha=target / c0,
        factor=math.sqrt(condition),
        rate=convexity * s**2 / 4,
        weights=8 * condition**1.5 * largest * gap / (alpha * s**2),
        outputs_gap=outputs / alpha,
        weights_gap=(first + second) / alpha**2,
    )


def under_parameterized_rate(smallest: float, convexity: float = 1.0) -> float:
    """Theorem 2.5: asymptotic rate at which ``F - F_inf`` decays, for every large alpha.

    Twice m times the square of the smallest non-zero singular value of Dh(w0); exact for the
    square loss as alpha goes to infinity.
    """
    _positive(smallest=smallest, convexity=convexity)
    return 2 * convexity * smallest**2


def kappa_order(m: int, alpha: float) -> float:
    """Order of kappa for a two-layer network ``alpha * sum`` of m units: m^-1/2 + 1/(m alpha)."""
    _positive(m=m, alpha=alpha)
    return m**-0.5 + 1 / (m * alpha)
