"""The panels of Figure 1 and their tables, from results only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.animation import FFMpegWriter, FuncAnimation, PillowWriter
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.tables import Table, noted, write_table
from experiments.fig1.settings import check_animation
from experiments.runs.results import joined_arrays, read_arrays

# One red and one blue of the palette: positive and negative output weights.
_POSITIVE, _NEGATIVE = "#bd1f01", "#3f90da"
_UNIT = 1000.0  # losses are shown in thousandths, as in the paper


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Write figures and tables of the parts that ``results`` has."""
    paths: list[Path] = []
    with plots.style():
        for _, row in results[results["part"] == "ab"].iterrows():
            arrays = read_arrays(Path(row["path"]))
            paths += plots.save_figure(_trajectories(arrays), folder, "fig1ab")
            paths += write_table(noted(_movement_table(row, arrays), results), folder, "fig1ab")
            if row["animate"]:
                paths.append(_animation(arrays, folder / f"fig1ab.{row['animation']}"))
        panel = results[results["part"] == "c"]
        if len(panel):
            arrays = joined_arrays(panel["path"], shared=("tau", "steps"))
            paths += plots.save_figure(_losses(arrays), folder, "fig1c")
            paths += write_table(noted(_loss_table(arrays), panel), folder, "fig1c")
    return paths


def _points(arrays: dict[str, np.ndarray], s: int) -> np.ndarray:
    """|a_j(t)| b_j(t), of shape (t, m, 2)."""
    return np.abs(arrays["output"][s])[..., None] * arrays["hidden"][s]


def _scene(ax: Any, arrays: dict[str, np.ndarray], s: int, points: np.ndarray) -> None:
    """Unit circle and teacher of one panel; limits that hold all of ``points``."""
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), ":", color="black", linewidth=1, label="unit circle")
    for unit, sign in zip(arrays["teacher"], arrays["teacher_signs"], strict=True):
        ax.annotate(
            "",
            xy=unit,
            xytext=(0, 0),
            arrowprops={
                "arrowstyle": "-|>",
                "color": _POSITIVE if sign > 0 else _NEGATIVE,
                "linewidth": 1.8,
                "shrinkA": 0,
                "shrinkB": 0,
            },
            zorder=5,
        )
    reach = max(1.1, 1.08 * float(np.abs(points).max()))
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(rf"({'ab'[s] if s < 2 else s + 1}) $\tau = {arrays['tau'][s]:g}$")


def _trajectories(arrays: dict[str, np.ndarray]) -> Figure:
    """Panels (a, b): paths of |a_j| b_j, red and blue by the final sign of a_j."""
    count = len(arrays["tau"])
    fig, axes = plots.figure(1, count, size=(3.3 * count, 3.5), squeeze=False)
    for s, ax in enumerate(axes[0]):
        points = _points(arrays, s)
        _scene(ax, arrays, s, points)
        for j in range(points.shape[1]):
            positive = arrays["output"][s, -1, j] > 0
            tint = _POSITIVE if positive else _NEGATIVE
            ax.plot(*points[:, j].T, color=tint, linewidth=0.9)
            # the marker says the sign to those who do not see the colour
            marker = "o" if positive else "s"
            ax.plot(*points[-1, j], marker, color=tint, markersize=4)
    for tint, marker, name in ((_POSITIVE, "o", "+"), (_NEGATIVE, "s", "-")):
        axes[0][0].plot([], [], marker=marker, color=tint, label=f"unit, $a_j$ {name}")
    axes[0][0].plot([], [], color="black", marker=">", linewidth=1.8, label="teacher")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def _animation(arrays: dict[str, np.ndarray], path: Path) -> Path:
    """Animation of panels (a, b), GIF or MP4 by the suffix of ``path``."""
    check_animation(path.suffix[1:])
    writer = PillowWriter(fps=15) if path.suffix == ".gif" else FFMpegWriter(fps=15)
    count = len(arrays["tau"])
    fig, axes = plots.figure(1, count, size=(3.3 * count, 3.4), squeeze=False)
    lines = []
    for s, ax in enumerate(axes[0]):
        points = _points(arrays, s)
        _scene(ax, arrays, s, points)
        tints = [_POSITIVE if a > 0 else _NEGATIVE for a in arrays["output"][s, -1]]
        lines.append((points, [ax.plot([], [], color=tint, linewidth=0.9)[0] for tint in tints]))
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # the frame stands still

    def show(frame: int) -> list[Any]:
        for points, units in lines:
            for j, line in enumerate(units):
                line.set_data(*points[: frame + 1, j].T)
        fig.suptitle(f"step {arrays['steps'][frame]}", fontsize=8)
        return []

    frames = len(arrays["steps"])
    FuncAnimation(fig, show, frames=frames, blit=False).save(path, writer, dpi=70)
    return path


