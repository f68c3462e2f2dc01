"""Figures of the theorems, from results only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.tables import write_table
from experiments.theory.verdicts import Series, series, verdict_table

_DISTANCES = {
    "weights": r"$\sup|w - w_0|$",
    "weights_gap": r"$\sup|w - \bar w|$",
    "outputs_gap": r"$\sup|\alpha h(w) - \alpha \bar h(\bar w)|$",
}


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Write a figure for every theorem that has results, and the table of verdicts."""
    paths = write_table(verdict_table(results), folder, "theory")
    parts: dict[str, Callable[[pd.DataFrame], Figure]] = {
        "finite-horizon": _finite_horizon,
        "held-out": _held_out,
        "square-loss": _square_loss,
        "over-parameterized": _over_parameterized,
        "under-parameterized": _under_parameterized,
        "kappa": _kappa,
        "not-necessary": _not_necessary,
        "wide": _wide,
        "mean-field": _mean_field,
    }
    with plots.style():
        for part, picture in parts.items():
            if (results["part"] == part).any():
                paths += plots.save_figure(picture(results), folder, f"theory-{part}")
    return paths


def _mean(some: Series, name: str) -> np.ndarray:
    return np.mean([run["curves"][name] for run in some], axis=0)


def _finite_horizon(results: pd.DataFrame) -> Figure:
    """Theorem 2.2: three distances against alpha; ReLU dashed."""
    fig, axes = plots.figure(1, 3, size=(9.0, 3.1))
    for model, loss, dash in (("tanh", "square", "-"), ("tanh", "logistic", "-."), ("tanh", "bounded", "--"), ("relu", "square", ":")):  # fmt: skip  # noqa: E501
        some = series(results, "finite-horizon", model=model, loss=loss)
        if not some:
            continue
        alpha = np.array(some[0]["curves"]["alpha"])
        for ax, name in zip(axes, _DISTANCES, strict=True):
            values = _mean(some, name)
            ax.loglog(alpha, values, dash, marker="o", markersize=3, label=f"{model}, {loss} loss")
    for ax, (name, label) in zip(axes, _DISTANCES.items(), strict=True):
        power = -2 if name == "weights_gap" else -1
        start = ax.get_lines()[0].get_ydata()[0]
        ax.loglog(
            alpha,
            2 * start * (alpha / alpha[0]) ** power,
            color="0.6",
            linewidth=0.8,
            label=rf"slope {power}",
        )
        ax.set(xlabel=r"$\alpha$", title=label)
        ax.legend(fontsize=6)
    return fig


def _held_out(results: pd.DataFrame) -> Figure:
    """Proposition A.1: the largest distance of the two models on training and other inputs."""
    some = series(results, "held-out", model="tanh")
    fig, ax = plots.figure(size=(4.2, 3.2))
    alpha = np.array(some[0]["curves"]["alpha"])
    for name, dash, label in (
        ("seen", "-", "training inputs"),
        ("others", "--", "held-out inputs"),
    ):
        ax.loglog(alpha, _mean(some, name), dash, marker="o", markersize=3, label=label)
    start = 2 * _mean(some, "others")[0]
    ax.loglog(alpha, start * alpha[0] / alpha, color="0.6", linewidth=0.8, label="slope -1")
    ax.set(xlabel=r"$\alpha$", ylabel=r"$\max_x|\alpha f - \alpha\bar f|$, after training")
    ax.legend(fontsize=7)
    return fig


def _square_loss(results: pd.DataFrame) -> Figure:
    """Theorem 2.3: measured distance and its bound against alpha, for every K; ReLU beside it."""
    models = [m for m in ("quadratic", "relu") if series(results, "square-loss", model=m)]
    fig, axes = plots.figure(
        1, len(models), size=(4.2 * len(models), 3.4), squeeze=False, sharey=True
    )
    for ax, model in zip(axes[0], models, strict=True):
        some = series(results, "square-loss", model=model)
        curves = {name: np.array(column) for name, column in some[0]["curves"].items()}
        measured, bound = _mean(some, "outputs_gap"), _mean(some, "outputs_bound")
        measured[measured < 1e-9] = np.nan  # the integrator's own error
        for k in np.unique(curves["k"]):
            rows = curves["k"] == k
            alpha, label = curves["alpha"][rows], f"K = {k:g}"
            (line,) = ax.loglog(alpha, measured[rows], "o-", markersize=4, label=label)
            ax.loglog(alpha, bound[rows], "--", color=line.get_color(), linewidth=0.9)
        ax.plot([], [], "--", color="0.4", linewidth=0.9, label="bounds")
        ax.set(xlabel=r"$\alpha$")
        ax.set_title(_covered(model), fontsize=9)
    axes[0, 0].set(ylabel=r"$|\alpha h(w) - \alpha\bar h(\bar w)| / E$")
    bottom, _ = axes[0, 0].get_ylim()
    axes[0, 0].set_ylim(bottom=bottom / 100)  # room below the lines
    axes[0, 0].legend(fontsize=7, ncols=2, loc="lower left")
    return fig


