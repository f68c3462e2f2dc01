"""What the theorems speak of, measured on the small models of their hypotheses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from experiments.results import Outcome
from tangent.bounds import finite_horizon, over_parameterized, square_loss_bound
from tangent.curvature import (
    WeightFunction,
    curvature,
    derivative,
    derivative_rank,
)
from tangent.dynamics import (
    ConvexLoss,
    Flow,
    gaps,
    gradient_flow,
    logistic_loss,
    momentum_descent,
    square_loss,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MEASURES"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _unit_rows(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def _centred(raw: WeightFunction, w0: Tensor) -> WeightFunction:
    start = raw(w0)
    return lambda w: raw(w) - start


def _two_layer(x: Tensor, m: int, scale: float, activation: str) -> WeightFunction:
    """``scale * sum_j a_j phi(b_j.x)`` as a function of (b, a)."""
    phi, d = _ACTIVATIONS[activation], x.shape[1]

    def outputs(w: Tensor) -> Tensor:
        return scale * phi(x @ w[: m * d].view(m, d).T) @ w[m * d :]

    return outputs


def finite_horizon_distances(run: dict[str, Any]) -> Outcome:
    """Theorem 2.2: three distances up to a fixed time, at every alpha."""
    generator = torch.Generator().manual_seed(run["seed"])
    n, d, m = 10, 3, 20
    x, y = _unit_rows(_normal(generator, n, d)), _normal(generator, n).sign()
    w0 = _normal(generator, m * (d + 1))
    h = _centred(_two_layer(x, m, m**-0.5, run["model"]), w0)
    loss = {"square": square_loss, "logistic": logistic_loss}[run["loss"]](y)
    rows = []
    for alpha in run["alphas"]:
        flow, linear = (
            _path(h, w0, loss, alpha, run["horizon"], linearized, run["model"] == "relu")
            for linearized in (False, True)
        )
        found = gaps(flow, linear)
        bound = finite_horizon(alpha, run["horizon"], float(loss(alpha * h(w0))))
        rows.append(
            {
                "alpha": alpha,
                "weights": found.weights,
                "weights_gap": found.weights_gap,
                "outputs_gap": found.outputs_gap,
                "weights_bound": bound.weights,
            }
        )
    return Outcome({}, curves={name: [row[name] for row in rows] for name in rows[0]})


def _path(
    h: WeightFunction,
    w0: Tensor,
    loss: ConvexLoss,
    alpha: float,
    horizon: float,
    linearized: bool,
    kinks: bool,
) -> Flow:
    """A flow up to ``horizon``; in small equal steps where an adaptive one stalls at kinks."""
    if kinks:
        steps = 1000
        return momentum_descent(
            h, w0, loss, alpha, horizon / steps, steps, linearized=linearized, keep_every=10
        )
    times = torch.linspace(0, horizon, 101, dtype=torch.float64)
    return gradient_flow(h, w0, loss, alpha, times, linearized=linearized, rtol=1e-11, atol=1e-12)


def _quadratic(generator: torch.Generator) -> tuple[WeightFunction, Tensor, Tensor, float]:
    """``X (w+**2 - w-**2)``, centred; w0, a unit target, and the exact Lip(Dh)."""
    n, p = 5, 20
    x = _normal(generator, n, p) / p**0.5
    w0 = torch.rand(2 * p, generator=generator, dtype=torch.float64) + 0.5
    y = _normal(generator, n)
    h = _centred(lambda w: x @ (w[:p].square() - w[p:].square()), w0)
    return h, w0, y / y.norm(), 2 * float(x.norm(dim=0).max())


def square_loss_distances(run: dict[str, Any]) -> Outcome:
    """Theorem 2.3: distances at T = K / L**2 beside their bounds, for every K and alpha."""
    h, w0, y, lip = _quadratic(torch.Generator().manual_seed(run["seed"]))
    radius = 0.5
    lipschitz = float(torch.linalg.matrix_norm(derivative(h, w0), ord=2)) + radius * lip
    rows = []
    for k in run["ks"]:
        for alpha in run["alphas"]:
            bound = square_loss_bound(alpha, k, 1.0, lipschitz, lip, radius)
            pair = [
                gradient_flow(h, w0, square_loss(y), alpha, [0.0, bound.horizon], linearized=linear)
                for linear in (False, True)
            ]
            found = gaps(*pair)
            rows.append(
                {
                    "k": k,
                    "alpha": alpha,
                    "allowed": alpha >= bound.smallest_alpha,
                    "outputs_gap": found.outputs_gap,
                    "outputs_bound": bound.outputs,
                    "weights": found.weights,
                    "weights_bound": bound.weights,
                    "weights_gap": found.weights_gap,
                    "weights_gap_bound": bound.weights_gap,
                }
            )
    return Outcome({}, curves={name: [row[name] for row in rows] for name in rows[0]})


def over_parameterized_path(run: dict[str, Any]) -> Outcome:
    """Theorem 2.4: error under its bound at all times, and uniform distances."""
    h, w0, y, lip = _quadratic(torch.Generator().manual_seed(run["seed"]))
    values = torch.linalg.svdvals(derivative(h, w0))
    d = torch.linspace(1.0, run["condition"], len(y), dtype=torch.float64)
    constants = {
        "smallest": float(values[-1]),
        "largest": float(values[0]),
        "derivative_lipschitz": lip,
        "distance": 1.0,
        "target": 1.0,
        "convexity": 1.0,
        "smoothness": run["condition"],
    }
    threshold = over_parameterized(1.0, **constants).smallest_alpha
    rate = over_parameterized(1.0, **constants).rate
    times = torch.linspace(0, 4 / rate, 161, dtype=torch.float64)
    rows, curves = [], {"time": times.tolist()}
    for multiple in run["multiples"]:
        alpha = multiple * threshold
        flow, linear = (
            gradient_flow(
                h, w0, square_loss(y, d), alpha, times, linearized=linear, rtol=1e-12, atol=1e-14
            )
            for linear in (False, True)
        )
        bound = over_parameterized(alpha, **constants)
        error = (flow.outputs - y).norm(dim=1)
        allowed = bound.factor * (-bound.rate * times).exp()
        found = gaps(flow, linear)
        late = error[80:121].log()  # past the faster directions, before rounding
        fitted = -float(late[-1] - late[0]) / float(times[120] - times[80])
        rows.append(
            {
                "alpha": alpha,
                "error_over_bound": float((error / allowed).max()),
                "fitted_rate": fitted,
                "guaranteed_rate": rate,
                "weights": found.weights,
                "weights_bound": bound.weights,
                "outputs_gap": found.outputs_gap,
                "outputs_bound": bound.outputs_gap,
                "weights_gap": found.weights_gap,
                "weights_gap_bound": bound.weights_gap,
            }
        )
        curves[f"error_{multiple:g}"] = error.tolist()
    curves["bound"] = allowed.tolist()
    curves |= {name: [row[name] for row in rows] for name in rows[0]}
    return Outcome({"threshold": threshold, "smallest_singular_value": float(values[-1])}, curves)


def under_parameterized_path(run: dict[str, Any]) -> Outcome:
    """Theorem 2.5: one tanh unit on 200 inputs; decay to a local minimum, at every alpha."""
    generator = torch.Generator().manual_seed(run["seed"])
    n = 200
    x = _normal(generator, n, 3)
    y = (torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1] - 0.3 * x[:, 2] ** 2) / n**0.5
    w0 = _normal(generator, 3) / 2
    h = _centred(lambda w: torch.tanh(x @ w) / n**0.5, w0)
    loss, phi = square_loss(y), derivative(h, w0)
    smallest = float(torch.linalg.svdvals(phi)[-1])
    optimum = float(loss(phi @ torch.linalg.lstsq(phi, y[:, None]).solution[:, 0]))
    times = torch.linspace(0, 14 / smallest**2, 113, dtype=torch.float64)
    curves: dict[str, Any] = {"time": times.tolist()}
    rates, limits = [], []
    for alpha in run["alphas"]:
        flow = gradient_flow(h, w0, loss, alpha, times, rtol=1e-11, atol=1e-13)
        above = (flow.loss - flow.loss[-1]).clamp(min=1e-300)
        # slope where the loss above its limit has fallen a thousandfold and more
        inside = (above < 1e-3 * above[0]) & (above > 1e-8 * above[0])
        rates.append(_slope(times[inside], -above[inside].log()))
        limits.append(float(flow.loss[-1]))
        curves[f"above_{alpha:g}"] = above.tolist()
    curves |= {"alpha": list(run["alphas"]), "rate": rates, "limit": limits}
    doubled, near = _doubled_ranks(generator)
    metrics = {
        "linear_rate": 2 * smallest**2,
        "linear_optimum": optimum,
        "rank_doubled": doubled,
        "rank_near_doubled": near,
        "rank_centred": derivative_rank(h, w0),
        "rank_near_centred": derivative_rank(h, w0 + 0.05 * _normal(generator, 3)),
    }
    return Outcome(metrics, curves)


def _slope(t: Tensor, value: Tensor) -> float:
    if len(t) < 2:
        return float("nan")
    t = t - t.mean()
    return float((t * (value - value.mean())).sum() / t.square().sum())


def _doubled_ranks(generator: torch.Generator) -> tuple[int, int]:
    """Rank of Dh at a doubled start, and nearby: the theorem's hypothesis fails there."""
    x, m, d = _normal(generator, 200, 3), 8, 3
    b, a = _normal(generator, m // 2, d), _normal(generator, m // 2)
    w0 = torch.cat([b.flatten(), b.flatten(), a, -a])
    h = _two_layer(x, m, 1.0, "tanh")
    return derivative_rank(h, w0), derivative_rank(h, w0 + 0.1 * _normal(generator, len(w0)))


def kappa_by_width(run: dict[str, Any]) -> Outcome:
    """kappa at initialization against the width, for alpha(m) = m**-0.5 and 1/m.

    For ReLU the second derivative is that of the pieces: its kinks are left out.
    """
    generator = torch.Generator().manual_seed(run["seed"])
    n, d = run["inputs"], 10
    x = _unit_rows(_normal(generator, n, d))
    y = _normal(generator, n).sign() / n**0.5
    rows = []
    for m in run["widths"]:
        w0 = _normal(generator, m * (d + 1))
        row: dict[str, Any] = {"m": m}
        for name, scale in (("root", m**-0.5), ("inverse", 1 / m)):
            h = _two_layer(x, m, scale / n**0.5, run["model"])
            found = curvature(h, w0, y, starts=4, tolerance=1e-4, generator=generator)
            row |= {name: found.kappa, f"{name}_first": found.first, f"{name}_second": found.second}
        rows.append(row)
    return Outcome({}, curves={name: [row[name] for row in rows] for name in rows[0]})


MEASURES: dict[str, Callable[[dict[str, Any]], Outcome]] = {
    "finite-horizon": finite_horizon_distances,
    "square-loss": square_loss_distances,
    "over-parameterized": over_parameterized_path,
    "under-parameterized": under_parameterized_path,
    "kappa": kappa_by_width,
}