def _movement_table(row: pd.Series, arrays: dict[str, np.ndarray]) -> Table:
    names = {
        "relative_displacement": "weights moved (relative)",
        "kept_signs": "signs kept",
        "alignment": "cosine to teacher",
        "train_loss": "train loss",
        "test_loss": "test loss",
    }
    taus = [f"{tau:g}" for tau in arrays["tau"]]
    numbers = pd.DataFrame(
        [{"tau": tau} | {name: row[f"{name}_tau_{tau}"] for name in names} for tau in taus]
    )
    shown = numbers.rename(columns=names)
    for label in names.values():
        shown[label] = shown[label].map(lambda value: f"{value:.3g}")
    notes = [
        "cosine to teacher: mean over units, weighted by |a_j| |b_j|, of the cosine of b_j to the "
        "nearest teacher unit of the same sign.",
        f"{int(row['units'])} units, {int(row['n_train'])} training inputs, "
        f"{int(row['steps'])} steps.",
    ]
    return Table("Figure 1 (a, b): movement of the units", numbers, shown, notes)


def _spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n - 1) over the repetitions, in thousandths."""
    spread = values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])
    return _UNIT * values.mean(0), _UNIT * spread


def _losses(arrays: dict[str, np.ndarray]) -> Figure:
    """Panel (c): test loss at the end and at its best against tau, and the linearized model's."""
    fig, ax = plots.figure(size=(4.6, 4.0))
    tau, top = arrays["tau"], 0.0
    for name, dash, label in (("end", "-", "end of training"), ("best", ":", "best throughout")):
        mean, spread = _spread(arrays[name])
        ax.fill_between(tau, mean - spread, mean + spread, color="0.6", alpha=0.3, linewidth=0)
        top = max(top, float((mean + spread).max()))
        ax.semilogx(tau, mean, dash, color="black", linewidth=2.2, label=label)
        linear, _ = _spread(arrays[f"linear_{name}"])
        ax.axhline(
            linear,
            color=plots.colour("linear"),
            linestyle="--" if name == "end" else "-.",
            linewidth=1.2,
            label=f"linearized, {label} (exact)",
        )
    interpolant, _ = _spread(arrays["linear_interpolant"])
    ax.axhline(
        interpolant,
        color="0.5",
        linewidth=0.8,
        linestyle=(0, (1, 3)),
        label="linearized, trained for ever",
    )
    ax.set(xlabel=r"$\tau$", ylabel=r"test loss ($\times 10^{-3}$)", ylim=(0, 1.25 * top))
    ax.set_title(f"(c) {len(arrays['end'])} repetitions, band: one standard deviation", fontsize=9)
    fig.legend(loc="outside lower center", ncols=2, fontsize=7)
    return fig


def _loss_table(arrays: dict[str, np.ndarray]) -> Table:
    columns: dict[str, Any] = {"tau": arrays["tau"]}
    shown: dict[str, Any] = {"tau": [f"{tau:.3g}" for tau in arrays["tau"]]}
    labels = {"end": "test, end", "best": "test, best", "train": "train, end"}
    for name, label in labels.items():
        mean, spread = _spread(arrays[name])
        columns[f"{name}_mean"], columns[f"{name}_std"] = mean, spread
        pairs = zip(mean, spread, strict=True)
        shown[label] = [f"{value:.3g} ± {error:.2g}" for value, error in pairs]
    references = {
        "the linearized network after the same steps": "linear_end",
        "its best": "linear_best",
        "trained for ever": "linear_interpolant",
        "the zero function": "null",
    }
    parts = []
    for label, name in references.items():
        value, error = (float(part) for part in _spread(arrays[name]))
        parts.append(f"{label} {value:.3g} ± {error:.2g}")
    end, linear = arrays["end"][:, -1], arrays["linear_end"]
    gap = float(np.abs(end / linear - 1).max())
    notes = [
        f"Losses times 1000, mean and standard deviation over {len(end)} repetitions.",
        "Test loss of " + ", ".join(parts) + ".",
        f"At tau = {arrays['tau'][-1]:g} the network is within {100 * gap:.2g}% of the linearized "
        "network in every repetition.",
    ]
    return Table(
        "Figure 1 (c): test loss against tau", pd.DataFrame(columns), pd.DataFrame(shown), notes
    )