def _covered(model: str) -> str:
    """What a panel shows, and whether the theorem speaks of it."""
    return f"{model}: not covered, kinks left out" if model.startswith("relu") else f"{model} model"


def _over_parameterized(results: pd.DataFrame) -> Figure:
    """Theorem 2.4: error against time beside its bound, for two condition numbers and ReLU."""
    rows = results[results["part"] == "over-parameterized"]
    cases = sorted(set(zip(rows["model"], rows["condition"], strict=True)))
    fig, axes = plots.figure(1, len(cases), size=(3.4 * len(cases), 3.1), squeeze=False)
    for ax, (model, condition) in zip(axes[0], cases, strict=True):
        run = series(results, "over-parameterized", model=model, condition=condition)[0]
        curves = run["curves"]
        for number, multiple in enumerate(run["multiples"]):  # they coincide: thinner on thicker
            label = rf"$\alpha$ = {multiple:.3g} x threshold"
            error = np.array(curves[f"error_{multiple:g}"], dtype=float)
            error[np.minimum.accumulate(error) < 1e-9] = np.nan  # then the integrator's own error
            ax.semilogy(curves["time"], error, label=label, linewidth=max(1, 5 - 2 * number))
        ax.semilogy(curves["time"], curves["bound"], "--", color="0.4", label="bound")
        ax.set(xlabel="time", ylabel=r"$|\alpha h(w) - y^*|$", ylim=(1e-9, 5))
        ax.set_title(f"{_covered(model)}\ncondition number {condition:g}", fontsize=8)
        ax.legend(fontsize=7)
    return fig


def _under_parameterized(results: pd.DataFrame) -> Figure:
    """Theorem 2.5: loss above its limit, the rates and the smallest Hessian eigenvalue."""
    part = "under-parameterized"
    models = [
        m for m in ("tanh-unit", "tanh-population", "relu-unit") if series(results, part, model=m)
    ]
    fig, axes = plots.figure(len(models), 2, size=(7.4, 2.9 * len(models)), squeeze=False)
    for (left, right), model in zip(axes, models, strict=True):
        some = series(results, part, model=model)
        run = some[0]
        for alpha in run["alphas"]:
            above = np.array(run["curves"][f"above_{alpha:g}"])
            above[above < 1e-13] = np.nan  # the integrator's own error
            left.semilogy(run["curves"]["time"], above, label=rf"$\alpha$ = {alpha:g}")
        left.set(xlabel="time", ylabel=r"$F - F_\infty$ (first seed)")
        left.set_title(_covered(model), fontsize=9)
        left.legend(fontsize=6)
        for i, one in enumerate(some):
            rate = np.array(one["curves"]["rate"], dtype=float) / one["linear_rate"]
            bottom = 2 * np.array(one["curves"]["hessian"], dtype=float) / one["linear_rate"]
            label = "rate / $2 s_{min}^2$", r"Hessian's smallest / $s_{min}^2$"
            x = one["curves"]["alpha"]
            right.semilogx(x, rate, "o-", markersize=3, color="0.3", label=None if i else label[0])
            right.semilogx(x, bottom, "x:", color="C2", label=None if i else label[1])
        right.axhline(1, linestyle="--", color=plots.colour("linear"))
        right.set(xlabel=r"$\alpha$", ylabel="over the linear value")
        right.set_title("a line a seed", fontsize=9)
        right.legend(fontsize=7)
    return fig


