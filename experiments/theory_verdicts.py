"""Verdicts on the theorems, computed from the measured numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.report import Table
from experiments.results import read_result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Series", "series", "slope", "verdict_table"]

Series = list[dict[str, Any]]
"""Run settings, metrics and curves of the runs of one theorem."""

_FIT_FROM = 64.0  # below, alpha is too small for the asymptotic slope
_MINIMUM = ("alpha", "rate", "limit", "gradient", "hessian")
_SLOPE = 0.02  # tolerance of a slope
_LOOSE = 0.25  # of a slope that too few seeds give
_NOISE = 1e-8  # distances of the integrator's own error are not fitted


def series(results: pd.DataFrame, part: str, **chosen: Any) -> Series:
    """Runs of a theorem, as dictionaries of settings, metrics and curves."""
    rows = results[results["part"] == part]
    for name, value in chosen.items() if len(rows) else ():
        rows = rows[rows[name] == value]
    documents = [read_result(Path(path)) for path in rows["path"]]
    return [{**d["run"], **d["metrics"], "curves": d["curves"]} for d in documents]


def slope(x: Any, y: Any) -> float:
    """Slope of log y against log x; NaN for fewer than two positive values."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    good = (x > 0) & (y > 0)
    if good.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(x[good]), np.log(y[good]), 1)[0])


@dataclass(frozen=True)
class _Claim:
    """One statement, what was measured, and whether it holds."""

    theorem: str
    statement: str
    expected: str
    measured: str
    holds: bool | None

    @property
    def verdict(self) -> str:
        """In words; none where the theorem says nothing."""
        return {True: "holds", False: "FAILS", None: "not covered"}[self.holds]


def _fitted(values: list[float]) -> str:
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.4f} ± {spread:.4f}"


def _slope_claim(
    theorem: str, statement: str, values: list[float], expected: float, tolerance: float
) -> _Claim:
    """A fitted exponent: mean over seeds within the tolerance of what is expected."""
    holds = bool(abs(np.mean(values) - expected) <= tolerance)
    return _Claim(theorem, statement, f"{expected:g} ± {tolerance:g}", _fitted(values), holds)


def _contrasts(claims: list[_Claim], model: str) -> list[_Claim]:
    """The same numbers of a model outside the hypotheses: no verdict."""
    return [
        dataclasses.replace(claim, statement=f"{claim.statement}, {model}", holds=None)
        for claim in claims
    ]


def _finite_horizon(results: pd.DataFrame) -> list[_Claim]:
    claims = []
    names = {
        "weights": ("sup |w - w0|", -1.0),
        "weights_gap": ("sup |w - wbar|", -2.0),
        "outputs_gap": ("sup |alpha h - alpha hbar|", -1.0),
    }
    for model, loss in (("tanh", "square"), ("tanh", "logistic"), ("relu", "square")):
        some = series(results, "finite-horizon", model=model, loss=loss)
        if not some:
            continue
        for name, (label, expected) in names.items():
            fits = []
            for run in some:
                alpha = np.array(run["curves"]["alpha"])
                late = alpha >= _FIT_FROM
                fits.append(slope(alpha[late], np.array(run["curves"][name])[late]))
            label = f"slope of {label} in alpha, {model}, {loss} loss"
            if model == "relu":
                expects = f"{expected:g} for smooth"
                claims.append(_Claim("2.2", label, expects, _fitted(fits), None))
            else:
                claims.append(_slope_claim("2.2", label, fits, expected, 0.02))
        worst = max(
            w / b
            for run in some
            for w, b in zip(run["curves"]["weights"], run["curves"]["weights_bound"], strict=True)
        )
        holds = worst <= 1 if model != "relu" else None
        label = f"|w - w0| over sqrt(T R)/alpha, {model}, {loss} loss"
        claims.append(_Claim("2.2", label, "at most 1", f"{worst:.3f}", holds))
    return claims


def _square_loss(results: pd.DataFrame) -> list[_Claim]:
    claims = _square_loss_of(series(results, "square-loss", model="quadratic"))
    relu = _square_loss_of(series(results, "square-loss", model="relu"))
    return claims + _contrasts(relu, "relu")


