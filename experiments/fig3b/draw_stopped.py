"""The stopped rows of Figure 3(b) along their steps, beside training; made from results only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.axes import power
from experiments.networks.claims import network_name
from experiments.networks.rows import is_stopped
from experiments.runs.results import read_result

_SPLITS = {"train": ("fitted", "--"), "held_out": ("held-out training", ":"), "test": ("test", "-")}
_LEVELS = ("-", "-.", (0, (5, 4)), (0, (1, 3)))  # of the trained networks, in their order


def along_steps(results: pd.DataFrame) -> Figure:
    """Accuracy along conjugate gradients' steps, where they stopped, and where training ends.

    ``results`` as in `experiments.fig3b.draw.accuracy_table`, with stopped rows among them.
    """
    done = results[results["status"] == "done"]
    stopped = done["method"].map(is_stopped)
    networks = list(done[stopped].groupby(["model", "width"], dropna=False, sort=False))
    fig, axes = plots.figure(1, len(networks), size=(0.8 + 4.6 * len(networks), 3.9))
    handles: dict[str, Any] = {}
    for ax, (_, rows) in zip(np.atleast_1d(axes), networks, strict=True):
        model, width = str(rows["model"].iloc[0]), float(rows["width"].iloc[0])
        for _, row in rows.iterrows():
            _steps(ax, row, plots.colour(model), handles)
        same = (done["model"] == model) & (done["width"].isna() | (done["width"] == width))
        for (_, row), style in zip(done[same & ~stopped].iterrows(), _LEVELS, strict=False):
            level = ax.axhline(100 * row["test_accuracy"], color="0.35", lw=1.1, ls=style)
            handles.setdefault(f"test, trained, α = {power(row['alpha'])}", level)
        ax.set(
            title=network_name(model, None if width != width else width, math.inf, solved=True),
            xlabel="steps (two passes over the images each)",
            ylabel="accuracy (%)",
            ylim=(0, 103),
        )
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=8)
    return fig


def _steps(ax: Axes, row: pd.Series, colour: str, handles: dict[str, Any]) -> None:
    curves = read_result(Path(row["path"]))["curves"]
    for split, (words, style) in _SPLITS.items():
        accuracy = [100 * a for a in curves[split]]
        (line,) = ax.plot(curves["step"], accuracy, style, color=colour, lw=1.4)
        handles.setdefault(f"solved, {words} images", line)
    (mark,) = ax.plot(row["steps"], 100 * row["test_accuracy"], "o", color=colour, mec="black")
    handles.setdefault("solved, stopped here by held-out images", mark)
