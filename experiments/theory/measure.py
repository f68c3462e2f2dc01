"""What the theorems speak of, measured on the small models of their hypotheses, and on ReLU.

For ReLU the constants of the theorems are those of the piece at w0, its kinks left out, and the
flows are descents in small equal steps: an adaptive integrator stalls at kinks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.func import grad, hessian, jvp, vmap

from experiments.runs.results import Context, Outcome
from experiments.theory.remarks import blind_curvature, mean_field
from experiments.theory.wide import wide_networks, wide_vgg11
from experiments.usage import UsageError, steps
from tangent.laziness.curvature import (
    Curvature,
    WeightFunction,
    derivative,
    derivative_norm,
    derivative_rank,
    second_derivative_norm,
)
from tangent.theory.bounds import finite_horizon, over_parameterized, square_loss_bound
from tangent.theory.dynamics import (
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

_STEPS = 1000  # of a descent that stands for a flow, to a finite horizon
_STARTS = 8  # of the search for a lower loss than the linearized model's
_LOSSES: dict[str, Callable[[Tensor], ConvexLoss]] = {
    "square": square_loss,
    "logistic": logistic_loss,
    # Bounded, its gradient Lipschitz; concave where |f - y| > 1/2, and |f - y| = 1 at the start.
    "bounded": lambda y: lambda f: (1 - (-2 * (f - y).square()).exp()).mean(),
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


@dataclass(frozen=True)
class _Draws:
    """Random numbers of one seed, the same on every device."""

    generator: torch.Generator
    device: str

    @classmethod
    def of(cls, run: dict[str, Any], device: str) -> _Draws:
        return cls(torch.Generator().manual_seed(run["seed"]), device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(self.device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, dtype=torch.float64).to(self.device)


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


def _path(
    h: WeightFunction,
    w0: Tensor,
    loss: ConvexLoss,
    alpha: float,
    times: Tensor,
    *,
    linearized: bool = False,
    step: float | None = None,
    rtol: float = 1e-11,
    atol: float = 1e-12,
) -> Flow:
    """A flow at equidistant times from 0; by descent in steps of at most ``step`` if given."""
    if step is None:
        return gradient_flow(h, w0, loss, alpha, times, linearized=linearized, rtol=rtol, atol=atol)
    each = float(times[1])
    inside = max(1, math.ceil(each / step))
    return momentum_descent(
        h, w0, loss, alpha, each / inside, inside * (len(times) - 1),
        linearized=linearized, keep_every=inside,
    )  # fmt: skip


def finite_horizon_distances(run: dict[str, Any], device: str) -> Outcome:
    """Theorem 2.2: three distances up to a fixed time, at every alpha."""
    draws = _Draws.of(run, device)
    n, d, m = 10, 3, 20
    x, y = _unit_rows(draws.normal(n, d)), draws.normal(n).sign()
    w0 = draws.normal(m * (d + 1))
    h = _centred(_two_layer(x, m, m**-0.5, run["model"]), w0)
    loss = _LOSSES[run["loss"]](y)
    times = torch.linspace(0, run["horizon"], 101, dtype=torch.float64)
    step = run["horizon"] / _STEPS if run["model"] == "relu" else None
    rows = []
    for alpha in steps(run["alphas"], "alpha"):
        flow, linear = (
            _path(h, w0, loss, alpha, times, linearized=linearized, step=step)
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


def held_out_distances(run: dict[str, Any], device: str) -> Outcome:
    """Proposition A.1: the two models' distance after training, on training and other inputs."""
    draws = _Draws.of(run, device)
    n, d, m = 10, 3, 20
    x, y, others = _unit_rows(draws.normal(n, d)), draws.normal(n).sign(), draws.normal(500, d)
    w0 = draws.normal(m * (d + 1))
    h = _centred(_two_layer(x, m, m**-0.5, run["model"]), w0)
    everywhere = _two_layer(torch.cat([x, _unit_rows(others)]), m, m**-0.5, run["model"])
    times = torch.tensor([0.0, run["horizon"]], dtype=torch.float64)
    rows = []
    for alpha in steps(run["alphas"], "alpha"):
        u, linear = (
            _path(h, w0, square_loss(y), alpha, times, linearized=which).displacement[-1]
            for which in (False, True)
        )
        _, moved = jvp(everywhere, (w0,), (linear,))
        gap = (alpha * (everywhere(w0 + u / alpha) - everywhere(w0)) - moved).abs()
        rows.append({"alpha": alpha, "seen": float(gap[:n].max()), "others": float(gap[n:].max())})
    return Outcome({}, curves={name: [row[name] for row in rows] for name in rows[0]})


