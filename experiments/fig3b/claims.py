"""Section 3.2's claims, computed from accuracies on all images: what holds, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from experiments.networks.claims import (
    Claim,
    Row,
    above,
    less_training,
    network_name,
    no_overfitting,
    row_of,
)
from experiments.networks.rows import is_exact, is_stopped, network_label

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
        standard = first["alpha"] == 1
        solved = is_exact(first["method"]) or is_stopped(first["method"])
        width = None if first["width"] != first["width"] else float(first["width"])
        found.append(
            row_of(
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
            found.append(row_of(group, kind=kind, name=name, size=first.get("n_features")))
    return found


def claims(found: Sequence[Row]) -> list[Claim]:
    """The claims of Chizat et al. 2019, Section 3.2, on a comparison's rows."""
    standard, lazy = _best(found, "standard"), _best(found, "lazy")
    patches, scattering = _best(found, "patches"), _best(found, "scattering")
    result = [
        above("standard CNN > random features (best of each)", standard, patches),
        above("random features > scattering (best of each)", patches, scattering),
        above("scattering > lazy CNN (best of each)", scattering, lazy),
        above("standard CNN > lazy CNN (best of each)", standard, lazy),
    ]
    for one, other in pairs(found):
        result.append(
            above(f"{one.name} above the same network at {other.scale}: test", one, other)
        )
        result.append(less_training(one, other))
        result.append(no_overfitting(other))
    result.extend(_widening(found))
    result.extend(_losses(found))
    return result


def _losses(found: Sequence[Row]) -> list[Claim]:
    """What optimization loses (solved against trained) and the kernel (alpha = 1 against it)."""
    result = []
    for solved in (row for row in found if row.kind == "solved"):
        size = (solved.model, solved.width)
        same = [r for r in found if (r.model, r.width) == size and r.test is not None]
        lazy = max((r for r in same if r.kind == "lazy"), key=lambda r: r.alpha or 0, default=None)
        standard = next((r for r in same if r.kind == "standard"), None)
        name = solved.name.removesuffix(", solved")
        result.append(above(f"{name}: solved above trained (lost by optimization)", solved, lazy))
        result.append(above(f"{name}: α = 1 above solved (lost by the kernel)", standard, solved))
    return result


def _best(found: Sequence[Row], kind: str) -> Row | None:
    known = [row for row in found if row.kind == kind and row.test is not None]
    return max(known, key=lambda row: row.test or 0.0, default=None)


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


def _widening(found: Sequence[Row]) -> list[Claim]:
    """Whether a lazy network gains from width: its widest against its narrowest."""
    result = []
    for model in dict.fromkeys(row.model for row in found if row.kind == "lazy"):
        same = [r for r in found if r.kind == "lazy" and r.model == model and r.test is not None]
        same.sort(key=lambda r: r.width or 0.0)
        if len({r.width for r in same}) > 1:
            text = f"widening helps the lazy {network_label(str(model))}"
            result.append(above(text, same[-1], same[0]))
    return result
