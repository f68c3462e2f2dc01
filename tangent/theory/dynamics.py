"""Gradient flows of the scaled objective and of its linearization, for any small model.

For ``F_alpha(w) = R(alpha h(w)) / alpha**2`` (equations (2) to (5) of Chizat et al. 2019) the
scaled displacement ``u = alpha (w - w0)`` obeys ``u' = -Dh(w0 + u/alpha)^T grad R(alpha h)``, and
for the linearized objective ``u' = -Dh(w0)^T grad R(alpha h(w0) + Dh(w0) u)``: no factor 1/alpha
is left, and both keep their digits at every alpha.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp, vjp

from tangent.laziness.curvature import WeightFunction, derivative

__all__ = [
    "ConvexLoss",
    "Flow",
    "FlowError",
    "Gaps",
    "gaps",
    "gradient_flow",
    "logistic_loss",
    "momentum_descent",
    "square_loss",
]

ConvexLoss = Callable[[Float[Tensor, " q"]], Float[Tensor, ""]]


class FlowError(RuntimeError):
    """The integrator gave up; the message says where."""


@dataclass(frozen=True)
class Flow:
    """A path of gradient flow or descent.

    Attributes
    ----------
    times : Tensor of shape (t,)
        Time of the flow; number of steps times the learning rate for a descent.
    displacement : Tensor of shape (t, p)
        u = alpha (w - w0).
    outputs : Tensor of shape (t, q)
        alpha h(w), or alpha h(w0) + Dh(w0) u.
    loss : Tensor of shape (t,)
        R of the outputs, not divided by alpha**2.
    alpha : float
    """

    times: Float[Tensor, " t"]
    displacement: Float[Tensor, "t p"]
    outputs: Float[Tensor, "t q"]
    loss: Float[Tensor, " t"]
    alpha: float


def square_loss(y: Float[Tensor, " q"], weights: Float[Tensor, " q"] | None = None) -> ConvexLoss:
    """``sum_i d_i (f_i - y_i)**2 / 2``; d = 1 by default."""
    d = torch.ones_like(y) if weights is None else weights
    return lambda f: (d * (f - y).square()).sum() / 2


def logistic_loss(y: Float[Tensor, " q"]) -> ConvexLoss:
    """Mean of ``log(1 + exp(-y f))`` for labels y of -1 and 1."""
    return lambda f: torch.nn.functional.softplus(-y * f).mean()


def _outputs(
    h: WeightFunction, w0: Tensor, alpha: float, linearized: bool
) -> Callable[[Tensor], Tensor]:
    """Scaled outputs as a function of the displacement."""
    if not linearized:
        return lambda u: alpha * h(w0 + u / alpha)
    start = alpha * h(w0)
    if h(w0).numel() * w0.numel() <= 4_000_000:
        matrix = derivative(h, w0).detach()
        return lambda u: start + matrix @ u
    return lambda u: start + jvp(h, (w0,), (u,))[1]


def _check(alpha: float, w0: Tensor) -> None:
    if not alpha > 0 or alpha == float("inf"):
        raise ValueError(
            f"alpha must be positive and finite; got {alpha}; take linearized=True for the limit"
        )
    if w0.dtype != torch.float64:
        raise ValueError(f"w0 must be float64, which the integrator works in; got {w0.dtype}")


def gradient_flow(
    h: WeightFunction,
    w0: Float[Tensor, " p"],
    loss: ConvexLoss,
    alpha: float,
    times: Sequence[float] | Float[Tensor, " t"],
    *,
    linearized: bool = False,
    rtol: float = 1e-10,
    atol: float = 1e-12,
) -> Flow:
    """Flow (4) of the scaled objective, or flow (5) of its linearization, from w0.

    Parameters
    ----------
    h : callable
        Outputs as a function of the weights (`tangent.laziness.curvature.weight_function`).
    w0 : Tensor of shape (p,)
        In float64.
    loss : callable
        R, from outputs (q,) to a number; differentiable, convex for the theorems.
    alpha : float
    times : sequence of float
        Increasing, from 0 or later; the path is kept there.
    linearized : bool
    rtol, atol : float
        Of the eighth-order Runge-Kutta integrator (SciPy's DOP853) on u.

    Returns
    -------
    Flow
        On the device of ``w0``, where h is evaluated; the integrator itself works on the CPU.

    Raises
    ------
    ValueError
        If alpha is not positive and finite or w0 not in float64.
    FlowError
        If the integrator stops early, as it does when the outputs overflow.
    """
    from scipy.integrate import solve_ivp

    _check(alpha, w0)
    outputs = _outputs(h, w0, alpha, linearized)
    slope = grad(loss)

    def velocity(_: float, u: np.ndarray) -> np.ndarray:
        f, pull = vjp(outputs, torch.from_numpy(u).to(w0.device))
        # outputs are functions of u: their pull-back is Dh^T, without a factor alpha
        return -pull(slope(f))[0].cpu().numpy()

    points = np.asarray(times, dtype=float)
    with torch.no_grad():
        found = solve_ivp(
            velocity,
            (0.0, float(points[-1])),
            np.zeros(w0.numel()),
            method="DOP853",
            t_eval=points,
            rtol=rtol,
            atol=atol,
        )
    if not found.success:
        raise FlowError(f"gradient flow stopped at alpha={alpha}: {found.message}")
    u, at = (torch.from_numpy(a).to(w0.device) for a in (found.y.T.copy(), points))
    return _flow(u, at, outputs, loss, alpha)


def _flow(
    u: Tensor, times: Tensor, outputs: Callable[[Tensor], Tensor], loss: ConvexLoss, alpha: float
) -> Flow:
    with torch.no_grad():
        f = torch.stack([outputs(point) for point in u])
        return Flow(times, u, f, torch.stack([loss(point) for point in f]), alpha)


def momentum_descent(
    h: WeightFunction,
    w0: Float[Tensor, " p"],
    loss: ConvexLoss,
    alpha: float,
    lr: float,
    steps: int,
    *,
    momentum: float = 0.0,
    linearized: bool = False,
    keep_every: int = 1,
) -> Flow:
    """Gradient descent with heavy-ball momentum on the same objectives, for comparison.

    As ``lr`` goes to 0 it approaches `gradient_flow` at time ``steps * lr / (1 - momentum)``,
    which is the time it reports.
    """
    _check(alpha, w0)
    outputs = _outputs(h, w0, alpha, linearized)
    slope = grad(loss)
    u, velocity = torch.zeros_like(w0), torch.zeros_like(w0)
    kept, times = [u], [0.0]
    with torch.no_grad():
        for t in range(1, steps + 1):
            f, pull = vjp(outputs, u)
            velocity = momentum * velocity + pull(slope(f))[0]
            u = u - lr * velocity
            if t % keep_every == 0 or t == steps:
                kept.append(u)
                times.append(t * lr / (1 - momentum))
    return _flow(torch.stack(kept), w0.new_tensor(times), outputs, loss, alpha)


@dataclass(frozen=True)
class Gaps:
    """Largest distances over the times of two flows from the same weights.

    Attributes
    ----------
    weights : float
        sup |w - w0|.
    weights_gap : float
        sup |w - wbar|, wbar the linearized flow.
    outputs_gap : float
        sup |alpha h(w) - alpha hbar(wbar)|.
    """

    weights: float
    weights_gap: float
    outputs_gap: float


def gaps(flow: Flow, linearized: Flow) -> Gaps:
    """The three distances of Theorems 2.2 and 2.4, over the times kept."""
    if flow.alpha != linearized.alpha or len(flow.times) != len(linearized.times):
        raise ValueError("flow and linearized must have the same alpha and times")
    return Gaps(
        weights=float(flow.displacement.norm(dim=1).max()) / flow.alpha,
        weights_gap=float((flow.displacement - linearized.displacement).norm(dim=1).max())
        / flow.alpha,
        outputs_gap=float((flow.outputs - linearized.outputs).norm(dim=1).max()),
    )