def _model(run: dict[str, Any], device: str) -> tuple[WeightFunction, Tensor, Tensor, float]:
    """Centred h, w0, a unit target, and Lip(Dh): exact for the quadratic model.

    The quadratic one is ``X (w+**2 - w-**2)``. The two-layer ReLU network has no Lip(Dh); the
    number is |D^2 h(w0)| without its kinks.
    """
    draws = _Draws.of(run, device)
    n, p = 5, 20
    x = draws.normal(n, p) / p**0.5
    if run["model"] == "quadratic":
        w0 = draws.uniform(2 * p) + 0.5
        y = draws.normal(n)
        h = _centred(lambda w: x @ (w[:p].square() - w[p:].square()), w0)
        return h, w0, y / y.norm(), 2 * float(x.norm(dim=0).max())
    m = 50
    w0, y = draws.normal(m * (p + 1)), draws.normal(n)
    h = _centred(_two_layer(_unit_rows(x), m, m**-0.5, run["model"]), w0)
    lip = second_derivative_norm(h, w0, starts=4, tolerance=1e-5, generator=draws.generator)
    return h, w0, y / y.norm(), lip


def square_loss_distances(run: dict[str, Any], device: str) -> Outcome:
    """Theorem 2.3: distances at T = K / L**2 beside their bounds, for every K and alpha."""
    h, w0, y, lip = _model(run, device)
    radius = 0.5
    lipschitz = float(torch.linalg.matrix_norm(derivative(h, w0), ord=2)) + radius * lip
    rows = []
    for k in steps(run["ks"], "K"):
        for alpha in steps(run["alphas"], "alpha"):
            bound = square_loss_bound(alpha, k, 1.0, lipschitz, lip, radius)
            times = torch.tensor([0.0, bound.horizon], dtype=torch.float64)
            step = bound.horizon / _STEPS if run["model"] == "relu" else None
            pair = [
                _path(h, w0, square_loss(y), alpha, times, linearized=linear, step=step, rtol=1e-10)
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


def over_parameterized_path(run: dict[str, Any], device: str) -> Outcome:
    """Theorem 2.4: error under its bound at all times, and uniform distances."""
    h, w0, y, lip = _model(run, device)
    values = torch.linalg.svdvals(derivative(h, w0))
    d = torch.linspace(1.0, run["condition"], len(y), dtype=torch.float64, device=device)
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
    times = torch.linspace(0, 4 / rate, 161, dtype=torch.float64, device=device)
    step = 0.05 / (run["condition"] * constants["largest"] ** 2) if run["model"] == "relu" else None
    rows, curves = [], {"time": times.tolist()}
    for multiple in steps(run["multiples"], "alpha"):
        alpha = multiple * threshold
        flow, linear = (
            _path(
                h, w0, square_loss(y, d), alpha, times,
                linearized=linear, step=step, rtol=1e-12, atol=1e-14,
            )
            for linear in (False, True)
        )  # fmt: skip
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


def under_parameterized_path(run: dict[str, Any], device: str) -> Outcome:
    """Theorem 2.5: one unit; decay to a local minimum, at every alpha.

    The space of functions is that of 200 normal inputs, or of all of them: the population loss.
    At the end of every flow the gradient and the smallest eigenvalue of the Hessian of
    ``R(alpha h(w0 + u/alpha))`` in u are taken, which say whether it is at a local minimum.
    """
    draws = _Draws.of(run, device)
    activation, _, kind = run["model"].partition("-")
    phi = _ACTIVATIONS[activation]
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
    for alpha in steps(run["alphas"], "alpha"):
        flow = _path(h, w0, loss, alpha, times, step=step, atol=1e-13)
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
    curves |= {name: [row[name] for row in rows] for name in rows[0]}
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
    return _centred(lambda w: phi(x @ w) * share.sqrt(), w0)


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


def _escapes(draws: _Draws, x: Tensor, y: Tensor) -> int:
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


def _doubled_ranks(draws: _Draws) -> tuple[int, int]:
    """Rank of Dh at a doubled start, and nearby: the theorem's hypothesis fails there."""
    x, m, d = draws.normal(200, 3), 8, 3
    b, a = draws.normal(m // 2, d), draws.normal(m // 2)
    w0 = torch.cat([b.flatten(), b.flatten(), a, -a])
    h = _two_layer(x, m, 1.0, "tanh")
    return derivative_rank(h, w0), derivative_rank(h, w0 + 0.1 * draws.normal(len(w0)))


def kappa_by_width(run: dict[str, Any], device: str) -> Outcome:
    """kappa at initialization against the width, for alpha(m) = m**-0.5 and 1/m.

    The law wants the derivative of a unit Lipschitz, hence bounded output weights: they are -1 or
    1, and the input weights N(0, 1/d). For ReLU the second derivative is that of the pieces: its
    kinks are left out.
    """
    draws = _Draws.of(run, device)
    n, d = run["inputs"], 10
    x = _unit_rows(draws.normal(n, d))
    y = draws.normal(n).sign() / n**0.5
    rows = []
    for m in steps(run["widths"], "width"):
        b, a = draws.normal(m, d) / d**0.5, draws.normal(m).sign()
        w0 = torch.cat([b.flatten(), a])
        second = _unit_curvature(x, b, a, _ACTIVATIONS[run["model"]], draws) / n**0.5
        row: dict[str, Any] = {"m": m}
        for name, scale in (("root", m**-0.5), ("inverse", 1 / m)):
            h = _two_layer(x, m, scale / n**0.5, run["model"])
            found = Curvature(float((h(w0) - y).norm()), derivative_norm(h, w0), scale * second)
            row |= {name: found.kappa, f"{name}_first": found.first, f"{name}_second": found.second}
        rows.append(row)
    return Outcome({}, curves={name: [row[name] for row in rows] for name in rows[0]})


def _unit_curvature(
    x: Tensor,
    b: Tensor,
    a: Tensor,
    phi: Callable[[Tensor], Tensor],
    draws: _Draws,
    starts: int = 4,
) -> float:
    """|D^2| of ``sum_j a_j phi(b_j.x)``: the largest of its units' own.

    The second derivative of a sum over units is block diagonal, and |sum_j T_j(v_j, v'_j)| is at
    most max |T_j| for unit v and v'. All units are searched together, each from its own starts: a
    lower estimate, as `tangent.laziness.curvature.second_derivative_norm`. Of 24 starts, 4
    find all but 0.1% for tanh and all but 5% for ReLU (30 inputs, 32 and 128 units, two seeds
    each).
    """
    whole = vmap(hessian(lambda t: phi(x @ t[:-1]) * t[-1]))(torch.cat([b, a[:, None]], dim=1))
    v, other = _unit_last(draws.normal(2, len(a), starts, b.shape[1] + 1))
    best = 0.0
    for _ in range(100):
        for _ in range(5):
            f = _unit_last(torch.einsum("jqab,jsa,jsb->jsq", whole, v, other))
            v, other = _unit_last(torch.einsum("jqab,jsq,jsb->jsa", whole, f, other)), v
        norms = torch.einsum("jqab,jsa,jsb->jsq", whole, v, other).norm(dim=-1)
        before, best = best, float(norms.max())
        if abs(best - before) <= 1e-6 * best:
            break
    return best


def _unit_last(t: Tensor) -> Tensor:
    return t / t.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(t.dtype).tiny)


def _footnote_3(run: dict[str, Any], device: str) -> Outcome:
    draws = _Draws.of(run, device)
    x, y = _unit_rows(draws.normal(10, 3)), draws.normal(10).sign()
    w0 = draws.normal(20 * 4)
    h = _centred(_two_layer(x, 20, 20**-0.5, run["model"]), w0)
    return blind_curvature(h, w0, y, run, draws.generator)


def _wide(run: dict[str, Any], device: str) -> Outcome:
    measure = wide_vgg11 if run["model"] == "vgg11" else wide_networks
    return measure(run, _Draws.of(run, device).generator, device)


def _mean_field(run: dict[str, Any], device: str) -> Outcome:
    return mean_field(run, _Draws.of(run, device).normal)


MEASURES: dict[str, Callable[[dict[str, Any], str], Outcome]] = {
    "finite-horizon": finite_horizon_distances,
    "held-out": held_out_distances,
    "square-loss": square_loss_distances,
    "over-parameterized": over_parameterized_path,
    "under-parameterized": under_parameterized_path,
    "kappa": kappa_by_width,
    "not-necessary": _footnote_3,
    "wide": _wide,
    "mean-field": _mean_field,
}


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Measure what one theorem speaks of, on one model.

    On the device of the context; models as small as these are faster on the CPU.
    """
    if context.dtype != "float64":
        raise UsageError(f"theory works in float64; got --dtype {context.dtype}")
    return MEASURES[run["part"]](run, context.device)
