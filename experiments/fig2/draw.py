"""The panels of Figure 2 and their tables, from results only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.tables import Table, noted, write_table
from experiments.runs.results import joined_arrays

_CURVES = {"root": (r"scaling $1/\sqrt{m}$", "black"), "inverse": ("scaling $1/m$", "0.55")}


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Write figures and tables of the parts that ``results`` has."""
    paths: list[Path] = []
    with plots.style():
        by_width = _by_width(results)
        if by_width:
            limit = joined_arrays(results[results["part"] == "a-limit"]["path"])
            paths += plots.save_figure(_widths(by_width, limit), folder, "fig2a")
            table = noted(_width_table(by_width, limit), results[results["part"] != "b"])
            paths += write_table(table, folder, "fig2a")
        panel = results[results["part"] == "b"]
        if len(panel):
            arrays = joined_arrays(panel["path"], shared=("tau",))
            paths += plots.save_figure(_population(arrays), folder, "fig2b")
            paths += write_table(noted(_population_table(arrays), panel), folder, "fig2b")
    return paths


def _by_width(results: pd.DataFrame) -> dict[int, dict[str, np.ndarray]]:
    """Losses at the end, (repetitions,), of every width that has results."""
    rows = results[results["part"] == "a"]
    names = ("root_test", "inverse_test", "root_train", "inverse_train")
    found: dict[int, dict[str, np.ndarray]] = {}
    if rows.empty:  # without such runs there is no column of widths
        return found
    for m, some in rows.groupby("m"):
        found[round(float(str(m)))] = joined_arrays(some["path"], names)
    return dict(sorted(found.items()))


def _widths(by_width: dict[int, dict[str, np.ndarray]], limit: dict[str, np.ndarray]) -> Figure:
    """Panel (a): every repetition, the medians, and the infinite-width lazy limit.

    Where some repetitions end in a local minimum and others at zero, their mean is where none is.
    The loss itself is shown; the paper's axis is a tenth of it.
    """
    fig, ax = plots.figure(size=(4.6, 3.9))
    m = np.array(list(by_width))
    top = 1e-9
    for name, (label, tint) in _CURVES.items():
        values = [by_width[width][f"{name}_test"] for width in m]
        for width, points in zip(m, values, strict=True):
            ax.plot([width] * len(points), points, ".", color=tint, markersize=3)
        middle = np.array([np.median(points) for points in values])
        ax.semilogx(m, middle, color=tint, linewidth=2.2, label=label)
        top = max(top, *(float(p) for points in values for p in points if np.isfinite(p)))
    if limit:
        mean = limit["limit"].mean()
        ax.axhline(
            mean,
            color=plots.colour("linear"),
            linestyle="--",
            linewidth=1.2,
            label=r"lazy limit, $m = \infty$ (exact)",
        )
        top = max(top, mean)
    ax.set_xticks(m, [str(width) for width in m])
    ax.minorticks_off()
    ax.set(xlabel="width $m$", ylabel="test loss", ylim=(-0.03 * top, 1.1 * top))
    ax.set_title("(a) points: repetitions, lines: their median", fontsize=9)
    fig.legend(loc="outside lower center", ncols=2, fontsize=7)
    return fig


def _pm(values: np.ndarray) -> str:
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    return f"{values.mean():.3g} ± {spread:.2g}"


def _width_table(by_width: dict[int, dict[str, np.ndarray]], limit: dict[str, np.ndarray]) -> Table:
    numbers, shown = [], []
    for m, arrays in by_width.items():
        row: dict[str, Any] = {"m": m}
        for name, values in arrays.items():
            row |= {f"{name}_mean": values.mean(), f"{name}_std": values.std(ddof=1)}
            row[f"{name}_repetitions"] = len(values)
        numbers.append(row)
        labels = {
            "test, 1/sqrt(m)": "root_test",
            "test, 1/m": "inverse_test",
            "train, 1/sqrt(m)": "root_train",
            "train, 1/m": "inverse_train",
        }
        texts = {label: _pm(arrays[name]) for label, name in labels.items()}
        shown.append({"m": str(m), **texts})
    notes = [
        "Losses, mean and standard deviation over repetitions; the paper's axis is a tenth of them."
    ]
    if limit:
        notes.append(
            f"Test loss of the infinite-width lazy limit {_pm(limit['limit'])}, of an "
            f"affine least-squares fit {_pm(limit['affine'])}, of the zero function "
            f"{_pm(limit['null'])}."
        )
    title = "Figure 2 (a): test loss against width"
    return Table(title, pd.DataFrame(numbers), pd.DataFrame(shown), notes)


