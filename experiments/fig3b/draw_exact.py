"""The exact rows of Figure 3(b) along the gradient flow, beside SGD; made from results only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.tables import Table, mean_and_range
from experiments.networks.rows import is_exact, network_label, split_method
from experiments.runs.results import read_result

_FIRST = ("vgg11", "resnet18")
# What solves the linearized network, and the columns of the results that hold its accuracies.
_SOLUTIONS = {
    "gradient flow, stopped on held-out training images": "",
    "ridge of least leave-one-out error": "ridge_",
    "gradient flow to its end (interpolant)": "interpolant_",
}


@dataclass(frozen=True)
class _Solved:
    """A linearized network's runs: solved, and by SGD."""

    model: str
    label: str
    exact: pd.DataFrame
    sgd: pd.DataFrame


def _networks(results: pd.DataFrame) -> list[_Solved]:
    """The networks that were solved, those of the paper first, every width apart."""
    done = results[results["status"] == "done"]
    models = [split_method(m)[0] for m in dict.fromkeys(done["method"]) if is_exact(m)]
    found = []
    for model in sorted(models, key=lambda m: _FIRST.index(m) if m in _FIRST else len(_FIRST)):
        exact, sgd = (done[done["method"] == f"{model}-{kind}"] for kind in ("exact", "linear"))
        widths = dict.fromkeys(exact["width"].dropna()) if "width" in exact else {}
        for width in widths if len(widths) > 1 else (None,):
            label = network_label(model)
            if width is None:
                found.append(_Solved(model, label, exact, sgd))
                continue
            same = (rows[rows["width"] == width] for rows in (exact, sgd))
            found.append(_Solved(model, f"{label}, width {width:g}", *same))
    return found


def exact_table(results: pd.DataFrame) -> Table:
    """Accuracy of the linearized networks by SGD and by every exact solution.

    ``results`` as in `experiments.fig3b.draw.accuracy_table`, with exact rows among them.
    """
    found: list[tuple[_Solved, str, list[float], list[float]]] = []
    for network in _networks(results):
        if len(network.sgd):
            found.append((network, "SGD", *_both(network.sgd, "")))
        exact = network.exact
        found += [(network, kind, *_both(exact, prefix)) for kind, prefix in _SOLUTIONS.items()]
        best = exact["best_test_accuracy"].tolist()
        found.append((network, "best time of the flow, seen on test images", [], best))
    numbers = [
        {
            "network": network.model,
            "solution": kind,
            "train_accuracy_mean": float(np.mean(train)) if train else None,
            "test_accuracy_mean": float(np.mean(test)),
            "test_accuracy_min": min(test),
            "test_accuracy_max": max(test),
        }
        for network, kind, train, test in found
    ]
    shown = [
        {
            "linearized network": network.label,
            "solved by": kind,
            "train %": mean_and_range(list(train)) if train else "–",
            "test %": mean_and_range(list(test)),
        }
        for network, kind, train, test in found
    ]
    first = results[results["method"].str.endswith("-exact")].iloc[0]
    data = first["data_label"] or first["dataset"]
    n = first["n_train"]
    images = "all training images" if n is None or n != n else f"{int(n):,} training images"
    return Table(
        f"The linearized networks solved exactly: {data}, {images}",
        pd.DataFrame(numbers),
        pd.DataFrame(shown),
        [
            f"Loss: square; of SGD: {_sgd_loss(results)}. Mean [least, greatest] over seeds. The "
            "last row of a network chooses its time on the test images: an upper limit, no method."
        ],
    )


def _both(rows: pd.DataFrame, prefix: str) -> tuple[list[float], list[float]]:
    return rows[f"{prefix}train_accuracy"].tolist(), rows[f"{prefix}test_accuracy"].tolist()


def _sgd_loss(results: pd.DataFrame) -> str:
    linear = results[results["method"].str.endswith("-linear")]
    if not len(linear):
        return "not run"
    losses = sorted(set(linear["loss"].dropna()))
    return " and ".join(loss.replace("_", " ") for loss in losses)


def flow(results: pd.DataFrame) -> Figure:
    """Train and test accuracy along the gradient flow; where SGD stopped; the other solutions.

    Time is in units of the time in which the leading direction of the kernel is learned: 1 over
    its rate. SGD with momentum stands at steps lr / (1 - momentum) of the flow's time.
    """
    networks = _networks(results)
    fig, axes = plots.figure(1, len(networks), size=(0.8 + 4.2 * len(networks), 3.9))
    handles: dict[str, Any] = {}
    for ax, network in zip(np.atleast_1d(axes), networks, strict=True):
        for row in network.exact.itertuples():
            _path(ax, row, plots.colour(network.model), handles)
            _sgd_end(ax, row, network.sgd, handles)
        ax.set_xscale("log")
        ax.set(
            title=f"{network.label}, linearized",
            xlabel="time (1 is when the leading direction is learned)",
            ylabel="accuracy (%)",
            ylim=(0, 103),
        )
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return fig


def _path(ax: Axes, row: Any, colour: str, handles: dict[str, Any]) -> None:
    curves = read_result(Path(row.path))["curves"]
    unit = 10 * curves["time"][0]  # the first time is a tenth of the leading direction's
    times = curves["time"]
    finite = [i for i, t in enumerate(times) if t is not None]  # infinity is null in a file
    x = [times[i] / unit for i in finite]
    for split, style in (("train", "--"), ("test", "-")):
        y = [100 * curves[f"{split}_accuracy"][i] for i in finite]
        (line,) = ax.plot(x, y, style, color=colour, lw=1.4, alpha=0.9)
        handles.setdefault(f"{split}, gradient flow", line)
    stopped = row.time / unit if math.isfinite(row.time) else x[-1]
    (mark,) = ax.plot(stopped, 100 * row.test_accuracy, "o", color=colour, mec="black")
    handles.setdefault("test, stopped on held-out images", mark)
    (mark,) = ax.plot(2 * x[-1], 100 * row.ridge_test_accuracy, "D", color=colour, mec="black")
    handles.setdefault("test, leave-one-out ridge (no time)", mark)


def _sgd_end(ax: Axes, row: Any, linear: pd.DataFrame, handles: dict[str, Any]) -> None:
    """Mark SGD of the same seed where it stopped, if its rate was constant."""
    curves = read_result(Path(row.path))["curves"]
    for end in linear[linear["seed"] == row.seed].itertuples():
        if end.lr_decay or not end.steps > 0:
            continue
        time = end.steps * end.lr_used / (1 - end.momentum) / (10 * curves["time"][0])
        for split, face in (("train", "white"), ("test", "black")):
            accuracy = 100 * getattr(end, f"{split}_accuracy")
            (mark,) = ax.plot(time, accuracy, "^", mfc=face, mec="black", ms=6, zorder=5)
            handles.setdefault(f"{split}, SGD where it stopped", mark)
