"""Section 3.2's claims, computed from accuracies on all images: what holds, and by how much.

Each claim is a comparison of numbers with a rule stated here beforehand. A difference of two test
accuracies is given in its standard errors: those of the finite test set, the two errors taken as
independent (on the same images they are not, which makes the figure cautious), and with several
seeds also the spread between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from experiments.drawing.axes import power
from experiments.networks.rows import is_exact, network_label

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
    size: float | None
    width: float | None = None
    alpha: float | None = None
    model: str | None = None


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


_KINDS = {"random-patches": "patches", "scattering": "scattering", "roto": "scattering"}
_FIXED = {
    "random-patches": "random patches, ridge",
    "random-patches-gaussian": "random patches, Gaussian kernel",
    "scattering-ridge": "scattering, ridge",
    "scattering-gaussian": "scattering, Gaussian kernel",
    "roto-translation": "roto-translation scattering, Gaussian kernel",
}


def rows(networks: pd.DataFrame, fixed: pd.DataFrame) -> list[Row]:
    """Rows of the comparison: networks by width and scale, then fixed representations.

    Parameters
    ----------
    networks : DataFrame
        Runs of `experiments.fig3b`, with columns model, method, width, alpha, seed, status, ...
    fixed : DataFrame
        Runs of `experiments.baselines` on the same images; may be empty.
    """
    found = []
    if "width" not in networks:
        networks = networks.assign(width=math.nan)
    of_a_row = ["model", "width", "alpha", "method"]
    for _, group in networks.groupby(of_a_row, sort=False, dropna=False):
        first = group.iloc[0]
        standard, solved = first["alpha"] == 1, is_exact(first["method"])
        width = None if first["width"] != first["width"] else float(first["width"])
        found.append(
            _row(
                group,
                kind="standard" if standard else "solved" if solved else "lazy",
                name=network_name(first["model"], width, first["alpha"], solved=solved),
                size=first.get("size"),
                width=width,
                alpha=float(first["alpha"]),
                model=str(first["model"]),
            )
        )
    if len(fixed):
        for _, group in fixed.groupby(["method", "size", "flips"], sort=False):
            first = group.iloc[0]
            kind = next(k for prefix, k in _KINDS.items() if first["method"].startswith(prefix))
            mirrored = ", mirror images averaged" if first["flips"] == "average" else ""
            name = f"{_FIXED[first['method']]}{mirrored}"
            found.append(_row(group, kind=kind, name=name, size=first.get("n_features")))
    return found


def network_name(model: str, width: float | None, alpha: float, *, solved: bool = False) -> str:
    """A network's name with its width and scale: "VGG-11, width 1/2, α = 10⁷"."""
    scale = "linearized, solved" if solved else f"α = {power(alpha)}"
    size = "" if width is None else f", width {_size(width)}"
    return f"{network_label(model)}{size}, {scale}"


def _size(width: float) -> str:
    inverse = 1 / width
    return f"1/{int(inverse)}" if width < 1 and inverse == int(inverse) else f"{width:g}"


def _row(group: pd.DataFrame, *, kind: str, name: str, **more: Any) -> Row:
    first = group.iloc[0]
    test = _mean(group, "test_accuracy")
    error = None if test is None else _standard_error(group["test_accuracy"].dropna(), test, first)
    return Row(
        kind=kind,
        name=name,
        method=str(first["method"]),
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


def claims(found: Sequence[Row]) -> list[Claim]:
    """The claims of Chizat et al. 2019, Section 3.2, on a comparison's rows."""
    standard, lazy = _best(found, "standard"), _best(found, "lazy")
    patches, scattering = _best(found, "patches"), _best(found, "scattering")
    result = [
        _above("standard CNN > random features (best of each)", standard, patches),
        _above("random features > scattering (best of each)", patches, scattering),
        _above("scattering > lazy CNN (best of each)", scattering, lazy),
        _above("standard CNN > lazy CNN (best of each)", standard, lazy),
    ]
    for one, other in pairs(found):
        result.append(
            _above(f"{one.name} above the same network at {_scale(other)}: test", one, other)
        )
        result.append(_less_training(one, other))
        result.append(_no_overfitting(other))
    result.extend(_widening(found))
    return result


def _scale(row: Row) -> str:
    return row.name.rpartition(", ")[2]


def _best(found: Sequence[Row], kind: str) -> Row | None:
    known = [row for row in found if row.kind == kind and row.test is not None]
    return max(known, key=lambda row: row.test or 0.0, default=None)


def _above(text: str, one: Row | None, other: Row | None) -> Claim:
    if one is None or other is None or one.test is None or other.test is None:
        return Claim(text, "–", None)
    difference = one.test - other.test
    errors = difference / math.hypot(one.error or 0.0, other.error or 0.0)
    found = (
        f"{100 * one.test:.1f} ({one.name}) against {100 * other.test:.1f} ({other.name}): "
        f"{100 * difference:+.1f} points, {errors:+.1f} standard errors"
    )
    return Claim(text, found, errors >= CLEAR, undecided=abs(errors) < CLEAR)


def pairs(found: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Every network at alpha = 1 with the same network at its largest scale."""
    found_pairs = []
    for row in found:
        if row.kind != "standard" or row.test is None:
            continue
        size = (row.model, row.width)
        lazy = [r for r in found if r.kind == "lazy" and r.test is not None]
        same = [r for r in lazy if (r.model, r.width) == size]
        if same:
            found_pairs.append((row, max(same, key=lambda r: r.alpha or 0.0)))
    return found_pairs


def _less_training(one: Row, other: Row) -> Claim:
    text = f"{other.name} reaches less than alpha = 1 on the training images"
    if one.train is None or other.train is None:
        return Claim(text, "–", None)
    found = f"{100 * other.train:.1f} against {100 * one.train:.1f}"
    return Claim(text, found, other.train < one.train)


def _no_overfitting(row: Row) -> Claim:
    text = f"{row.name} does not overfit (training minus test at most {100 * SMALL_GAP:g} points)"
    if row.train is None or row.test is None:
        return Claim(text, "–", None)
    gap = row.train - row.test
    return Claim(
        text,
        f"{100 * row.train:.1f} - {100 * row.test:.1f} = {100 * gap:.1f} points",
        gap <= SMALL_GAP,
    )


def _widening(found: Sequence[Row]) -> list[Claim]:
    """Whether a lazy network gains from width: its widest against its narrowest."""
    result = []
    for model in dict.fromkeys(row.model for row in found if row.kind == "lazy"):
        same = [r for r in found if r.kind == "lazy" and r.model == model and r.test is not None]
        same.sort(key=lambda r: r.width or 0.0)
        if len({r.width for r in same}) > 1:
            text = f"widening helps the lazy {network_label(str(model))}"
            result.append(_above(text, same[-1], same[0]))
    return result
