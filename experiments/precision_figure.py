"""The figure and the table of the comparison of precisions, made from results only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments import plots
from experiments.fig3a_figure import alpha_axis
from experiments.report import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["precision_table", "what_rounding_does"]

# A colour a way of computing, a dash a precision.
_COLOURS = {"direct": "#bd1f01", "difference": "#3f90da"}
_DASHES = {"float32": "-", "tf32": "--", "bfloat16": ":"}
_MARKERS = "osv^Dp"


def _label(method: str) -> str:
    way, _, precision = method.partition("-")
    words = {"direct": "subtraction", "difference": "difference propagation"}
    return f"{words[way]}, {precision}"


def _column(method: str, what: str) -> str:
    return f"{method.replace('-', '_')}_{what}"


def _cases(results: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """Means over the seeds by width and gain, a row an alpha."""
    keys = ["width", "gain", "alpha"]
    numbers = [c for c in results.select_dtypes("number").columns if c not in [*keys, "seed"]]
    means = results.groupby(keys)[numbers].mean().reset_index()
    return list(means.groupby(["width", "gain"]))


def what_rounding_does(results: pd.DataFrame) -> Figure:
    """Error of the predictions, training loss, and share of weights that moved, against alpha.

    ``results`` has a row a run, with columns alpha, width, gain, seed, oracle_loss, oracle_moved
    and, for every method, its loss, distance and moved.
    """
    methods = results["methods"].iloc[0]
    fig, axes = plots.figure(1, 3, size=(9.2, 3.6))
    positions: dict[float, float] = {}
    for ax in axes:
        positions = alpha_axis(ax, results["alpha"].tolist())
    handles: dict[str, Any] = {}
    for number, ((width, gain), rows) in enumerate(_cases(results)):
        x = [positions[a] for a in rows["alpha"]]
        marker = _MARKERS[number % len(_MARKERS)]
        for method in methods:
            way, _, precision = method.partition("-")
            options = {"color": _COLOURS[way], "linestyle": _DASHES[precision], "lw": 1.2}
            options |= {"marker": marker, "ms": 4, "mfc": "white"}
            axes[0].plot(x, rows[_column(method, "distance")], **options)
            axes[1].plot(x, rows[_column(method, "loss")], **options)
            axes[2].plot(x, 100 * rows[_column(method, "moved")], **options)
            line = axes[0].plot([], [], **{**options, "marker": ""})[0]
            handles.setdefault(_label(method), line)
        black = {"color": "black", "linestyle": "none", "marker": marker, "ms": 5}
        axes[1].plot(x, rows["oracle_loss"], **black)
        axes[2].plot(x, 100 * rows["oracle_moved"], **black)
        handles[f"float64 oracle, width {width:g}, gain {gain:g}"] = axes[1].plot([], [], **black)[
            0
        ]
    axes[0].set(yscale="log", title="error of the predictions", ylabel="relative to the oracle's")
    axes[0].axhline(1, color="0.8", linewidth=0.8)
    axes[1].set(title="loss after training", ylabel="training loss")
    axes[1].set_ylim(bottom=0)
    axes[2].set(title="weights that moved", ylabel="%", ylim=(-3, 103))
    for ax in axes:
        _shade(ax, results, positions)
    handles["most first updates round away"] = axes[0].fill_between([], [], color="0.9")
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    fig.suptitle(_name(results), fontsize=9, x=0.01, ha="left")
    return fig


def _shade(ax: Any, results: pd.DataFrame, positions: dict[float, float]) -> None:
    """Grey where the median first update is below half the spacing of float32 at the weight."""
    column = "direct_float32_update_ratio"
    if column not in results:
        return
    medians = results.groupby("alpha")[column].median()
    below = [float(a) for a in medians.index[medians < 1]]
    if below:
        # From the middle of the last step of alpha, or its end where all are below.
        above = [p for a, p in positions.items() if a < min(below)]
        first = positions[min(below)]
        start = (first + max(above)) / 2 if above else first - 0.5
        ax.axvspan(start, max(positions.values()) + 0.4, color="0.9", zorder=0, linewidth=0)


def precision_table(results: pd.DataFrame) -> Table:
    """Loss, error and moved weights of every method at every alpha, width and gain."""
    import pandas as pd

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
