"""Figure 3(a) at several learning rates: which are stable, and what the others cost."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.axes import alpha_label
from experiments.drawing.tables import Table, mean_and_range
from experiments.fig3a.against_alpha import study_name

_MARKERS = "osv^Dp*hX"


def against_rate(results: pd.DataFrame) -> Figure:
    """Training loss and test accuracy against the rate over the stability edge, a line an alpha.

    ``results`` has a row a run, with columns alpha, rate, seed, lr, stability_edge, train_loss and
    test_accuracy; mean and range over the seeds. A rate that diverged has a cross above the panel:
    it has neither a loss nor an accuracy. Rates are not joined by lines, nothing is known between
    them.
    """
    fig, axes = plots.figure(1, 2, size=(7.2, 3.4))
    alphas = sorted(results["alpha"].unique())
    for number, alpha in enumerate(alphas):
        look = {
            "color": _shade(number, len(alphas)),
            "marker": _MARKERS[number % len(_MARKERS)],
            "ms": 4,
        }
        rows = results[results["alpha"] == alpha]
        for ax, column, times in zip(axes, ("train_loss", "test_accuracy"), (1, 100), strict=True):
            edge, above = _edge(rows, results), 1.05 + 0.06 * number
            _line(ax, rows, edge, look, column=column, times=times, above=above)
        axes[0].plot([], [], linestyle="", **look, label=rf"$\alpha = {_symbol(alpha)}$")
    if results["test_accuracy"].isna().any():
        axes[0].plot([], [], "x", color="0.4", ms=6, label="diverged (above the panel)")
    for ax in axes:
        ax.axvline(1, color="0.4", linewidth=0.8, linestyle="--", label="edge")
        ax.set(xscale="log", xlabel="learning rate / stability edge")
    axes[0].set(yscale="log", ylabel="training loss, last epoch")
    axes[1].set(ylabel="test accuracy (%)")
    room = "\n" * (1 + len(alphas) // 3)  # for the crosses, a row an alpha
    fig.suptitle(f"Learning rates, {study_name(results)}{room}", fontsize=9, x=0.01, ha="left")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return fig


def _symbol(alpha: float) -> str:
    """``alpha`` in mathematics: a power of ten from 10,000 on."""
    power = math.log10(alpha) if 0 < alpha < math.inf else 0
    if power >= 4 and power == int(power):
        return f"10^{{{int(power)}}}"
    return r"\infty" if math.isinf(alpha) else f"{alpha:g}"


def _shade(number: int, count: int) -> Any:
    return colormaps["viridis"](0.05 + 0.85 * number / max(count - 1, 1))


def _line(
    ax: Any,
    rows: pd.DataFrame,
    edge: float,
    look: dict[str, Any],
    *,
    column: str,
    times: float,
    above: float,
) -> None:
    points: list[tuple[float, float, float, float]] = []
    for rate, group in _by_rate(rows):
        x = _over_edge(edge, rate, group)
        values = times * group[column]
        if values.isna().any():
            place = ax.get_xaxis_transform()
            ax.plot(x, above, "x", color=look["color"], transform=place, ms=5, clip_on=False)
        else:
            points.append((x, values.mean(), values.min(), values.max()))
    if points:
        at, mean, low, high = zip(*sorted(points), strict=True)
        down, up = ([abs(a - b) for a, b in zip(mean, other, strict=True)] for other in (low, high))
        several = rows["seed"].nunique() > 1  # one seed has no range
        ax.errorbar(at, mean, yerr=[down, up] if several else None, capsize=2, fmt=" ", **look)


def _by_rate(rows: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    return list(rows.groupby("rate", sort=False))


def _edge(rows: pd.DataFrame, results: pd.DataFrame) -> float:
    """The edge at one alpha; where all its runs diverged, and know none, that of the others.

    It is the linearized problem's, and alpha does not enter it.
    """
    own = rows["stability_edge"].mean()
    return float(results["stability_edge"].mean() if math.isnan(own) else own)


def _over_edge(edge: float, rate: Any, group: pd.DataFrame) -> float:
    """The rate over the edge; a diverged run knows neither, but a run beside it its edge."""
    if rate == "auto":
        return float((group["lr"] / group["stability_edge"]).mean())
    return float(rate) / edge


def rates_table(results: pd.DataFrame) -> Table:
    """Edge, loss and accuracy of every alpha and rate."""
    numbers, shown = [], []
    for alpha, rows in results.groupby("alpha"):
        for rate, group in _by_rate(rows):
            auto = rate == "auto"
            lr = float(group["lr"].mean()) if auto else float(rate)
            record = {
                "alpha": alpha,
                "rate": rate,
                "runs": len(group),
                "diverged": int((group["status"] == "diverged").sum()),
                "lr": lr,
                "over_edge": _over_edge(_edge(rows, results), rate, group),
                **{
                    f"{c}_mean": group[c].mean()
                    for c in ("train_loss", "train_accuracy", "test_accuracy", "stability")
                },
            }
            numbers.append(record)
            loss = record["train_loss_mean"]
            shown.append(
                {
                    "alpha": alpha_label(float(str(alpha))),
                    "lr": f"{lr:.3g}{' (auto)' if auto else ''}",
                    "lr / edge": f"{record['over_edge']:.2g}",
                    "train loss": "–" if math.isnan(loss) else f"{loss:.4g}",
                    "train %": mean_and_range(group["train_accuracy"].tolist()),
                    "test %": mean_and_range(group["test_accuracy"].tolist()),
                }
            )
    first, count = results.iloc[0], results["seed"].nunique()
    notes = [
        f"Mean [least, greatest] over {count} seed{'s' * (count > 1)}; {first['epochs']} epochs, "
        f"batch {first['batch_size']}, momentum {first['momentum']:g}, {first['loss']} loss over "
        f"alpha^2, gain {first['gain']:g}. The edge is the largest stable rate of the linearized "
        "problem on one mini-batch, measured before training. Train loss: mean of the "
        "mini-batches of the last epoch.",
    ]
    title = f"Learning rates: {study_name(results)}"
    return Table(title, pd.DataFrame(numbers), pd.DataFrame(shown), notes)