def still_decreasing(arrays: dict[str, np.ndarray], *, fall: float = 0.01) -> np.ndarray:
    """Which scales of panel (b) have not converged, by measurement, shape (scales,).

    The loss of the last window, averaged over repetitions, lies more than ``fall`` below that of
    the window before, however small it is.
    """
    windows = arrays["windows"].mean(0)
    if windows.shape[-1] < 2:
        return np.zeros(len(windows), dtype=bool)
    return windows[:, -2] > (1 + fall) * windows[:, -1]


def _population(arrays: dict[str, np.ndarray]) -> Figure:
    """Panel (b): loss at the end, the tangent model's best, and the scales still decreasing."""
    fig, ax = plots.figure(size=(4.6, 3.9))
    tau, null = arrays["tau"], arrays["null"][:, None]
    loss = arrays["windows"][..., -1] / null
    mean, spread = loss.mean(0), loss.std(0, ddof=1) if len(loss) > 1 else 0.0
    ax.fill_between(tau, mean - spread, mean + spread, color="0.6", alpha=0.35, linewidth=0)
    ax.semilogx(tau, mean, "-", color="black", linewidth=2.2, label="SGD, end of training")
    tangent = (arrays["tangent"] / null).mean()
    ax.axhline(
        tangent,
        color=plots.colour("linear"),
        linestyle="--",
        linewidth=1.2,
        label="tangent model's minimum (exact)",
    )
    moving = still_decreasing(arrays)
    edges = np.sqrt(tau[1:] * tau[:-1])
    edges = np.concatenate([tau[:1], edges, tau[-1:]])
    top = 1.15 * max(float((mean + spread).max()), float(tangent))
    for i in np.flatnonzero(moving):
        first = i == np.flatnonzero(moving)[0]
        ax.fill_between(
            edges[i : i + 2],
            0,
            top,
            hatch="//",
            facecolor="none",
            edgecolor="0.6",
            linewidth=0,
            label="still falling, over 1% a window" if first else None,
        )
    ax.set(xlabel=r"$\tau$", ylabel="population loss / null loss", ylim=(0, top))
    ax.set_title(f"(b) {len(loss)} repetitions, band: one standard deviation", fontsize=9)
    fig.legend(loc="outside lower center", ncols=2, fontsize=7)
    return fig


def _population_table(arrays: dict[str, np.ndarray]) -> Table:
    null, windows = arrays["null"][:, None], arrays["windows"]
    moving = still_decreasing(arrays)
    loss, exact, best = windows[..., -1] / null, arrays["exact"] / null, arrays["tangent"] / null
    before = windows[..., -2].mean(0) if windows.shape[-1] > 1 else np.full(len(moving), np.nan)
    fall = before / windows[..., -1].mean(0) - 1
    numbers, shown = [], []
    for i, tau in enumerate(arrays["tau"]):
        numbers.append(
            {
                "tau": tau,
                "loss_mean": loss[:, i].mean(),
                "loss_std": loss[:, i].std(ddof=1) if len(loss) > 1 else 0.0,
                "exact_loss_mean": exact[:, i].mean(),
                "window_before_higher_by": fall[i],
                "converged": not moving[i],
                "tangent_minimum_mean": best[:, i].mean(),
            }
        )
        shown.append(
            {
                "tau": f"{tau:.3g}",
                "loss / null": _pm(loss[:, i]),
                "exact loss / null": _pm(exact[:, i]),
                "window before higher by": f"{100 * fall[i]:.1f}%",
                "converged": "no" if moving[i] else "yes",
            }
        )
    notes = [
        "loss: mean of the batch losses of the last window, over the loss of the zero function; "
        "exact: the population loss of the last weights in closed form.",
        f"The tangent model's best population loss is {_pm(best.mean(1))} of the zero function's.",
        "Not converged: the window before lies more than 1% higher, however small the loss.",
    ]
    title = "Figure 2 (b): population loss against tau"
    return Table(title, pd.DataFrame(numbers), pd.DataFrame(shown), notes)
