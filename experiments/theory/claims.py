"""A claim of a theorem, what was measured, and the rule by which it holds.

A verdict is earned by every number it rests on: one NaN among them, at any alpha, fails it. Bounds
say how far above the measured numbers they lie, since a loose one holds for almost anything.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Claim:
    """One statement, what was measured, and whether it holds.

    ``slack`` is, for a bound, how many times what was measured it is: least and greatest.
    """

    theorem: str
    statement: str
    expected: str
    measured: str
    holds: bool | None
    slack: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """In words; none where the theorem says nothing."""
        return {True: "holds", False: "FAILS", None: "not covered"}[self.holds]

    @property
    def slack_text(self) -> str:
        """The slack as a range of factors; empty for what is no bound."""
        return "" if self.slack is None else "{} to {}".format(*map(_factor, self.slack))


def _factor(value: float) -> str:
    return f"{value:.0e}" if math.isfinite(value) and value >= 1e3 else f"{float(f'{value:.2g}'):g}"


def column(run: dict[str, Any], name: str) -> np.ndarray:
    """A curve as numbers; what a result keeps as null is NaN."""
    return np.array(run["curves"][name], dtype=float)


def last(run: dict[str, Any], name: str) -> float:
    """The last value of a curve; NaN where any before it is not finite."""
    values = column(run, name)
    return float(values[-1]) if np.isfinite(values).all() else math.nan


def slope(x: Any, y: Any) -> float:
    """Slope of log y against log x; NaN for fewer than two values, or any not positive and finite.

    No point is left out: a slope of the points that happen to be finite would hide the others.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    good = (x > 0) & (y > 0) & np.isfinite(x) & np.isfinite(y)
    if len(x) < 2 or not good.all():
        return math.nan
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def fitted_exponent(x: Any, y: Any, start: float) -> float:
    """`slope` from ``x = start`` on; NaN where any y, before it too, is not finite."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    late = x >= start
    return slope(x[late], y[late]) if np.isfinite(y).all() else math.nan


def mean_claim(
    theorem: str, statement: str, values: Sequence[float], expected: float, tolerance: float
) -> Claim:
    """The mean over seeds lies within a tolerance, fixed beforehand, of what is expected."""
    mean = float(np.mean(values)) if len(values) else math.nan
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Claim(
        theorem, statement, f"{expected:g} ± {tolerance:g}", f"{mean:.4f} ± {spread:.4f}",
        bool(abs(mean - expected) <= tolerance),
    )  # fmt: skip


def bound_claim(
    theorem: str,
    statement: str,
    measured: Any,
    bounds: Any,
    *,
    rounding: float = 0.0,
    resolved: float = 0.0,
) -> Claim:
    """Nothing measured is above its bound; says by how much the bound is loose.

    The slack is that of the numbers above ``resolved``, the measurement's own error.
    """
    measured = np.asarray(measured, dtype=float)
    ratios = measured / np.asarray(bounds, dtype=float)
    if not ratios.size:
        return Claim(theorem, f"{statement} over its bound", "at most 1", "nothing", False)
    seen = ratios[~(measured <= resolved)]
    slack = (float(1 / seen.max()), float(1 / seen.min())) if seen.size else None
    return Claim(
        theorem, f"{statement} over its bound", "at most 1",
        f"largest {ratios.max():.3g}, median {np.median(ratios):.2g}",
        bool(ratios.max() <= 1 + rounding), slack,
    )  # fmt: skip


def at_most_claim(
    theorem: str, statement: str, values: Any, most: float, style: str = "{:.4f}"
) -> Claim:
    """The greatest of the values is no greater than ``most``."""
    worst = float(np.max(np.asarray(values, dtype=float)))
    text = f"at most {most:g}"
    return Claim(theorem, statement, text, style.format(worst), bool(worst <= most))


def at_least_claim(
    theorem: str, statement: str, values: Any, least: float, style: str = "{:.4f} or more"
) -> Claim:
    """The least of the values is no less than ``least``."""
    worst = float(np.min(np.asarray(values, dtype=float)))
    text = f"at least {least:g}"
    return Claim(theorem, statement, text, style.format(worst), bool(worst >= least))


def contrasts(claims: Sequence[Claim], model: str) -> list[Claim]:
    """The same numbers of a model outside the hypotheses: no verdict."""
    return [
        dataclasses.replace(claim, statement=f"{claim.statement}, {model}", holds=None)
        for claim in claims
    ]
