"""The figures and the table of Figure 3(a), made from results only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.axes import alpha_axis, alpha_label
from experiments.drawing.tables import (
    Table,
    mean_and_range,
    mean_of,
    percent,
    provenance_notes,
    values_of,
)

_CURVES = (
    ("train_accuracy", "train accuracy", "o", "--", 1),
    ("test_accuracy", "test accuracy", "s", "-", 0),
    ("stability", "stable activations", "^", ":", 4),
)


def best_rates(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of the rate with the least mean training loss at every alpha, diverged runs last."""
    kept = []
    for _, rows in results.groupby("alpha"):
        losses = {
            rate: math.inf
            if "train_loss" not in group or group["train_loss"].isna().any()
            else float(group["train_loss"].mean())
            for rate, group in rows.groupby("rate", sort=False)
        }
        best = min(losses, key=losses.__getitem__)
        kept.append(rows[rows["rate"] == best])
    return pd.concat(kept)


def against_alpha(results: pd.DataFrame) -> Figure:
    """Train and test accuracy and stability of activations: mean and range over the seeds.

    ``results`` has a row a run, with columns alpha, rate, seed, train_accuracy, test_accuracy,
    stability and train_loss. Of several rates the best one is shown (`best_rates`).
    """
    rows = best_rates(results)
    fig, ax = plots.figure()
    positions = alpha_axis(ax, rows["alpha"].tolist())
    known = rows.dropna(subset=[c[0] for c in _CURVES if c[0] in rows])
    for column, label, marker, line, tint in _CURVES:
        if column not in known or known.empty:
            continue
        groups = known.groupby("alpha")[column].agg(["mean", "min", "max"]) * 100
        x = [positions[float(a)] for a in groups.index]
        colour = f"C{tint}"
        ax.plot([], [], line, marker=marker, ms=4, color=colour, label=label)
        look = {"marker": marker, "ms": 4, "color": colour}
        for piece in _joined(x):
            part = groups.iloc[piece]
            at = [x[i] for i in piece]
            if len(piece) > 1:
                ax.fill_between(at, part["min"], part["max"], color=colour, alpha=0.2, linewidth=0)
                ax.plot(at, part["mean"], line, **look)
                continue
            spread = [part["mean"] - part["min"], part["max"] - part["mean"]]
            several = known["seed"].nunique() > 1  # one seed has no range
            ax.errorbar(at, part["mean"], yerr=spread if several else None, capsize=2.5, **look)
    lost = rows[rows["status"] == "diverged"]["alpha"].unique()
    for alpha in lost:
        ax.text(positions[float(alpha)], 2, "diverged", rotation=90, ha="center", fontsize=7)
    ax.set(ylim=(0, 103), ylabel="%")
    ax.set_title(f"Figure 3(a), {study_name(results)}", loc="left", fontsize=9)
    fig.legend(loc="outside lower center", ncols=3)
    return fig


def _joined(x: Sequence[float]) -> list[list[int]]:
    """Places of the points that a line may join: no more than a decade of alpha apart."""
    pieces: list[list[int]] = []
    for i, at in enumerate(x):
        if i and at - x[i - 1] < 1.01:
            pieces[-1].append(i)
        else:
            pieces.append([i])
    return pieces


def alpha_table(results: pd.DataFrame) -> Table:
    """Mean and range over seeds of accuracy, stability and loss for every alpha."""
    numbers, shown = [], []
    for alpha, rows in best_rates(results).groupby("alpha"):
        record: dict[str, Any] = {
            "alpha": alpha,
            "rate": rows["rate"].iloc[0],
            "runs": len(rows),
            "diverged": int((rows["status"] == "diverged").sum()),
        }
        for column in ("train_accuracy", "test_accuracy", "stability", "train_loss", "lr"):
            values = rows[column] if column in rows else pd.Series(dtype=float)
            record[f"{column}_mean"] = values.mean()
            record[f"{column}_min"], record[f"{column}_max"] = values.min(), values.max()
        record["stability_edge_mean"] = mean_of(rows, "stability_edge")
        record["cpu_seconds_mean"] = mean_of(rows, "cpu_seconds")
        numbers.append(record)
        rate = f"{record['lr_mean']:.3g}" if record["lr_mean"] == record["lr_mean"] else "–"
        shown.append(
            {
                "alpha": alpha_label(float(str(alpha))),
                "train %": mean_and_range(values_of(rows, "train_accuracy")),
                "test %": mean_and_range(values_of(rows, "test_accuracy")),
                "stable %": percent(record["stability_mean"], 3),
                "train loss": f"{record['train_loss_mean']:.4f}",
                "lr": f"{rate} (auto)" if record["rate"] == "auto" else rate,
                "edge": f"{record['stability_edge_mean']:.3g}",
                "CPU seconds": f"{record['cpu_seconds_mean']:.0f}",
            }
        )
    title = f"Figure 3(a): {study_name(results)}"
    return Table(title, pd.DataFrame(numbers), pd.DataFrame(shown), _notes(results))


def study_name(results: pd.DataFrame) -> str:
    """Return network, width, number of images and data set of a study."""
    first = results.iloc[0]
    model = {"vgg11": "VGG-11", "resnet18": "ResNet-18"}.get(first["model"], first["model"])
    train = first["n_train"]
    size = "all" if train is None or train != train else f"{int(train):,}"
    return f"{model}, width {first['width']:g}, {size} images of {first['data_label']}"


def _notes(results: pd.DataFrame) -> list[str]:
    first, count = results.iloc[0], results["seed"].nunique()
    return [
        f"Mean [least, greatest] over {count} seed{'s' * (count > 1)}, which draw images, initial "
        f"weights and batches; {first['epochs']} epochs, batch {first['batch_size']}, "
        f"{first['loss']} loss over alpha^2, gain {first['gain']:g}. Stable: ReLUs with the sign "
        "they had at initialization, on test images, mean over layers. Edge: the largest stable "
        "rate of the linearized problem, on one mini-batch. CPU seconds of one run.",
        "alpha = inf is the linearized model, trained by the same steps.",
        *provenance_notes(results),
    ]