def _square_loss_of(some: Series) -> list[_Claim]:
    if not some:
        return []
    claims = []
    for name, label in (
        ("outputs", "|alpha h - alpha hbar| / E"),
        ("weights", "|w - w0|"),
        ("weights_gap", "|w - wbar|"),
    ):
        measured = name if name != "outputs" else "outputs_gap"
        ratios = [
            value / bound
            for run in some
            for value, bound, allowed in zip(
                run["curves"][measured],
                run["curves"][f"{name}_bound"],
                run["curves"]["allowed"],
                strict=True,
            )
            if allowed
        ]
        text = f"largest {max(ratios):.3g}, median {np.median(ratios):.2g}"
        label = f"{label} over its bound, every K and allowed alpha"
        claims.append(_Claim("2.3", label, "at most 1", text, max(ratios) <= 1))
    fits = []
    for run in some:
        table = {name: np.array(column) for name, column in run["curves"].items()}
        for k in np.unique(table["k"]):
            good = (table["k"] == k) & table["allowed"] & (table["outputs_gap"] > _NOISE)
            if good.sum() > 1:
                fits.append(slope(table["alpha"][good], table["outputs_gap"][good]))
    claims.append(_slope_claim("2.3", "slope of the distance in alpha", fits, -1.0, 0.02))
    return claims


def _over_parameterized(results: pd.DataFrame) -> list[_Claim]:
    claims = []
    for condition in (1.0, 4.0):
        some = series(results, "over-parameterized", model="quadratic", condition=condition)
        claims += _over_parameterized_of(some, condition)
    relu = series(results, "over-parameterized", model="relu")
    return claims + _contrasts(_over_parameterized_of(relu, 1.0), "relu")


def _over_parameterized_of(some: Series, condition: float) -> list[_Claim]:
    claims: list[_Claim] = []
    if some:
        tag = f"condition number {condition:g}"
        worst = max(max(run["curves"]["error_over_bound"]) for run in some)
        # the bound is attained at t = 0 where the condition number is 1
        label = f"error over sqrt(kappa) E exp(-m s^2 t / 4), {tag}"
        claims.append(_Claim("2.4", label, "at most 1", f"{worst:.6f}", worst <= 1 + 1e-9))
        for name, bound, label, expected in (
            ("weights", "weights_bound", "sup |w - w0|", -1.0),
            ("outputs_gap", "outputs_bound", "sup |alpha h - alpha hbar|", -1.0),
            ("weights_gap", "weights_gap_bound", "sup |w - wbar| (no log alpha)", -2.0),
        ):
            fits = [slope(run["curves"]["alpha"], run["curves"][name]) for run in some]
            text = f"slope of {label} in alpha, {tag}"
            claims.append(_slope_claim("2.4", text, fits, expected, 0.05))
            worst = max(
                v / b
                for run in some
                for v, b in zip(run["curves"][name], run["curves"][bound], strict=True)
            )
            text = f"{label} over its bound, {tag}"
            claims.append(_Claim("2.4", text, "at most 1", f"{worst:.3g}", worst <= 1))
    return claims


def _under_parameterized(results: pd.DataFrame) -> list[_Claim]:
    some = series(results, "under-parameterized", model="tanh-unit")
    relu = _under_parameterized_of(series(results, "under-parameterized", model="relu-unit"))
    claims = _under_parameterized_of(some)
    if some:
        starts, escapes = (sum(run[name] for run in some) for name in ("starts", "escapes"))
        text = "starts from which alpha = 1 ends below the linear optimum (local, not global)"
        claims.append(_Claim("2.5", text, "at least 1", f"{escapes:g} of {starts:g}", escapes >= 1))
        ranks = [(run["rank_doubled"], run["rank_near_doubled"]) for run in some]
        text = "rank of Dh at a doubled start and nearby (the hypothesis fails there)"
        claims.append(_Claim("2.5", text, "differ", str(ranks[0]), all(a < b for a, b in ranks)))
    return claims + _contrasts(relu, "relu")


