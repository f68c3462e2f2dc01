"""The figure and the table of the comparison of precisions, made from results only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.drawing import plots
from experiments.drawing.axes import alpha_axis
from experiments.drawing.tables import Table, write_table

# A colour a way of computing, a marker a precision, a dash a gain, a thickness a width.
_COLOURS = {"oracle": "black", "direct": "#bd1f01", "difference": "#3f90da"}
_MARKERS = {"float64": "", "float32": "o", "tf32": "s", "bfloat16": "v"}
_GREY = "0.92"
_DASHES = ("-", "--", ":", "-.")
_WAYS = {"oracle": "subtraction", "direct": "subtraction", "difference": "difference propagation"}


def _label(method: str) -> str:
    way, _, precision = method.partition("-")
    return f"{_WAYS[way]}, {precision}"


def _column(method: str, what: str) -> str:
    method = "oracle" if method.startswith("oracle") else method
    return f"{method.replace('-', '_')}_{what}"


def _cases(results: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """Means over the seeds by width and gain, a row an alpha."""
    keys = ["width", "gain", "alpha"]
    numbers = [c for c in results.select_dtypes("number").columns if c not in [*keys, "seed"]]
    means = results.groupby(keys)[numbers].mean().reset_index()
    return list(means.groupby(["width", "gain"]))


def what_rounding_does(results: pd.DataFrame) -> Figure:
    """From the cause to the effect: size of an update, weights that moved, loss, predictions.

    ``results`` has a row a run, with columns alpha, width, gain, seed and, for the oracle and
    every method, its loss and moved; with update_ratio for subtraction, distance for all but the
    oracle.
    """
    methods = list(results["methods"].iloc[0])
    direct = ["oracle-float64", *(m for m in methods if m.startswith("direct"))]
    fig, grid = plots.figure(2, 2, size=(7.6, 5.6))
    update, moved, loss, error = axes = grid.ravel()
    for ax in axes:
        positions = alpha_axis(ax, results["alpha"].tolist())
        _shade(ax, results, positions)
    _lines(update, results, direct, "update_ratio", positions)
    _lines(moved, results, direct, "moved", positions, times=100)
    _lines(loss, results, ["oracle-float64", *methods], "loss", positions)
    _lines(error, results, methods, "distance", positions)
    _rule(update, 1, "below: it rounds away", "top")
    update.set(yscale="log", ylabel="first update / half spacing")
    moved.set(ylim=(-3, 103), ylabel="% of all weights")
    _rule(loss, _untrained(results), "before training", "bottom")
    loss.set(yscale="log", ylabel="training loss")
    _rule(error, 1, "error as large as the predictions", "bottom")
    error.set(yscale="log", ylabel="distance to float64, relative")
    titles = (
        "1. Size of an update against the spacing of floats",
        "2. Weights that moved at all",
        "3. Loss after training",
        "4. Error of the predictions",
    )
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, loc="left", fontsize=9, fontweight="bold")
    _legends(fig, results, ["oracle-float64", *methods])
    title = f"Lazy training in single precision: {_name(results)}"
    fig.suptitle(title, fontsize=9, x=0.01, ha="left")
    return fig


def _lines(
    ax: Axes,
    results: pd.DataFrame,
    methods: Sequence[str],
    what: str,
    positions: Mapping[float, float],
    times: float = 1,
) -> None:
    """Draw a line a method and case, with the look that `_look` gives it."""
    gains, widths = (sorted(results[k].unique()) for k in ("gain", "width"))
    for method in methods:
        for (width, gain), rows in _cases(results):
            look = _look(method) | _case(widths.index(width), gains.index(gain))
            x = [positions[a] for a in rows["alpha"]]
            ax.plot(x, times * rows[_column(method, what)], **look)


def _look(method: str) -> dict[str, Any]:
    way, _, precision = method.partition("-")
    return {"color": _COLOURS[way], "marker": _MARKERS[precision], "ms": 3.5, "mfc": "white"}


def _case(width: int, gain: int) -> dict[str, Any]:
    return {"linestyle": _DASHES[gain % len(_DASHES)], "linewidth": 0.8 + 0.8 * width}


def _rule(ax: Any, y: float, text: str, side: str) -> None:
    """Draw a horizontal line with a word about it."""
    ax.axhline(y, color="0.4", linewidth=0.8)
    ax.annotate(
        text,
        (0.0, y),
        xytext=(0, 2 if side == "bottom" else -2),
        textcoords="offset points",
        fontsize=7,
        color="0.3",
        va=side,
    )


def _untrained(results: pd.DataFrame) -> float:
    """Loss of the outputs 0, where lazy training starts: digits and CIFAR-10 have ten classes."""
    return {"square": 1 / 10, "cross_entropy": math.log(10)}[results["loss"].iloc[0]]


def _legends(fig: Any, results: pd.DataFrame, methods: list[str]) -> None:
    """Methods by colour in one row, widths and gains in the next."""
    gains, widths = (sorted(results[k].unique()) for k in ("gain", "width"))
    entries: list[tuple[Any, str]] = [(Line2D([], [], **_look(m)), _label(m)) for m in methods]
    entries.append((Patch(color=_GREY), "most first float32 updates round away"))
    for g, gain in enumerate(gains):
        entries.append((Line2D([], [], color="0.5", **_case(0, g)), f"gain {gain:g}"))
    for w, width in enumerate(widths):
        entries.append((Line2D([], [], color="0.5", **_case(w, 0)), f"width {width:g}"))
    handles, labels = zip(*entries, strict=True)
    fig.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)


def _shade(ax: Any, results: pd.DataFrame, positions: dict[float, float]) -> None:
    """Grey from the alpha where the median first float32 update is half the spacing of floats."""
    column = "direct_float32_update_ratio"
    if column not in results:
        return
    # The update is proportional to 1/alpha: every run tells where it meets the spacing.
    start = math.log10((results["alpha"] * results[column]).median())
    if start < max(positions.values()):
        ax.axvspan(start, max(positions.values()) + 0.3, color=_GREY, zorder=0, linewidth=0)


def precision_table(results: pd.DataFrame) -> Table:
    """Loss, error and moved weights of every method at every alpha, width and gain."""
    methods = results["methods"].iloc[0]
    numbers = pd.concat([rows for _, rows in _cases(results)])
    shown = []
    for row in numbers.to_dict("records"):
        line = {
            "width": f"{row['width']:g}",
            "gain": f"{row['gain']:g}",
            "alpha": f"{row['alpha']:g}",
            "float64 loss": f"{row['oracle_loss']:.4f}",
        }
        for method in methods:
            name = _label(method)
            line[f"{name}: loss"] = f"{row[_column(method, 'loss')]:.4f}"
            line[f"{name}: error"] = f"{row[_column(method, 'distance')]:.1e}"
            if method.startswith("direct"):
                line[f"{name}: moved %"] = f"{100 * row[_column(method, 'moved')]:.1f}"
                ratio = row[_column(method, "update_ratio")]
                line[f"{name}: update / half spacing"] = f"{ratio:.2g}"
        shown.append(line)
    first, count = results.iloc[0], results["seed"].nunique()
    notes = [
        f"The same {first['epochs']} epochs of SGD by every method, batch {first['batch_size']}, "
        f"{first['loss']} loss over alpha^2, mean of {count} seed{'s' * (count > 1)}. Loss: on "
        "the training images after training. Error: distance of the training predictions to "
        "float64 subtraction's, over the norm of those. Moved: weights that differ from their "
        "initial value at all. Update: the median first update of a weight over half the spacing "
        "of floating-point numbers there; below 1 it rounds away.",
    ]
    return Table(f"Precision: {_name(results)}", numbers, pd.DataFrame(shown), notes)


def _name(results: pd.DataFrame) -> str:
    first = results.iloc[0]
    model = {"vgg11": "VGG-11", "resnet18": "ResNet-18"}.get(first["model"], first["model"])
    return f"{model}, {int(first['n_train']):,} images of {first['data_label']}"


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the figure and the table."""
    paths = write_table(precision_table(results), folder, "precision")
    with plots.style():
        return paths + plots.save_figure(what_rounding_does(results), folder, "precision")
