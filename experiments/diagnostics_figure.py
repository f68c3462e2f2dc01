"""The figure of a `tangent.diagnostics.Report`, and what `experiments diagnostics` writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments import plots
from experiments.files import write_file
from experiments.report import Table, write_table
from experiments.results import read_result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from tangent.diagnostics import Report

__all__ = ["diagnostics_figure", "diagnostics_table", "draw", "reported", "save_diagnostics"]

_NUMBERS = {
    "parameters": "parameters",
    "distance": "distance to y",
    "first": "norm of Dh",
    "second": "norm of D²h",
    "kappa": "kappa",
    "kappa_centred": "kappa, centred",
    "lazy_alpha": "lazy from alpha",
    "condition": "kernel condition",
    "effective_rank": "effective rank",
}


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
    without = f"\n(kinks of {', '.join(report.kinks)} left out)" if report.kinks else ""
    law.set_title(rf"lazy from $\alpha$ = {report.lazy_alpha:.3g}{without}", fontsize=9)

    place = np.arange(3)
    for i, movement in enumerate(report.movements):
        signs = np.nan if movement.signs is None else 1 - movement.signs
        heights = [movement.weights, movement.kernel, signs]
        label = rf"$\alpha$ = {movement.alpha:.3g}"
        moved.bar(place + 0.35 * i, heights, 0.33, label=label)
    middle = 0.175 * max(len(report.movements) - 1, 0)
    moved.set_xticks(place + middle, ["weights", "kernel", "signs"])
    moved.set(yscale="log", ylabel=f"relative change, {report.steps} steps")
    if report.movements:
        moved.legend(fontsize=7)
    return fig


def save_diagnostics(report: Report, folder: Path, stem: str = "diagnostics") -> list[Path]:
    """Save the figure as PDF, SVG and PNG and return the paths."""
    with plots.style():
        return plots.save_figure(diagnostics_figure(report), folder, stem)


def reported(path: Path) -> Report:
    """The report kept in the result file at ``path``."""
    from tangent.diagnostics import Movement, Report

    document = read_result(path)
    numbers, curves = dict(document["metrics"]), dict(document["curves"])
    names = [name for name in curves if name.startswith("moved_")]
    rows = zip(*(curves.pop(name) for name in names), strict=True)
    movements = [
        Movement(**dict(zip((n.removeprefix("moved_") for n in names), row, strict=True)))
        for row in rows
    ]
    if numbers["condition"] is None:  # infinities are kept as null
        numbers["condition"] = float("inf")
    return Report(
        **numbers,
        eigenvalues=tuple(curves["eigenvalues"]),
        kinks=tuple(curves["kinks"]),
        movements=tuple(movements),
        steps=document["run"]["steps"],
    )


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the table of all reports, and each as text and as a figure."""
    results = results[results["status"] == "done"]
    paths = write_table(diagnostics_table(results), folder, "diagnostics") if len(results) else []
    for row in results.itertuples():
        report = reported(Path(str(row.path)))
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"diagnostics-{row.model}-seed{row.seed}")
        write_file(folder / f"{stem}.txt", f"{report}\n".encode())
        paths += [folder / f"{stem}.txt", *save_diagnostics(report, folder, stem)]
    return paths


def diagnostics_table(results: pd.DataFrame) -> Table:
    """A row a report: the numbers of equation (1), and what the short training moved."""
    numbers = results[["model", "seed", *_NUMBERS]].copy()
    numbers["condition"] = numbers["condition"].astype(float).fillna(float("inf"))
    reports = [reported(Path(path)) for path in results["path"]]
    kinks = [", ".join(report.kinks) or "none" for report in reports]
    numbers.insert(2, "kinks", kinks)
    for i, at in enumerate(("alpha = 1", "lazy alpha, or 1")):
        moved = [report.movements[min(i, len(report.movements) - 1)] for report in reports]
        numbers[f"kernel change at {at}"] = [movement.kernel for movement in moved]
    shown = numbers.rename(columns=_NUMBERS)
    for name in shown.select_dtypes(float).columns:
        shown[name] = [f"{value:.3g}" for value in shown[name]]
    notes = [
        f"{results['data_label'].iloc[0]}, {int(results['n'].iloc[0])} images, square loss on "
        "one-hot targets, float64; norms on outputs are root mean squares over the images. The "
        f"kernel's change is after {int(results['steps'].iloc[0])} steps of the centred network. "
        "Where there are kinks, they are left out of D²h and kappa."
    ]
    return Table("Laziness of networks", numbers, shown, notes)
