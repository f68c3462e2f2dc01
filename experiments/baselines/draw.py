"""The table and the picture of the baselines, made from results and published numbers only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from baselines import published
from experiments.baselines.settings import COMPETITORS
from experiments.drawing import plots
from experiments.drawing.tables import Table, mean_and_range, percent, provenance_notes, write_table

_FLIPS = {"average": "averaged", "double": "added"}
_KEYS = ["data_label", "method", "size", "n_features", "n_train", "flips"]


def published_points() -> list[published.Published]:
    """What the literature prints for competitors of this kind, on 50,000 lossless images."""
    return [*published.load("baselines"), *published.load("text")]


def accuracy_table(results: pd.DataFrame) -> Table:
    """Test accuracy, time and memory of every baseline, then the published numbers."""
    rows: list[dict[str, Any]] = []
    shown: list[dict[str, str]] = []
    for values, group in results.groupby(_KEYS, sort=False, dropna=False):
        numbers = _numbers(dict(zip(_KEYS, values, strict=True)), group)
        rows.append(numbers)
        shown.append(
            {
                "method": COMPETITORS[numbers["method"]].label
                + _size(numbers["method"], numbers["size"]),
                "flips": numbers["flips"],
                "features": _features(numbers["n_features"]),
                "training images": f"{numbers['n_train']:,}",
                "test accuracy": mean_and_range(group["test_accuracy"]),
                "CPU seconds": f"{numbers['cpu_seconds']:.0f}",
                "to fit": f"{numbers['fit_cpu_seconds']:.0f}",
                "peak GiB": _gib(numbers["peak_memory_bytes"]),
            }
        )
    on_cifar = "cifar10" in set(results["dataset"])
    for point in published_points() if on_cifar else []:
        dagger = "†" if point.status == "recalled" else ""
        rows.append(
            {"method": point.key, "test_accuracy": point.value, "source": f"{point.source}{dagger}"}
        )
        shown.append(
            {
                "method": f"{point.method} ({point.source}){dagger}",
                "test accuracy": percent(point.value),
            }
        )
    labels = ", ".join(dict.fromkeys(results["data_label"].dropna()))
    return Table(
        f"Baselines on {labels}: test accuracy in percent",
        pd.DataFrame(rows),
        pd.DataFrame(shown),
        notes=[]
        if not on_cifar
        else [
            "Published numbers were obtained on CIFAR-10 itself, from 50,000 training images "
            "unless their source says otherwise; JPEG-75 costs scattering 3 to 5 points and random "
            "patches 0 to 3.",
            "† recalled, not checked against print.",
            "CPU seconds of a run (fit and scores), all threads together, and of its fit.",
            *provenance_notes(results),
        ],
    )


def _numbers(key: dict[str, Any], group: pd.DataFrame) -> dict[str, Any]:
    """What was measured of the runs that differ by the seed alone."""
    accuracy = group["test_accuracy"].dropna()
    return {
        **key,
        "test_accuracy": accuracy.mean(),
        "least": accuracy.min(),
        "greatest": accuracy.max(),
        "seeds": len(group),
        "cpu_seconds": group["cpu_seconds"].mean(),
        "fit_cpu_seconds": group["fit_cpu_seconds"].mean(),
        "peak_memory_bytes": group["peak_memory_bytes"].max(),
        "source": "measured",
    }


def _size(method: str, size: int) -> str:
    if method.startswith("scattering"):
        return f", J = {size}"
    return f", {size} hidden layers" if method.startswith(("relu", "convolutional")) else ""


def _features(count: float) -> str:
    return "–" if count != count else f"{int(count):,}"


def _gib(size: float) -> str:
    return "–" if size != size else f"{size / 2**30:.1f}"


def accuracy_figure(results: pd.DataFrame) -> Figure:
    """Test accuracy against the number of features (left) and of training images (right).

    On the left a line for each number of training images, faint but for the most; on the right
    each method at the size that has most runs. Filled marks are without mirror images, open ones
    with. Published accuracies are marks at the right edge.
    """
    fig, (left, right) = plots.figure(1, 2, size=(8.4, 4.6), sharey=True)
    most = results["n_train"].max()
    for key, runs in results.groupby(["method", "flips"], sort=False):
        method, flips = (str(word) for word in cast("tuple[Any, Any]", key))
        competitor = COMPETITORS[method]
        look: dict[str, Any] = {
            "marker": competitor.marker,
            "linestyle": competitor.dash,
            "color": plots.colour(competitor.coloured_as or method),
            "markersize": 5,
            "fillstyle": "full" if flips == "none" else "none",
        }
        mirrored = "" if flips == "none" else f", mirror images {_FLIPS[flips]}"
        for n_train, mine in runs.dropna(subset="n_features").groupby("n_train"):
            line = mine.groupby("n_features")["test_accuracy"].mean() * 100
            left.plot(line.index, line, alpha=1 if n_train == most else 0.4, **look)
        size = runs.groupby("size")["n_train"].nunique().sort_index(ascending=False).idxmax()
        mine = runs[runs["size"] == size]
        line = mine.groupby("n_train")["test_accuracy"].mean() * 100
        count = mine["n_features"].iloc[0]
        features = "" if count != count else f", {int(count):,} features"
        right.plot(line.index, line, label=f"{competitor.label}{features}{mirrored}", **look)
    if "cifar10" in set(results["dataset"]):
        _mark_published(right)
    counts = sorted(results["n_train"].unique())
    faint = f" (faint: {' and '.join(f'{n:,}' for n in counts[:-1])})" if counts[1:] else ""
    left.set(xlabel="features", ylabel="test accuracy (%)")
    left.set_title(f"{counts[-1]:,} training images{faint}", fontsize=8)
    right.set(xlabel="training images")
    for ax in (left, right):
        _plain_log_axis(ax)
    fig.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=6)
    return fig


def _plain_log_axis(ax: Any) -> None:
    """A logarithmic axis of a decade at least, labelled with numbers at 1, 2 and 5."""
    values = [x for line in ax.lines for x in line.get_xdata()] or [1.0]
    centre = (min(values) * max(values)) ** 0.5
    reach = max(1.3 * (max(values) / min(values)) ** 0.5, 10**0.5)
    ax.set(xscale="log", xlim=(centre / reach, centre * reach))
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.tick_params(axis="x", labelsize=7)


def _mark_published(ax: Any) -> None:
    points = published_points()
    for point in points:
        ax.plot(
            50_000,
            100 * point.value,
            marker="_",
            linestyle="none",
            color=plots.colour("published"),
            markersize=9,
            label="published, lossless images" if point is points[0] else None,
        )
        dagger = "†" if point.status == "recalled" else ""
        ax.annotate(
            f"{point.source.split(',')[0]}{dagger}",
            (50_000, 100 * point.value),
            xytext=(7, -2),
            textcoords="offset points",
            fontsize=5.5,
            annotation_clip=False,
        )


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw accuracy against features and images; write the table."""
    paths = write_table(accuracy_table(results), folder, "baselines")
    with plots.style():
        paths += plots.save_figure(accuracy_figure(results), folder, "baselines")
    return paths
