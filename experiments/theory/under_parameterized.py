"""Theorem 2.5: the under-parameterized case, one unit that ends at a local minimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import grad, hessian

from experiments.runs.results import Outcome
from experiments.theory.models import ACTIVATIONS, Draws, centred, columns, path, two_layer
from tangent.laziness.curvature import WeightFunction, derivative, derivative_rank
from tangent.machine.bars import counted
from tangent.theory.dynamics import ConvexLoss, gradient_flow, square_loss

_STARTS = 8  # of the search for a lower loss than the linearized model's


def under_parameterized_path(run: dict[str, Any], device: str) -> Outcome:
    """Theorem 2.5: one unit; decay to a local minimum, at every alpha.

    The space of functions is that of 200 normal inputs, or of all of them: the population loss.
    At the end of every flow the gradient and the smallest eigenvalue of the Hessian of
    ``R(alpha h(w0 + u/alpha))`` in u are taken, which say whether it is at a local minimum.
    """
    draws = Draws.of(run, device)
    activation, _, kind = run["model"].partition("-")
    phi = ACTIVATIONS[activation]
    if kind == "population":
        x, share = (t.to(device) for t in _normal_nodes(3))
    else:
        x = draws.normal(200, 3)
        share = torch.full_like(x[:, 0], 1 / len(x))
    y = torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1] - 0.3 * x[:, 2] ** 2
    y = y * share.sqrt()
    w0 = draws.normal(3) / 2
    h, loss = _unit(x, w0, phi, share), square_loss(y)
    values = torch.linalg.svdvals(derivative(h, w0))
    smallest = float(values[-1])
    times = torch.linspace(0, 14 / smallest**2, 113, dtype=torch.float64, device=device)
    step = 0.02 / float(values[0]) ** 2 if run["model"] == "relu-unit" else None
    curves: dict[str, Any] = {"time": times.tolist()}
    rows = []
    for alpha in counted(run["alphas"], "alpha"):
        flow = path(h, w0, loss, alpha, times, step=step, atol=1e-13)
        above = (flow.loss - flow.loss[-1]).clamp(min=1e-300)
        # slope where the loss above its limit has fallen a thousandfold and more
        inside = (above < 1e-3 * above[0]) & (above > 1e-8 * above[0])
        curves[f"above_{alpha:g}"] = above.tolist()
        rows.append(
            {
                "alpha": alpha,
                "rate": _slope(times[inside], -above[inside].log()),
                "limit": float(flow.loss[-1]),
                **_stationarity(h, w0, loss, alpha, flow.displacement[-1]),
            }
        )
    curves |= columns(rows)
    doubled, near = _doubled_ranks(draws)
    metrics = {
        "linear_rate": 2 * smallest**2,
        "linear_optimum": _linear_optimum(h, w0, y),
        "rank_doubled": doubled,
        "rank_near_doubled": near,
        "rank_centred": derivative_rank(h, w0),
        "rank_near_centred": derivative_rank(h, w0 + 0.05 * draws.normal(3)),
    }
    if run["model"] == "tanh-unit":
        metrics |= {"starts": _STARTS, "escapes": _escapes(draws, x, y)}
    return Outcome(metrics, curves)


def _unit(x: Tensor, w0: Tensor, phi: Callable[[Tensor], Tensor], share: Tensor) -> WeightFunction:
    """One centred unit, in the norm of the function space where input i has weight share_i."""
    return centred(lambda w: phi(x @ w) * share.sqrt(), w0)


def _normal_nodes(d: int, count: int = 16) -> tuple[Tensor, Tensor]:
    """Inputs and weights for which sums are expectations over N(0, I) (Gauss and Hermite)."""
    line, weight = np.polynomial.hermite_e.hermegauss(count)
    nodes = np.stack(np.meshgrid(*[line] * d, indexing="ij"), axis=-1).reshape(-1, d)
    shares = np.stack(np.meshgrid(*[weight] * d, indexing="ij"), axis=-1).reshape(-1, d).prod(1)
    return torch.from_numpy(nodes), torch.from_numpy(shares / shares.sum())


def _linear_optimum(h: WeightFunction, w0: Tensor, y: Tensor) -> float:
    """Least square loss of the linearized model."""
    features = derivative(h, w0)
    return float(square_loss(y)(features @ (torch.linalg.pinv(features) @ y)))


def _escapes(draws: Draws, x: Tensor, y: Tensor) -> int:
    """From how many starts the flow at alpha = 1 ends below the linearized model's optimum."""
    found = 0
    for _ in range(_STARTS):
        w0 = draws.normal(3)
        h = _unit(x, w0, torch.tanh, torch.full_like(x[:, 0], 1 / len(x)))
        end = 14 / float(torch.linalg.svdvals(derivative(h, w0))[-1]) ** 2
        flow = gradient_flow(h, w0, square_loss(y), 1.0, [0.0, end], rtol=1e-7, atol=1e-9)
        found += float(flow.loss[-1]) < 0.99 * _linear_optimum(h, w0, y)
    return found


def _stationarity(
    h: WeightFunction, w0: Tensor, loss: ConvexLoss, alpha: float, u: Tensor
) -> dict[str, float]:
    """Gradient at u, over that at 0, and the smallest eigenvalue of the Hessian."""

    def objective(u: Tensor) -> Tensor:
        return loss(alpha * h(w0 + u / alpha))

    slope, start = grad(objective)(u), grad(objective)(torch.zeros_like(u))
    return {
        "gradient": float(slope.norm() / start.norm()),
        "hessian": float(torch.linalg.eigvalsh(hessian(objective)(u))[0]),
    }


def _slope(t: Tensor, value: Tensor) -> float:
    if len(t) < 2:
        return float("nan")
    t = t - t.mean()
    return float((t * (value - value.mean())).sum() / t.square().sum())


def _doubled_ranks(draws: Draws) -> tuple[int, int]:
    """Rank of Dh at a doubled start, and nearby: the theorem's hypothesis fails there."""
    x, m, d = draws.normal(200, 3), 8, 3
    b, a = draws.normal(m // 2, d), draws.normal(m // 2)
    w0 = torch.cat([b.flatten(), b.flatten(), a, -a])
    h = two_layer(x, m, 1.0, "tanh")
    return derivative_rank(h, w0), derivative_rank(h, w0 + 0.1 * draws.normal(len(w0)))
