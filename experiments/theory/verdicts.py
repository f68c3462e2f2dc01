"""Verdicts on the theorems, computed from the measured numbers.

Every tolerance is a constant of this module, settled from what the theorems say and how far the
measured range of alpha or m is from their limit, and not from the spread of what was measured.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.drawing.tables import Table, provenance_notes
from experiments.runs.results import read_result
from experiments.theory.claims import (
    Claim,
    at_least_claim,
    at_most_claim,
    bound_claim,
    column,
    contrasts,
    fitted_exponent,
    last,
    mean_claim,
    slope,
)

Series = list[dict[str, Any]]
"""Run settings, metrics and curves of the runs of one theorem."""

FIT_FROM = 64.0  # below, alpha is too small for the asymptotic slope
FIT_WIDTHS_FROM = 32.0
SLOPE = 0.02  # of Theorems 2.2 and 2.3, whose alphas reach far into the limit
SLOPE_OVER = 0.05  # of Theorem 2.4, fitted over a factor of 16
SLOPE_KAPPA = 0.05  # of a law of large numbers at 32 to 512 units, ten seeds
RATIO = 0.02  # of a rate or a limit of Theorem 2.5 to that of the linearized model
GRADIENT = 1e-5  # at a limit, over that at w0
ROUNDING = 1e-9  # above a bound that is attained at t = 0
LAZY = 0.05  # of the outputs' own way: what is called lazy in footnote 3
SAME = 1e-3  # of an adaptive integrator whose steps the further weight may change
WIDER = -0.25  # the weights' slope is -1/2 at least in theory, the kernel's -1/2 to -1
LEARNED = 0.01  # of the zero function's loss: what is called learned
STUCK = 10.0  # times above that: the least loss of the linearized network; half for a trained one
_NOISE = 1e-8  # distances of the integrator's own error are not fitted


def series(results: pd.DataFrame, part: str, **chosen: Any) -> Series:
    """Runs of a theorem, as dictionaries of settings, metrics and curves."""
    rows = results[results["part"] == part]
    for name, value in chosen.items() if len(rows) else ():
        rows = rows[rows[name] == value]
    documents = [read_result(Path(path)) for path in rows["path"]]
    return [{**d["run"], **d["metrics"], "curves": d["curves"]} for d in documents]


def _all(some: Series, name: str) -> np.ndarray:
    """A curve of all runs, end to end."""
    return np.concatenate([column(run, name) for run in some])


_FINITE = (("tanh", "square"), ("tanh", "logistic"), ("tanh", "bounded"), ("relu", "square"))


def _finite_horizon(results: pd.DataFrame) -> list[Claim]:
    claims: list[Claim] = []
    for model, loss in _FINITE:
        some = series(results, "finite-horizon", model=model, loss=loss)
        found = _finite_horizon_of(some, f"{loss} loss{' (not convex)' * (loss == 'bounded')}")
        claims += found if model == "tanh" else contrasts(found, model)
    return claims


def _finite_horizon_of(some: Series, tag: str) -> list[Claim]:
    if not some:
        return []
    claims = []
    for name, label, expected in (
        ("weights", "sup |w - w0|", -1.0),
        ("weights_gap", "sup |w - wbar|", -2.0),
        ("outputs_gap", "sup |alpha h - alpha hbar|", -1.0),
    ):
        fits = [fitted_exponent(column(r, "alpha"), column(r, name), FIT_FROM) for r in some]
        text = f"slope of {label} in alpha, {tag}"
        claims.append(mean_claim("2.2", text, fits, expected, SLOPE))
    bounds = _all(some, "weights_bound")
    claims.append(bound_claim("2.2", f"|w - w0|, {tag},", _all(some, "weights"), bounds))
    return claims


def _held_out(results: pd.DataFrame) -> list[Claim]:
    """Proposition A.1: the distance on other inputs falls as that on training inputs does."""
    some = series(results, "held-out", model="tanh")
    claims = []
    for name, label in (("seen", "training inputs"), ("others", "500 held-out inputs")):
        fits = [fitted_exponent(column(r, "alpha"), column(r, name), FIT_FROM) for r in some]
        text = f"slope of the largest |alpha f - alpha fbar| on {label} in alpha, after training"
        claims += [mean_claim("A.1", text, fits, -1.0, SLOPE)] if some else []
    return claims


def _square_loss(results: pd.DataFrame) -> list[Claim]:
    claims = _square_loss_of(series(results, "square-loss", model="quadratic"))
    relu = _square_loss_of(series(results, "square-loss", model="relu"))
    return claims + contrasts(relu, "relu")


def _square_loss_of(some: Series) -> list[Claim]:
    if not some:
        return []
    claims = []
    allowed = _all(some, "allowed").astype(bool)
    for measured, bound, label in (
        ("outputs_gap", "outputs_bound", "|alpha h - alpha hbar| / E"),
        ("weights", "weights_bound", "|w - w0|"),
        ("weights_gap", "weights_gap_bound", "|w - wbar|"),
    ):
        label = f"{label}, every K and allowed alpha,"
        values, bounds = _all(some, measured)[allowed], _all(some, bound)[allowed]
        resolved = _NOISE if measured == "outputs_gap" else 0.0
        claims.append(bound_claim("2.3", label, values, bounds, resolved=resolved))
    fits = [fit for run in some for fit in _slopes_by_k(run)]
    claims.append(mean_claim("2.3", "slope of the distance in alpha", fits, -1.0, SLOPE))
    return claims


def _slopes_by_k(run: dict[str, Any]) -> list[float]:
    """Slope of the outputs' distance for every K with two alphas above the integrator's error."""
    table = {name: column(run, name) for name in ("k", "alpha", "allowed", "outputs_gap")}
    fits = []
    for k in np.unique(table["k"]):
        lost = ~(table["outputs_gap"] <= _NOISE)  # NaN stays in, and fails the fit
        used = (table["k"] == k) & table["allowed"].astype(bool) & lost
        if used.sum() > 1:
            fits.append(slope(table["alpha"][used], table["outputs_gap"][used]))
    return fits


def _over_parameterized(results: pd.DataFrame) -> list[Claim]:
    claims = []
    for condition in (1.0, 4.0):
        some = series(results, "over-parameterized", model="quadratic", condition=condition)
        claims += _over_parameterized_of(some, condition)
    relu = series(results, "over-parameterized", model="relu")
    return claims + contrasts(_over_parameterized_of(relu, 1.0), "relu")


def _over_parameterized_of(some: Series, condition: float) -> list[Claim]:
    if not some:
        return []
    tag = f"condition number {condition:g}"
    errors = [column(r, f"error_{multiple:g}") for r in some for multiple in r["multiples"]]
    bounds = [column(r, "bound") for r in some for _ in r["multiples"]]
    # attained at t = 0 where the condition number is 1
    label = f"error at every time, sqrt(kappa) E exp(-m s^2 t / 4), {tag},"
    claims = [
        bound_claim("2.4", label, np.concatenate(errors), np.concatenate(bounds), rounding=ROUNDING)
    ]
    for name, bound, label, expected in (
        ("weights", "weights_bound", "sup |w - w0|", -1.0),
        ("outputs_gap", "outputs_bound", "sup |alpha h - alpha hbar|", -1.0),
        ("weights_gap", "weights_gap_bound", "sup |w - wbar| (no log alpha)", -2.0),
    ):
        fits = [slope(column(run, "alpha"), column(run, name)) for run in some]
        text = f"slope of {label} in alpha, {tag}"
        claims.append(mean_claim("2.4", text, fits, expected, SLOPE_OVER))
        claims.append(bound_claim("2.4", f"{label}, {tag},", _all(some, name), _all(some, bound)))
    return claims


def _under_parameterized(results: pd.DataFrame) -> list[Claim]:
    some = series(results, "under-parameterized", model="tanh-unit")
    relu = _under_parameterized_of(series(results, "under-parameterized", model="relu-unit"))
    claims = _under_parameterized_of(some)
    population = _under_parameterized_of(
        series(results, "under-parameterized", model="tanh-population")
    )
    claims += [
        dataclasses.replace(c, statement=f"{c.statement}, population loss") for c in population
    ]
    if some:
        starts, escapes = (sum(run[name] for run in some) for name in ("starts", "escapes"))
        text = "starts from which alpha = 1 ends below the linear optimum (local, not global)"
        claims.append(Claim("2.5", text, "at least 1", f"{escapes:g} of {starts:g}", escapes >= 1))
        ranks = [(run["rank_doubled"], run["rank_near_doubled"]) for run in some]
        text = "rank of Dh at a doubled start and nearby (the hypothesis fails there)"
        claims.append(Claim("2.5", text, "differ", str(ranks[0]), all(a < b for a, b in ranks)))
    return claims + contrasts(relu, "relu")


def _under_parameterized_of(some: Series) -> list[Claim]:
    """Rates and limits at the largest alpha, and a local minimum at every large one."""
    if not some:
        return []
    linear = np.array([run["linear_rate"] for run in some], dtype=float)
    optimum = np.array([run["linear_optimum"] for run in some], dtype=float)
    late = column(some[0], "alpha") >= FIT_FROM
    table = {  # a row a seed; NaN at any alpha stays NaN at all
        name: np.stack([_whole(column(run, name)) for run in some])
        for name in ("rate", "limit", "gradient", "hessian")
    }
    at = f"at alpha = {column(some[0], 'alpha')[-1]:g}"
    every = f"every alpha >= {FIT_FROM:g}"
    rate, hessian = table["rate"], table["hessian"]
    of_rate, of_limit = rate[:, -1] / linear, table["limit"][:, -1] / optimum
    change = abs(rate[:, -2] / rate[:, -1] - 1)
    gradient = table["gradient"][:, late]
    bottom = 2 * hessian[:, late] / linear[:, None]
    agreement = abs(rate[:, late] / (2 * hessian[:, late]) - 1)
    return [
        mean_claim("2.5", f"rate of F - F_inf over 2 s_min^2 {at}", of_rate.tolist(), 1.0, RATIO),
        at_most_claim("2.5", "change of the rate between the two largest alpha", change, RATIO),
        mean_claim(
            "2.5", f"limit of the loss over the linear optimum {at}", of_limit.tolist(), 1.0, RATIO
        ),
        # a local minimum: no slope, and curvature upwards in every direction
        at_most_claim(
            "2.5", f"|grad F| at the limit over that at w0, {every}", gradient, GRADIENT, "{:.1e}"
        ),
        dataclasses.replace(
            at_least_claim(
                "2.5", f"smallest Hessian eigenvalue at the limit over s_min^2, {every}", bottom, 0
            ),
            expected="positive",
            holds=bool(bottom.min() > 0),
        ),
        at_most_claim(
            "2.5", "rate over twice that eigenvalue: largest difference from 1", agreement, RATIO
        ),
    ]


def _whole(values: np.ndarray) -> np.ndarray:
    """The values, or NaN throughout where one of them is not finite."""
    return values if np.isfinite(values).all() else np.full_like(values, np.nan)


def _kappa(results: pd.DataFrame) -> list[Claim]:
    claims = []
    for model in ("tanh", "relu"):
        some = series(results, "kappa", model=model)
        if not some:
            continue
        for name, scaling, expected in (("root", "m^-1/2", -0.5), ("inverse", "1/m", 0.0)):
            m = column(some[0], "m")
            start = min(FIT_WIDTHS_FROM, float(m[-2]))
            fits = [fitted_exponent(m, column(run, name), start) for run in some]
            text = f"slope of kappa in m, alpha(m) = {scaling}"
            claim = mean_claim("kappa", text, fits, expected, SLOPE_KAPPA)
            claims += [claim] if model == "tanh" else contrasts([claim], "relu, kinks left out")
    return claims


def _not_necessary(results: pd.DataFrame) -> list[Claim]:
    """Footnote 3: kappa grows without bound, and the path stays where it was."""
    some = series(results, "not-necessary", model="tanh")
    if not some:
        return []
    at = f"alpha = {some[0]['alpha']:g}"
    kappas = [last(run, "kappa") for run in some]
    gap = np.stack([column(run, "gap") for run in some])
    change = abs(gap / gap[:, :1] - 1)
    return [
        at_least_claim("note 3", f"kappa with the largest curvature, {at}", kappas, 10, "{:.3g}"),
        at_most_claim(
            "note 3", f"distance to the linearized path over the path's length, {at}", gap, LAZY
        ),
        at_most_claim("note 3", "change of that distance by the curvature", change, SAME, "{:.1e}"),
    ]


def _wide(results: pd.DataFrame) -> list[Claim]:
    """The remark on wide networks: alpha = 1, the wider the lazier."""
    claims = []
    for model in ("tanh", "relu", "vgg11"):
        some = series(results, "wide", model=model)
        for name, label in (("weights", "|w - w0| / |w0|"), ("kernel", "|K - K0| / |K0|")):
            fits = [slope(column(run, "m"), column(run, name)) for run in some]
            text = f"slope of {label} in the width m after training at alpha = 1, {model}"
            claims += [at_most_claim("wide", text, fits, WIDER)] if some else []
    return claims


def _mean_field(results: pd.DataFrame) -> list[Claim]:
    """With 1/m the population loss goes to 0; no training of the linearized network gets there."""
    some = series(results, "mean-field")
    if not some:
        return []
    learned = _all(some, "inverse")
    return [
        at_most_claim(
            "[7]", "population loss of 1/m, of the zero function's, every width", learned, LEARNED
        ),
        at_least_claim(
            "[7]",
            "least loss of the linearized network over that of 1/m, every width",
            _all(some, "minimum") / learned,
            STUCK,
            "{:.3g} or more",
        ),
        at_least_claim(
            "[7]",
            "loss of 1/sqrt(m) over that of 1/m, largest width",
            [last(run, "root") / last(run, "inverse") for run in some],
            STUCK / 2,
            "{:.3g} or more",
        ),
    ]


_PARTS = (
    _finite_horizon,
    _held_out,
    _square_loss,
    _over_parameterized,
    _under_parameterized,
    _kappa,
    _not_necessary,
    _wide,
    _mean_field,
)


def verdict_table(results: pd.DataFrame) -> Table:
    """Every claim with what was expected, what was measured, and the verdict."""
    claims = [claim for part in _PARTS for claim in part(results)]
    shown = pd.DataFrame(
        {
            "theorem": [claim.theorem for claim in claims],
            "statement": [claim.statement for claim in claims],
            "expected": [claim.expected for claim in claims],
            "measured": [claim.measured for claim in claims],
            "bound over measured": [claim.slack_text for claim in claims],
            "verdict": [claim.verdict for claim in claims],
        }
    )
    slack = [claim.slack or (None, None) for claim in claims]
    numbers = shown.assign(slack_least=[s[0] for s in slack], slack_most=[s[1] for s in slack])
    return Table("The theorems, measured", numbers, shown, _notes(results, claims))


def _notes(results: pd.DataFrame, claims: list[Claim]) -> list[str]:
    kappa = results["part"] == "kappa"
    seeds = results.loc[~kappa, "seed"].nunique()
    return [
        f"{seeds} seeds ({results.loc[kappa, 'seed'].nunique()} of kappa); a slope is the mean "
        "of the seeds' fits, ± their standard deviation. Slopes of Theorem 2.2 and Proposition "
        "A.1 are fitted from "
        f"alpha = {FIT_FROM:g} on, those of kappa from m = {FIT_WIDTHS_FROM:g} on. Tolerances are "
        "fixed, whatever the spread; one value that is not finite, at any alpha, fails a claim.",
        *_slack_note(claims),
        "not covered: ReLU is not differentiable, the theorems say nothing of it. Its numbers are "
        "shown, with the constants of the piece at w0 (kinks left out) in the bounds, and for "
        "flows in small steps. What is expected is that of smooth models.",
        *provenance_notes(results),
    ]


def _slack_note(claims: list[Claim]) -> list[str]:
    """In words, how loose the bounds on the distances of Theorem 2.4 are."""
    loose = [
        factor
        for claim in claims
        if claim.theorem == "2.4" and claim.holds and claim.slack and "bar" in claim.statement
        for factor in claim.slack
    ]
    if not loose:
        return []
    return [
        "A bound that holds says little where it is loose: those of Theorem 2.4 on the distances "
        f"to the linearized path are {min(loose):.0e} to {max(loose):.0e} times what was measured "
        "on the smooth models. There the slopes are the test, not the bounds."
    ]