def _under_parameterized_of(some: Series) -> list[_Claim]:
    if not some:
        return []
    tables = [
        {name: np.array(run["curves"][name], dtype=float) for name in _MINIMUM} for run in some
    ]
    late = tables[0]["alpha"] >= _FIT_FROM
    rates = [t["rate"][-1] / run["linear_rate"] for t, run in zip(tables, some, strict=True)]
    limits = [t["limit"][-1] / run["linear_optimum"] for t, run in zip(tables, some, strict=True)]
    largest = tables[0]["alpha"][-1]
    text = f"rate of F - F_inf over 2 s_min^2 at alpha = {largest:g}"
    claims = [_slope_claim("2.5", text, rates, 1.0, 0.02)]
    worst = max(abs(t["rate"][-2] / t["rate"][-1] - 1) for t in tables)
    text = "change of the rate between the two largest alpha"
    claims.append(_Claim("2.5", text, "at most 2%", f"{100 * worst:.2f}%", bool(worst <= 0.02)))
    text = f"limit of the loss over the linear optimum at alpha = {largest:g}"
    claims.append(_slope_claim("2.5", text, limits, 1.0, 0.02))
    # a local minimum: no slope, and curvature upwards in every direction
    worst = max(t["gradient"][late].max() for t in tables)
    text = f"|grad F| at the limit over that at w0, every alpha >= {_FIT_FROM:g}"
    claims.append(_Claim("2.5", text, "at most 1e-5", f"{worst:.1e}", bool(worst <= 1e-5)))
    worst = min(
        (t["hessian"][late] / run["linear_rate"]).min() * 2
        for t, run in zip(tables, some, strict=True)
    )
    text = f"smallest Hessian eigenvalue at the limit over s_min^2, every alpha >= {_FIT_FROM:g}"
    claims.append(_Claim("2.5", text, "positive", f"{worst:.4f} or more", bool(worst > 0)))
    ratios = np.concatenate([t["rate"][late] / (2 * t["hessian"][late]) for t in tables])
    worst = float(abs(ratios - 1).max())
    text = "rate over twice that eigenvalue: largest difference from 1"
    claims.append(_Claim("2.5", text, "at most 0.02", f"{worst:.4f}", bool(worst <= 0.02)))
    return claims


def _kappa(results: pd.DataFrame) -> list[_Claim]:
    claims = []
    for model in ("tanh", "relu"):
        some = series(results, "kappa", model=model)
        if not some:
            continue
        for name, scaling, expected in (("root", "m^-1/2", -0.5), ("inverse", "1/m", 0.0)):
            m = np.array(some[0]["curves"]["m"], dtype=float)
            late = m >= min(32.0, float(m[-2]))
            fits = [slope(m[late], np.array(run["curves"][name])[late]) for run in some]
            text = f"slope of kappa in m, alpha(m) = {scaling}, {model}"
            tolerance = max(_SLOPE, _half_width(fits))
            claim = _slope_claim("kappa", text, fits, expected, round(tolerance, 3))
            if model == "relu":
                (claim,) = _contrasts([claim], "kinks left out")
                claim = dataclasses.replace(claim, expected=f"{expected:g} for smooth")
            claims.append(claim)
    return claims


def _half_width(values: list[float]) -> float:
    """Half of the 95% interval of a mean: Student's quantile times the standard error."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return _LOOSE
    return min(_LOOSE, float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5))


def verdict_table(results: pd.DataFrame) -> Table:
    """Every claim with what was expected, what was measured, and the verdict."""
    import pandas as pd

    claims = [
        claim
        for part in (_finite_horizon, _square_loss, _over_parameterized, _under_parameterized,
                     _kappa)
        for claim in part(results)
    ]  # fmt: skip
    rows = [
        {
            "theorem": claim.theorem,
            "statement": claim.statement,
            "expected": claim.expected,
            "measured": claim.measured,
            "verdict": claim.verdict,
        }
        for claim in claims
    ]
    kappa = results["part"] == "kappa"
    seeds = len(set(results.loc[~kappa, "seed"]))
    notes = [
        f"{seeds} seeds ({results.loc[kappa, 'seed'].nunique()} of kappa); a slope is the mean "
        "of the seeds' fits, ± their standard deviation. Slopes of Theorem 2.2 are fitted from "
        f"alpha = {_FIT_FROM:g} on.",
        f"Slopes of kappa: fitted from m = 32 on; the tolerance is the 95% interval of the mean "
        f"over seeds, {_SLOPE:g} at least and {_LOOSE:g} at most.",
        "not covered: ReLU is not differentiable, the theorems say nothing of it. Its numbers are "
        "shown, with the constants of the piece at w0 (kinks left out) in the bounds, and for "
        "flows in small steps. Slopes expected are those of smooth models.",
    ]
    frame = pd.DataFrame(rows)
    return Table("The theorems, measured", frame, frame, notes)
