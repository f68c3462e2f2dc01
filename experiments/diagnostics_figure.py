"""The figure of a `tangent.diagnostics.Report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tangent.diagnostics import Report

__all__ = ["diagnostics_figure", "save_diagnostics"]


def diagnostics_figure(report: Report) -> Figure:
    """Spectrum of the tangent kernel, kappa against alpha, and what a short training moved."""
    fig, (spectrum, law, moved) = plots.figure(1, 3, size=(9.6, 3.0))
    values = np.array(report.eigenvalues)
    positive = values > 0
    spectrum.loglog(np.arange(1, len(values) + 1)[positive], values[positive], "o-", markersize=3)
    spectrum.set(xlabel="rank", ylabel="eigenvalue of the tangent kernel")
    spectrum.set_title(f"condition {report.condition:.2g}", fontsize=9)

    largest = max(10.0, 10 * report.lazy_alpha)
    alpha = np.geomspace(min(1.0, report.lazy_alpha), largest, 50)
    law.loglog(alpha, report.kappa_centred / alpha, label=r"$\kappa$ of $\alpha(h - h(w_0))$")
    law.axhline(0.1, color="0.6", linewidth=0.8, linestyle="--")
    law.axvline(report.lazy_alpha, color="0.6", linewidth=0.8, linestyle="--")
    law.set(xlabel=r"$\alpha$", ylabel=r"$\kappa$")
    law.set_title(rf"lazy from $\alpha$ = {report.lazy_alpha:.3g}", fontsize=9)

    place = np.arange(3)
    for i, movement in enumerate(report.movements):
        signs = np.nan if movement.signs is None else 1 - movement.signs
        heights = [movement.weights, movement.kernel, signs]
        label = rf"$\alpha$ = {movement.alpha:.3g}"
        moved.bar(place + 0.35 * i, heights, 0.33, label=label)
    moved.set_xticks(place + 0.17, ["weights", "kernel", "signs"])
    moved.set(yscale="log", ylabel=f"relative change, {report.steps} steps")
    if report.movements:
        moved.legend(fontsize=7)
    return fig


def save_diagnostics(report: Report, folder: Path, stem: str = "diagnostics") -> list[Path]:
    """Save the figure as PDF, SVG and PNG and return the paths."""
    with plots.style():
        return plots.save_figure(diagnostics_figure(report), folder, stem)
