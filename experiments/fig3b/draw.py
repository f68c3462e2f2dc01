"""The table and the picture of Figure 3(b), made from results only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.drawing import plots
from experiments.drawing.axes import power
from experiments.drawing.tables import (
    Table,
    known_of,
    mean_and_range,
    mean_of,
    percent,
    provenance_notes,
    values_of,
    write_table,
)
from experiments.fig3b import draw_full as full_figure
from experiments.fig3b.claims import claims
from experiments.fig3b.draw_exact import exact_table, flow
from experiments.fig3b.draw_stopped import along_steps
from experiments.fig3b.paper import dagger, of_the_paper
from experiments.fig3b.settings import (
    DIRECT_METHODS,
    EXACT_METHODS,
    METHODS,
    STOPPED_METHODS,
)
from experiments.networks.claims import claim_table
from experiments.networks.rows import is_exact, is_stopped, network_label, split_method

_NAMES = {
    "random-features": "random features",
    "scattering": "scattering",
    "gaussian": "Gaussian kernel on pixels",
}


def published(results: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The paper's numbers of Figure 3(b): method -> metric -> `baselines.published.Published`.

    None where anything was measured on another data set than theirs.
    """
    return {} if (results["dataset"] != "cifar10").any() else of_the_paper()


def name(method: str, alpha: float | None = None) -> str:
    """A row's name: "VGG-11, α = 10⁷"."""
    if method in _NAMES:
        return _NAMES[method]
    model, kind = split_method(method)
    label = network_label(model)
    if kind in ("exact", "stopped"):
        return f"{label}, linearized, solved{' by steps' * (kind == 'stopped')}"
    if alpha is None or alpha != alpha:
        return label
    if math.isinf(alpha):
        return f"{label}, linearized (α = ∞)"
    way = ", by subtraction" if kind == "direct" else ""
    return f"{label}, α = {power(alpha)}{way}"


