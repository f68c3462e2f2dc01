"""What Section 3.2 says of Figure 3(a), held against accuracies on all images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from experiments.networks.claims import (
    CLEAR,
    Claim,
    Row,
    above,
    less_training,
    network_name,
    no_overfitting,
    row_of,
)

SAME = 5e-4  # difference of two accuracies that are the same to three digits
ALL_STABLE = 0.999  # share of ReLUs that keep their sign from which all do


def rows(results: pd.DataFrame) -> list[Row]:
    """A row for every alpha, the least first; ``results`` has one rate for every alpha."""
    found = []
    for _, group in results.groupby("alpha"):
        first = group.iloc[0]
        alpha = float(first["alpha"])
        name = network_name(first["model"], float(first["width"]), alpha)
        kind = "standard" if alpha == 1 else "lazy"
        found.append(row_of(group, kind=kind, name=name, model=str(first["model"]), alpha=alpha))
    return found


def claims(found: Sequence[Row]) -> list[Claim]:
    """The claims on accuracy and stability against alpha, from `rows`; none without alpha = 1."""
    finite = [row for row in found if row.alpha is not None and math.isfinite(row.alpha)]
    if len(finite) < 2 or finite[0].alpha != 1:
        return []
    standard, laziest = finite[0], finite[-1]
    made = [
        above(f"{standard.name} above the same network at {laziest.scale}", standard, laziest),
        _never_rises(finite),
        less_training(standard, laziest),
        no_overfitting(laziest),
        _stable(finite),
    ]
    linearized = [row for row in found if row.alpha == math.inf]
    return made + [_same(laziest, row) for row in linearized]


def _never_rises(finite: Sequence[Row]) -> Claim:
    """Whether test accuracy never rises by `CLEAR` standard errors from one alpha to the next."""
    text = "test accuracy never rises with α"
    steps = [
        ((b.test - a.test) / math.hypot(a.error, b.error), a, b)
        for a, b in pairwise(finite)
        if a.test is not None and b.test is not None and a.error and b.error
    ]
    if len(steps) < len(finite) - 1:
        return Claim(text, "–", None)
    errors, a, b = max(steps, key=lambda step: step[0])
    found = f"largest step {errors:+.1f} standard errors, from {a.scale} to {b.scale}"
    return Claim(text, found, errors < CLEAR)


def _stable(finite: Sequence[Row]) -> Claim:
    """Whether ever more ReLUs keep their sign, and at the largest alpha all."""
    text = "the share of stable ReLUs rises with α to all of them"
    shares = [row.stability for row in finite if row.stability is not None]
    if len(shares) < len(finite):
        return Claim(text, "–", None)
    rising = all(b >= a for a, b in pairwise(shares))
    found = ", ".join(f"{100 * share:.1f}" for share in shares)
    return Claim(text, found, rising and shares[-1] >= ALL_STABLE)


def _same(laziest: Row, linearized: Row) -> Claim:
    """Whether training and test accuracy are those of the linearized network to three digits."""
    text = f"{laziest.name} is the linearized network to three digits"
    apart = []
    for a, b in ((laziest.train, linearized.train), (laziest.test, linearized.test)):
        if a is None or b is None:
            return Claim(text, "–", None)
        apart.append(abs(a - b))
    numbers = [laziest.train, linearized.train, laziest.test, linearized.test]
    shown = [f"{100 * (number or 0.0):.2f}" for number in numbers]
    found = f"train {shown[0]} and {shown[1]}, test {shown[2]} and {shown[3]}"
    return Claim(text, found, max(apart) < SAME)