def _kappa(results: pd.DataFrame) -> Figure:
    """kappa against the width for two scalings; ReLU, without its kinks, dotted."""
    fig, ax = plots.figure(size=(4.6, 3.4))
    for model, dash in (("tanh", "-"), ("relu", ":")):
        some = series(results, "kappa", model=model)
        if not some:
            continue
        m = np.array(some[0]["curves"]["m"], dtype=float)
        for i, (name, label) in enumerate((("root", r"$m^{-1/2}$"), ("inverse", r"$1/m$"))):
            values = np.array([run["curves"][name] for run in some])
            tint = f"C{i}"
            ax.loglog(
                m, values.mean(0), dash, marker="o", markersize=3, color=tint,
                label=rf"$\alpha(m)$ = {label}, {model}",
            )  # fmt: skip
            ax.fill_between(
                m, values.min(0), values.max(0), color=tint, alpha=0.15 if dash == "-" else 0.05
            )
    ax.loglog(m, 1.3 * (m / m[0]) ** -0.5, color="0.6", linewidth=0.8, label="slope -1/2")
    ax.set(xlabel="width $m$", ylabel=r"$\kappa$ (mean and range over seeds)")
    ax.legend(fontsize=6)
    return fig


def _not_necessary(results: pd.DataFrame) -> Figure:
    """Footnote 3: kappa and the distance to the linearized path against the blind curvature."""
    some = series(results, "not-necessary", model="tanh")
    fig, ax = plots.figure(size=(4.2, 3.2))
    c = np.array(some[0]["curves"]["curvature"])
    place = np.where(c > 0, c, min(c[c > 0]) / 10)  # zero has no logarithm
    ax.loglog(place, _mean(some, "kappa"), "o-", label=r"$\kappa$")
    ax.loglog(place, _mean(some, "gap"), "s--", label="distance to the linearized path")
    ax.set_xticks(place, ["0" if value == 0 else f"{value:g}" for value in c])
    ax.minorticks_off()
    ax.set(xlabel="curvature in a direction that training never takes")
    ax.set_title(rf"footnote 3, $\alpha$ = {some[0]['alpha']:g}", fontsize=9)
    ax.legend(fontsize=7)
    return fig


def _wide(results: pd.DataFrame) -> Figure:
    """Wide networks at alpha = 1: movement of weights and kernel against the width."""
    fig, axes = plots.figure(1, 2, size=(7.0, 3.1))
    seen: set[float] = set()
    for model, dash in (("tanh", "-"), ("relu", "--"), ("vgg11", ":")):
        some = series(results, "wide", model=model)
        if not some:
            continue
        m = np.array(some[0]["curves"]["m"])
        seen |= set(m.tolist())
        label = {"vgg11": "VGG-11, m channels first"}.get(model, f"{model}, m units a layer")
        for ax, name in zip(axes, ("weights", "kernel"), strict=True):
            ax.loglog(m, _mean(some, name), dash, marker="o", markersize=3, label=label)
    titles = (r"$|w - w_0|\,/\,|w_0|$", r"$\|K - K_0\|\,/\,\|K_0\|$")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_xticks(sorted(seen), [f"{value:g}" for value in sorted(seen)])
        ax.minorticks_off()
        ax.set(xlabel="width m", title=title)
        ax.legend(fontsize=7)
    return fig


def _mean_field(results: pd.DataFrame) -> Figure:
    """1/m, 1/sqrt(m) and the least loss of the linearized network against the width."""
    some = series(results, "mean-field")
    fig, ax = plots.figure(size=(4.6, 3.6))
    m = np.array(some[0]["curves"]["m"])
    for name, label, style in (
        ("minimum", "linearized network, least of all", "s--"),
        ("root", r"$\alpha = 1/\sqrt{m}$, trained", "^-"),
        ("inverse", r"$\alpha = 1/m$, trained", "o-"),
    ):
        values = np.stack([run["curves"][name] for run in some])
        middle = values.mean(0)
        bars = (middle - values.min(0), values.max(0) - middle)
        ax.errorbar(m, middle, bars, fmt=style, markersize=4, capsize=2, label=label)
    ax.set(xscale="log", yscale="log", xlabel="units $m$")
    ax.set_ylabel("population loss, share of the zero function's\n(mean and range over seeds)")
    ax.set_xticks(m, [f"{value:g}" for value in m])
    ax.minorticks_off()
    fig.legend(loc="outside lower center", ncols=2, fontsize=7)
    return fig