def _methods(results: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Method, name and runs of every row, in the order of the experiment."""
    order = list(METHODS)
    for method in DIRECT_METHODS:
        order.insert(order.index(method.replace("direct", "lazy")) + 1, method)
    for method in EXACT_METHODS:
        order.insert(order.index(method.replace("exact", "linear")) + 1, method)
    for method in STOPPED_METHODS:
        order.insert(order.index(method.replace("stopped", "exact")) + 1, method)
    others = [m for m in dict.fromkeys(results["method"]) if m not in order]
    first = next((i for i, m in enumerate(order) if m in _NAMES), len(order))
    found = []
    for method in (*order[:first], *others, *order[first:]):
        found += _variants(method, results[results["method"] == method])
    return found


def _variants(method: str, rows: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Rows of one method apart, where they are of several widths, scales or weights."""
    if not len(rows):
        return []
    telling = [c for c in ("width", "alpha", "weights_digest") if c in rows]
    varying = [c for c in telling if rows[c].nunique(dropna=False) > 1]
    if not varying:
        return [(method, name(method, _alpha(rows)), rows)]
    found = []
    for _, part in rows.groupby(varying, sort=False, dropna=False):
        width = f", width {part['width'].iloc[0]:g}" if "width" in varying else ""
        found.append((method, f"{name(method, _alpha(part))}{width}", part))
    return found


def _alpha(rows: pd.DataFrame) -> float | None:
    return None if "alpha" not in rows else rows["alpha"].iloc[0]


def accuracy_table(results: pd.DataFrame) -> Table:
    """Measured accuracies, cost and size of every method, beside the paper's.

    ``results`` has a row a run, with columns method, alpha, seed, train_accuracy, test_accuracy,
    stability, size, cpu_seconds and peak_memory_bytes.
    """
    paper = published(results)
    numbers, shown = [], []
    for method, title, rows in _methods(results):
        known = paper.get(method, {})
        stable, size = mean_of(rows, "stability"), mean_of(rows, "size")
        cpu, memory = mean_of(rows, "cpu_seconds"), max(known_of(rows, "peak_memory_bytes"))
        # The largest rise of the process's memory during a run.
        rise = float((rows["peak_memory_bytes"] - rows["memory_before_bytes"]).max())
        record: dict[str, Any] = {"method": method, "alpha": _alpha(rows), "runs": len(rows)}
        record["diverged"] = int((rows["status"] == "diverged").sum())
        for metric in ("train_accuracy", "test_accuracy"):
            values = known_of(rows, metric)
            record[f"{metric}_mean"] = mean_of(rows, metric)
            record[f"{metric}_min"] = min(values, default=None)
            record[f"{metric}_max"] = max(values, default=None)
            number = known.get(metric)
            record[f"published_{metric}"] = number.value if number else None
            record[f"published_{metric}_status"] = number.status if number else None
        numbers.append(
            {
                **record,
                "stability": stable,
                "cpu_seconds": cpu,
                "peak_memory_bytes": memory,
                "memory_rise_bytes": rise,
                "parameters_or_features": size,
            }
        )
        shown.append(
            {
                "method": title,
                "train %": mean_and_range(values_of(rows, "train_accuracy")),
                "test %": mean_and_range(values_of(rows, "test_accuracy")),
                "stable %": percent(stable, 2),
                "CPU seconds": "–" if cpu != cpu else f"{cpu:.1f}",
                "peak MB": f"{memory / 2**20:.0f} [+{rise / 2**20:.0f}]",
                "parameters or features": "–" if size != size else f"{size:,.0f}",
                **(
                    {
                        "paper: train %": dagger(known.get("train_accuracy")),
                        "paper: test %": dagger(known.get("test_accuracy")),
                    }
                    if paper
                    else {}
                ),
            }
        )
    caption = f"Figure 3(b) on {_label(results)}"
    return Table(caption, pd.DataFrame(numbers), pd.DataFrame(shown), _notes(results, paper))


def _label(results: pd.DataFrame) -> str:
    first = results.iloc[0]
    sizes = [first.get("n_train"), first.get("n_test")]
    train, test = ("all" if n is None or n != n else f"{int(n):,}" for n in sizes)
    label = first["data_label"] or first["dataset"]
    return f"{label} ({train} training, {test} test images)"


def _notes(results: pd.DataFrame, paper: dict[str, dict[str, Any]]) -> list[str]:
    count = results["seed"].nunique()
    mark = results["data_fingerprint"].iloc[0]
    notes = [
        f"Measured: mean [least, greatest] over {count} seed{'s' * (count > 1)}; a seed draws "
        "images and weights. Stable: ReLUs with the sign they had at initialization, on test "
        "images. CPU seconds of one run (fit and scores), all threads together; peak memory of the "
        "whole process and, in brackets, its rise during the run. "
        f"Data {str(mark)[:12]}.",
    ]
    if paper:
        notes.append(
            "Paper: Chizat, Oyallon and Bach 2019, Figure 3(b): CIFAR-10, all 50,000 lossless "
            "training images, networks 8 (VGG-11) and 7 (ResNet-18) times as wide. On a few "
            "thousand images or fewer nothing here tests the order of its methods, nor that lazy "
            "training does not overfit."
        )
    elif "digits" in set(results["dataset"]):
        notes.append(
            "What digits can show: that at alpha = 1e7 a network trains like its linearization "
            "and keeps its activations. What they cannot: the paper's order of methods, which is "
            "about natural images; small digits are easy for all of them."
        )
    notes += provenance_notes(results)
    statuses = {n.status for row in paper.values() for n in row.values()}
    if "recalled" in statuses:
        notes.append("† Recalled from the published figure and not checked against print.")
    return notes


def accuracies(results: pd.DataFrame) -> Figure:
    """Test accuracy of every method as a bar, its training accuracy and the paper's as markers.

    Bars are means over seeds and lines their range. ``results`` as in `accuracy_table`.
    """
    rows_of = _methods(results)
    paper = published(results)
    fig, ax = plots.figure(size=(6.4, 0.42 * len(rows_of) + 1.5))
    # A grey bar in the legend: the bars have their methods' colours.
    handles: dict[str, Any] = {"test, measured": Patch(color="0.6")}
    for y, (method, _, rows) in enumerate(rows_of):
        test, train = (
            [100 * v for v in known_of(rows, c)] for c in ("test_accuracy", "train_accuracy")
        )
        if test:
            mean = sum(test) / len(test)
            spread = [[mean - min(test)], [max(test) - mean]]
            ax.barh(y, mean, height=0.5, color=plots.colour(method), alpha=0.85, zorder=1)
            if len(test) > 1:  # one seed has no range
                ax.errorbar(mean, y, xerr=spread, color="black", lw=1, capsize=2.5, zorder=3)
        else:
            ax.text(1, y, "diverged", va="center")
        if train:
            mean = sum(train) / len(train)
            (dot,) = ax.plot(mean, y, "o", mfc="white", mec="black", ms=5, zorder=4)
            handles.setdefault("train, measured", dot)
        for metric, fill in (("test_accuracy", "black"), ("train_accuracy", "white")):
            number = paper.get(method, {}).get(metric)
            if number:
                dagger = "†" if number.status == "recalled" else ""
                split = metric.partition("_")[0]
                (mark,) = ax.plot(
                    100 * number.value, y + 0.33, "^", mfc=fill, mec="black", ms=5, zorder=5
                )
                handles.setdefault(f"{split}, paper{dagger} (CIFAR-10)", mark)
    ax.set_yticks(range(len(rows_of)), [title for _, title, _ in rows_of])
    ax.set(xlim=(0, 104), ylim=(len(rows_of) - 0.4, -0.6), xlabel="accuracy (%)")
    ax.set_title(f"Figure 3(b) on {_label(results)}", loc="left", fontsize=9)
    if any("†" in label for label in handles):
        ax.set_xlabel("accuracy (%)\n† recalled from the paper's figure, not checked against print")
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return fig


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the figure and the table."""
    if results["n_train"].isna().all() and not set(results["dataset"]) - {"cifar10"}:
        return _draw_whole(results, folder)
    paths = write_table(accuracy_table(results), folder, "fig3b")
    exact = results["method"].map(is_exact) & (results["status"] == "done")
    with plots.style():
        paths += plots.save_figure(accuracies(results), folder, "fig3b")
        if exact.any():
            paths += write_table(exact_table(results), folder, "fig3b-exact")
            paths += plots.save_figure(flow(results), folder, "fig3b-flow")
        paths += _draw_steps(results, folder)
    return paths


def _draw_steps(results: pd.DataFrame, folder: Path) -> list[Path]:
    done = results["method"].map(is_stopped) & (results["status"] == "done")
    return plots.save_figure(along_steps(results), folder, "fig3b-steps") if done.any() else []


def _draw_whole(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the comparison on all images, the fixed representations' rows beside it."""
    label = results["data_label"].iloc[0]
    found = full_figure.comparison_rows(results, Path(results["path"].iloc[0]).parents[2])
    paths = write_table(full_figure.comparison_table(found, label), folder, "fig3b")
    paths += write_table(claim_table(claims(found), label), folder, "fig3b-claims")
    with plots.style():
        paths += plots.save_figure(full_figure.comparison(found, label), folder, "fig3b")
        if len({row.width for row in found if row.kind == "lazy" and row.width}) > 1:
            paths += plots.save_figure(full_figure.widening(found, label), folder, "fig3b-widening")
        paths += _draw_steps(results, folder)
    return paths
