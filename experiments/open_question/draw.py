"""Figures and tables of the open question, made from results only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.tables import Table, mean_and_range, percent, write_table
from experiments.runs.results import read_arrays

_ROWS = {
    "A": "A: linearized convolution",
    "B": "B: A and two dense branches",
    "patches, ridge": "random patches, ridge",
    "patches, Gaussian": "random patches, Gaussian",
    "roto-translation, Gaussian": "roto-translation scattering, Gaussian",
    "scattering, ridge": "scattering, ridge",
    "scattering, Gaussian": "scattering, Gaussian",
    "both Gaussians": "sum of both Gaussian kernels",
}
_COLOURS = {
    "A": "tangent-kernel",
    "B": "vgg11",
    "patches": "random-patch",
    "scattering": "scattering",
    "roto-translation": "roto-translation",
    "both Gaussians": "gaussian",
}
_PAIRS = (
    ("A", "patches, Gaussian"),
    ("A", "scattering, Gaussian"),
    ("A", "both Gaussians"),
    ("A", "roto-translation, Gaussian"),
    ("B", "A"),
    ("B", "both Gaussians"),
)
_STEPS = {
    "vgg11": "VGG-11 linearized, max pooling, on pixels",
    "vgg11-average": "VGG-11 with average pooling",
    "vgg11-global": "and a global average",
    "random": "one convolution behind random filters on pixels",
    "patches": "filters are whitened patches, contrast normalized",
    "whitened": "channels whitened",
    "overlapping": "poolings overlap",
    "mirrored": "mirror images averaged: A",
    "infinite": "A infinitely wide",
    "branches": "dense branches on patches and scattering: B",
    "trained": "A trained at alpha = 1",
}


def _groups(results: pd.DataFrame) -> Iterator[tuple[int, str, pd.DataFrame]]:
    for n_train, group in results.groupby("n_train"):
        for row in _ROWS:
            if f"{row}: test accuracy" in group and group[f"{row}: test accuracy"].notna().any():
                group_of_row = group[group[f"{row}: test accuracy"].notna()]
                yield int(n_train), row, group_of_row  # type: ignore[call-overload,arg-type]


def _count(row: Any, name: str) -> str:
    return f"{int(row[name]):,}" if name in row and row[name] == row[name] else "–"


def accuracy_table(results: pd.DataFrame) -> Table:
    """Test and leave-one-out accuracy of every row, with its conditioning and CPU time.

    ``results`` has a row a run of part "table", with columns "<row>: test accuracy" and so on.
    """
    numbers, shown = [], []
    for n_train, row, group in _groups(results):
        columns = {
            name: group[f"{row}: {name}"]
            for name in ("test accuracy", "left-out accuracy", "condition number", "cpu seconds")
        }
        features = group[f"{row}: features"].dropna()
        numbers.append(
            {
                "n_train": n_train,
                "row": row,
                "draws": len(group),
                "features": float(features.mean()) if len(features) else None,
                **{name.replace(" ", "_"): float(c.mean()) for name, c in columns.items()},
                "chosen": "; ".join(sorted(set(group[f"{row}: chosen"].astype(str)) - {""})),
            }
        )
        shown.append(
            {
                "images": f"{n_train:,}",
                "row": _ROWS[row],
                "test %": mean_and_range(columns["test accuracy"]),
                "leave-one-out %": mean_and_range(columns["left-out accuracy"]),
                "features": f"{features.mean():,.0f}" if len(features) else "–",
                "condition number": _short(columns["condition number"].mean()),
                "CPU s": f"{columns['cpu seconds'].mean():,.0f}",
            }
        )
    first = results.sort_values("part", key=lambda part: part != "table").iloc[0]
    averaged = "averaged" if first["mirror"] else "not used"
    notes = [
        f"{first['data_label']}; {int(first['n_test']):,} test images; "
        f"{_count(first, 'filters')} filters, width {_count(first, 'width')}; mirror images "
        f"{averaged} in every row; all choices by leave-one-out. Means over draws of images, "
        "filters and weights, [least, greatest].",
        "Condition number: of the centred kernel plus ridge. CPU seconds: frozen "
        "representations that the row reads, fit and test images; rows share some.",
    ]
    return Table("Accuracy", pd.DataFrame(numbers), pd.DataFrame(shown), notes)


def _short(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2g}"


def paired_difference(first: list[np.ndarray], second: list[np.ndarray]) -> tuple[float, float]:
    """Mean difference of two rows' accuracies and half of its 95% interval.

    Parameters
    ----------
    first, second : lists of bool arrays
        Whether each test image is right, an array a draw; draws may share test images.

    Notes
    -----
    The variance is that of the paired difference over test images, not divided by the draws,
    which share them, plus the draws' own over their number.
    """
    differences = [a.astype(float) - b for a, b in zip(first, second, strict=True)]
    means = [float(d.mean()) for d in differences]
    images = float(np.mean([d.var(ddof=1) / len(d) for d in differences]))
    draws = float(np.var(means, ddof=1)) / len(means) if len(means) > 1 else 0.0
    return float(np.mean(means)), 1.96 * (images + draws) ** 0.5


def _points(row: dict[str, Any], kind: str) -> str:
    if kind not in row:
        return "–"
    return f"{100 * row[kind]:+.1f} ± {100 * row[f'{kind} ±']:.1f}"


def _correct(group: pd.DataFrame) -> list[dict[str, np.ndarray]]:
    """Arrays of a draw of images, all runs on it together; they share their test images."""
    found = []
    for _, runs in group.groupby("seed"):
        arrays: dict[str, np.ndarray] = {}
        for path in runs["path"]:
            arrays |= read_arrays(Path(path))
        found.append(arrays)
    return found


def difference_table(results: pd.DataFrame) -> Table:
    """Paired differences of rows on the same test images, with 95% intervals."""
    numbers: list[dict[str, Any]] = []
    for n_train, group in results.groupby("n_train"):
        arrays = _correct(group)
        for first, second in _PAIRS:
            found: dict[str, Any] = {"n_train": n_train, "first": first, "second": second}
            for kind in ("correct", "left out"):
                names = [f"{kind} {name}" for name in (first, second)]
                known = [a for a in arrays if all(name in a for name in names)]
                if known:
                    bits = [[a[name] for a in known] for name in names]
                    found[kind], found[f"{kind} ±"] = paired_difference(*bits)
                    found["draws"] = len(known)
            if "draws" in found:
                numbers.append(found)
    shown = [
        {
            "images": f"{r['n_train']:,}",
            "difference": f"{r['first']} – {_ROWS[r['second']]}",
            "test, points": _points(r, "correct"),
            "leave-one-out, points": _points(r, "left out"),
            "draws": r["draws"],
        }
        for r in numbers
    ]
    notes = [
        "95% intervals: variance over paired test images, which draws share, plus that over draws."
    ]
    return Table("Paired differences", pd.DataFrame(numbers), pd.DataFrame(shown), notes)


def accuracy_figure(results: pd.DataFrame) -> Figure:
    """Test accuracy against training images, mean and range over draws, a line a row.

    Of one number of images: a bar a row, the best on top, dots for draws.
    """
    if results["n_train"].nunique() == 1:
        return _accuracy_bars(results)
    fig, ax = plots.figure(size=(7.5, 3.8))
    for row, label in _ROWS.items():
        if f"{row}: test accuracy" not in results:
            continue
        by_n = 100 * results.groupby("n_train")[f"{row}: test accuracy"].agg(["mean", "min", "max"])
        colour = plots.colour(_COLOURS[row.partition(",")[0]])
        dashed = row.endswith("ridge")
        ax.errorbar(
            by_n.index,
            by_n["mean"],
            (by_n["mean"] - by_n["min"], by_n["max"] - by_n["mean"]),
            linestyle="--" if dashed else "-",
            marker="o" if row in ("A", "B") else "s",
            markersize=4,
            markerfacecolor="white" if dashed else colour,
            capsize=2,
            color=colour,
            label=label,
        )
    ax.set_xscale("log")
    ticks = sorted(results["n_train"].unique())
    ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
    ax.minorticks_off()
    ax.set(xlabel=f"training images ({results['data_label'].iloc[0]})", ylabel="test accuracy (%)")
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return fig


def _accuracy_bars(results: pd.DataFrame) -> Figure:
    found = {
        row: 100 * results[f"{row}: test accuracy"].dropna()
        for row in _ROWS
        if f"{row}: test accuracy" in results
    }
    order = sorted(found, key=lambda row: found[row].mean())
    bars = [
        (_ROWS[row], plots.colour(_COLOURS[row.partition(",")[0]]), list(found[row]))
        for row in order
    ]
    images, label = int(results["n_train"].iloc[0]), results["data_label"].iloc[0]
    return _bars(bars, f"test accuracy (%), {images:,} images of {label}; dots: draws")


def _bars(bars: list[tuple[str, str, list[float]]], xlabel: str) -> Figure:
    """Means of some values as bars, each with its label and colour, and the values as dots."""
    fig, ax = plots.figure(size=(7.0, 0.32 * len(bars) + 1.0))
    for place, (_, colour, values) in enumerate(bars):
        mean = float(np.mean(values))
        ax.barh(place, mean, color=colour, alpha=0.6)
        ax.plot(values, [place] * len(values), "o", color="black", markersize=3)
        ax.annotate(f"{mean:.1f}", (max(values), place), (5, -3), textcoords="offset points")
    ax.set_yticks(range(len(bars)), [label for label, *_ in bars])
    ax.set(xlabel=xlabel)
    return fig


def _step_rows(results: pd.DataFrame) -> list[dict[str, Any]]:
    """A dict a step, in order; a wider A after A."""
    results = results.assign(
        step=results["part"].where(~results["part"].isin(("waterfall", "pixels")), results["lever"])
        if "lever" in results
        else results["part"],
        width=results["width"].fillna(0).astype(int) if "width" in results else 0,
    )
    # A's own width is that of the other steps.
    plain = results.loc[results["step"] != "mirrored", "width"]
    main = int(plain.max()) if len(plain) and plain.max() else int(results["width"].min())
    rows = []
    for key, group in results.groupby(["n_train", "step", "width"]):
        n_train, step, width = int(key[0]), str(key[1]), int(key[2])  # type: ignore[call-overload]
        own = step != "mirrored" or width == main
        label = _STEPS[step] if own else f"A with width {width:,}"
        rows.append(
            {
                "n_train": n_train,
                "order": (list(_STEPS).index(step), not own, width),
                "step": label,
                "accuracies": list(group["test_accuracy"]),
                "left_out": list(group.get("left_out_accuracy", pd.Series(dtype=float)).dropna()),
                "features": float(group["features"].astype(float).mean()),
                "condition_number": float(
                    group.get("condition_number", pd.Series([np.nan])).mean()
                ),
                "cpu_seconds": float(group["total_cpu_seconds"].mean()),
                "n_test": int(group["n_test"].iloc[0]),
            }
        )
    return sorted(rows, key=lambda row: (row["n_train"], row["order"]))


def steps_table(results: pd.DataFrame) -> Table:
    """Every step from the paper's network to A and B, with its gain over the one before."""
    rows = _step_rows(results)
    numbers = pd.DataFrame(
        [
            {
                "n_train": r["n_train"],
                "n_test": r["n_test"],
                "step": r["step"],
                "draws": len(r["accuracies"]),
                "test_accuracy": float(np.mean(r["accuracies"])),
                "left_out_accuracy": float(np.mean(r["left_out"])) if r["left_out"] else None,
                "features": r["features"],
                "condition_number": r["condition_number"],
                "cpu_seconds": r["cpu_seconds"],
            }
            for r in rows
        ]
    )
    shown = pd.DataFrame(
        [
            {
                "images": f"{r['n_train']:,}",
                "step": r["step"],
                "test %": mean_and_range(r["accuracies"]),
                "leave-one-out %": percent(
                    float(np.mean(r["left_out"])) if r["left_out"] else None
                ),
                "features": "–" if np.isnan(r["features"]) else f"{r['features']:,.0f}",
                "condition number": _short(r["condition_number"]),
                "CPU s": f"{r['cpu_seconds']:,.0f}",
            }
            for r in rows
        ]
    )
    notes = [
        f"{results['data_label'].iloc[0]}; {', '.join(sorted({str(r['n_test']) for r in rows}))} "
        "test images; every step keeps what the ones before it brought, VGG-11's excepted."
    ]
    return Table("From the paper's VGG-11 to A and B", numbers, shown, notes)


