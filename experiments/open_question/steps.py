"""The waterfall: every step from the paper's VGG-11 to A and B, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.tables import Table, mean_and_range, percent, short
from experiments.open_question.paired import paired_difference, points
from experiments.runs.results import read_arrays

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

_A = list(_STEPS).index("mirrored")


def _step_rows(results: pd.DataFrame) -> list[dict[str, Any]]:
    """A dict a step, in order; a wider A after A."""
    results = results.assign(
        step=results["part"].where(~results["part"].isin(("waterfall", "pixels")), results["lever"])
        if "lever" in results
        else results["part"],
        width=results["width"].fillna(0).astype(int) if "width" in results else 0,
    )
    # A's own width is that of the other steps; alone, the least.
    mirrored = results["step"] == "mirrored"
    main = int(results.loc[~mirrored, "width"].max() if not mirrored.all() else 0)
    if not main and mirrored.any():
        main = int(results.loc[mirrored, "width"].min())
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
                "correct": _correct(group),
            }
        )
    rows.sort(key=lambda row: (row["n_train"], row["order"]))
    for row, before in _with_the_ones_before(rows):
        seeds = sorted(row["correct"].keys() & before["correct"].keys())
        if seeds and row["n_test"] == before["n_test"]:
            row["gain"] = paired_difference(
                *([r["correct"][seed] for seed in seeds] for r in (row, before))
            )
    return rows


def _correct(group: pd.DataFrame) -> dict[int, np.ndarray]:
    """Which test images are right, by draw."""
    if "path" not in group:
        return {}
    runs = zip(group["seed"], group["path"], strict=True)
    return {int(seed): read_arrays(Path(path))["correct"] for seed, path in runs}


def _with_the_ones_before(
    rows: list[dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every step with the one that it is a gain over: the one before, and A from A on."""
    last: dict[int, dict[str, Any]] = {}
    for row in rows:
        n_train = row["n_train"]
        if n_train in last:
            yield row, last[n_train]
        if row["order"][0] <= _A and not row["order"][1]:
            last[n_train] = row


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
                "gain": r["gain"][0] if "gain" in r else None,
                "gain ±": r["gain"][1] if "gain" in r else None,
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
                "gain, points": points(*r["gain"]) if "gain" in r else "–",
                "leave-one-out %": percent(
                    float(np.mean(r["left_out"])) if r["left_out"] else None
                ),
                "features": "–" if np.isnan(r["features"]) else f"{r['features']:,.0f}",
                "condition number": short(r["condition_number"]),
                "CPU s": f"{r['cpu_seconds']:,.0f}",
            }
            for r in rows
        ]
    )
    counts = ", ".join(f"{n:,}" for n in sorted({r["n_test"] for r in rows}))
    notes = [
        f"{results['data_label'].iloc[0]}; {counts} test images; every step keeps what the ones "
        "before it brought, VGG-11's excepted.",
        "Gain: over the step before, below A over A; paired on the same test images, 95% interval.",
    ]
    return Table("From the paper's VGG-11 to A and B", numbers, shown, notes)


def steps_figure(results: pd.DataFrame) -> Figure:
    """Test accuracy of every step as bars, from top to bottom; dots are draws."""
    rows = _step_rows(results)
    largest = max(row["n_train"] for row in rows)
    rows = [row for row in rows if row["n_train"] == largest]
    colour = plots.colour("tangent-kernel")
    bars = [(row["step"], colour, [100 * a for a in row["accuracies"]]) for row in rows]
    fig = plots.accuracy_bars(bars, largest, results["data_label"].iloc[0])
    fig.axes[0].invert_yaxis()
    return fig
