"""Accuracy of the rows, their differences and how accuracy grows with the images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.tables import Table, mean_and_range, short
from experiments.open_question.paired import correct_answers, paired_difference, points

ROWS = {
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


def _groups(results: pd.DataFrame) -> Iterator[tuple[int, str, pd.DataFrame]]:
    for n_train, group in results.groupby("n_train"):
        for row in ROWS:
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
                "row": ROWS[row],
                "test %": mean_and_range(columns["test accuracy"]),
                "leave-one-out %": mean_and_range(columns["left-out accuracy"]),
                "features": f"{features.mean():,.0f}" if len(features) else "–",
                "condition number": short(columns["condition number"].mean()),
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


def difference_table(results: pd.DataFrame) -> Table:
    """Paired differences of rows on the same test images, with 95% intervals."""
    numbers: list[dict[str, Any]] = []
    for n_train, group in results.groupby("n_train"):
        arrays = correct_answers(group)
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
            "difference": f"{r['first']} – {ROWS[r['second']]}",
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
    for row, label in ROWS.items():
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
        for row in ROWS
        if f"{row}: test accuracy" in results
    }
    order = sorted(found, key=lambda row: found[row].mean())
    bars = [
        (ROWS[row], plots.colour(_COLOURS[row.partition(",")[0]]), list(found[row]))
        for row in order
    ]
    images, label = int(results["n_train"].iloc[0]), results["data_label"].iloc[0]
    return plots.accuracy_bars(bars, images, label)


def _points(row: dict[str, Any], kind: str) -> str:
    return points(row[kind], row[f"{kind} ±"]) if kind in row else "–"