def steps_figure(results: pd.DataFrame) -> Figure:
    """Test accuracy of every step as bars, from top to bottom; dots are draws."""
    rows = _step_rows(results)
    largest = max(row["n_train"] for row in rows)
    rows = [row for row in rows if row["n_train"] == largest]
    colour = plots.colour("tangent-kernel")
    bars = [(row["step"], colour, [100 * a for a in row["accuracies"]]) for row in rows]
    label = results["data_label"].iloc[0]
    fig = _bars(bars, f"test accuracy (%), {largest:,} images of {label}")
    fig.axes[0].invert_yaxis()
    return fig


_TABLE_PARTS = ("table", "roto-translation", "primal", "dual")


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw accuracy against images and the waterfall; write the tables."""
    paths: list[Path] = []
    table = results[results["part"].isin(_TABLE_PARTS)]
    steps = results[~results["part"].isin(_TABLE_PARTS)]
    with plots.style():
        if len(table):
            paths += write_table(accuracy_table(table), folder, "accuracy")
            differences = difference_table(table)
            if len(differences.numbers):  # a row alone is beside none
                paths += write_table(differences, folder, "differences")
            paths += plots.save_figure(accuracy_figure(table), folder, "accuracy")
        if len(steps):
            paths += write_table(steps_table(steps), folder, "steps")
            paths += plots.save_figure(steps_figure(steps), folder, "steps")
    return paths
