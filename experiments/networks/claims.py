"""Claims on trained networks: a comparison of numbers by a rule stated beforehand, and its verdict.

A difference of two test accuracies is given in its standard errors: those of the finite test set,
the two errors taken as independent (on the same images they are not, which makes the figure
cautious), and with several seeds also the spread between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from experiments.drawing.axes import power
from experiments.drawing.tables import Table
from experiments.networks.rows import network_label

CLEAR = 2.0  # standard errors from which a difference counts
SMALL_GAP = 0.05  # training minus test accuracy up to which there is no overfitting


@dataclass(frozen=True)
class Row:
    """One method with its accuracies, means over seeds.

    Parameters
    ----------
    kind : str
        "standard", "lazy", "patches" or "scattering": its place in the paper's order; "solved"
        for a linearized network that is solved, which has none.
    name : str
        As tables and figures call it.
    test, train : float or None
        Accuracies in [0, 1]; None where it diverged or was not measured.
    error : float or None
        Standard error of ``test``.
    """

    kind: str
    name: str
    method: str
    test: float | None
    train: float | None
    error: float | None
    runs: int
    stability: float | None
    cpu_hours: float | None
    size: float | None = None
    width: float | None = None
    alpha: float | None = None
    model: str | None = None

    @property
    def scale(self) -> str:
        """The end of a network's name: "α = 10⁷"."""
        return self.name.rpartition(", ")[2]


@dataclass(frozen=True)
class Claim:
    """A claim, the numbers it was held against, and whether it holds (None: not measured).

    ``undecided``: the difference is less than `CLEAR` standard errors either way.
    """

    text: str
    found: str
    holds: bool | None
    undecided: bool = False

    @property
    def verdict(self) -> str:
        """In words."""
        if self.undecided:
            return "undecided"
        return {True: "holds", False: "does not hold", None: "not measured"}[self.holds]


def network_name(model: str, width: float | None, alpha: float, *, solved: bool = False) -> str:
    """A network's name with its width and scale: "VGG-11, width 1/2, α = 10⁷"."""
    scale = "linearized, solved" if solved else f"α = {power(alpha)}"
    size = "" if width is None else f", width {_size(width)}"
    return f"{network_label(model)}{size}, {scale}"


def _size(width: float) -> str:
    inverse = 1 / width
    return f"1/{int(inverse)}" if width < 1 and inverse == int(inverse) else f"{width:g}"


def row_of(group: pd.DataFrame, *, kind: str, name: str, **more: Any) -> Row:
    """The row of a group of runs that differ in their seed only."""
    first = group.iloc[0]
    test = _mean(group, "test_accuracy")
    error = None if test is None else _standard_error(group["test_accuracy"].dropna(), test, first)
    return Row(
        kind=kind,
        name=name,
        method=str(first.get("method", "")),
        test=test,
        train=_mean(group, "train_accuracy"),
        error=error,
        runs=len(group),
        stability=_mean(group, "stability"),
        cpu_hours=None if (cpu := _mean(group, "cpu_seconds")) is None else cpu / 3600,
        **more,
    )


def _mean(group: pd.DataFrame, column: str) -> float | None:
    if column not in group:
        return None
    values = group[column].dropna().astype(float)
    return float(values.mean()) if len(values) == len(group) else None


def _standard_error(values: pd.Series, mean: float, first: pd.Series) -> float:
    """Of the mean over seeds: the finite test set, which all share, and the seeds' spread."""
    images = first.get("n_test")
    images = 10_000 if images is None or images != images else int(images)
    squared = mean * (1 - mean) / images
    if len(values) > 1:
        squared += float(values.astype(float).var(ddof=1)) / len(values)
    return math.sqrt(squared)


def above(text: str, one: Row | None, other: Row | None) -> Claim:
    """Whether one test accuracy is above another by `CLEAR` standard errors or more."""
    if one is None or other is None or one.test is None or other.test is None:
        return Claim(text, "–", None)
    difference = one.test - other.test
    errors = difference / math.hypot(one.error or 0.0, other.error or 0.0)
    found = (
        f"{100 * one.test:.1f} ({one.name}) against {100 * other.test:.1f} ({other.name}): "
        f"{100 * difference:+.1f} points, {errors:+.1f} standard errors"
    )
    return Claim(text, found, errors >= CLEAR, undecided=abs(errors) < CLEAR)


def claim_table(made: Sequence[Claim], label: str) -> Table:
    """The claims of the paper's Section 3.2 and what the measured numbers say of them."""
    numbers = [{"claim": c.text, "found": c.found, "holds": c.holds} for c in made]
    shown = [{"claim": c.text, "measured, test %": c.found, "verdict": c.verdict} for c in made]
    notes = [
        "A difference counts from two standard errors on. Said of these widths, epochs and images "
        "only."
    ]
    return Table(f"Section 3.2 on {label}", pd.DataFrame(numbers), pd.DataFrame(shown), notes)


def less_training(one: Row, other: Row) -> Claim:
    """Whether ``other`` reaches less than ``one``, at alpha = 1, on the training images."""
    text = f"{other.name} reaches less than alpha = 1 on the training images"
    if one.train is None or other.train is None:
        return Claim(text, "–", None)
    found = f"{100 * other.train:.1f} against {100 * one.train:.1f}"
    return Claim(text, found, other.train < one.train)


def no_overfitting(row: Row) -> Claim:
    """Whether training and test accuracy are no more than `SMALL_GAP` apart."""
    text = f"{row.name} does not overfit (training minus test at most {100 * SMALL_GAP:g} points)"
    if row.train is None or row.test is None:
        return Claim(text, "–", None)
    gap = row.train - row.test
    return Claim(
        text,
        f"{100 * row.train:.1f} - {100 * row.test:.1f} = {100 * gap:.1f} points",
        gap <= SMALL_GAP,
    )
