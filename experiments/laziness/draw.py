"""The laziness report as a figure and a table, made from result files only."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.tables import Table, write_table
from experiments.files import write_file
from experiments.runs.results import read_result
from tangent.laziness.words import NEAR

_COLUMNS = {
    "model": "network",
    "seed": "seed",
    "parameters": "parameters",
    "first": "norm of Dh",
    "second": "norm of D²h (from below)",
    "kappa_centred": "kappa, centred",
    "lazy_alpha": "kappa 0.1 at alpha",
    "effective_rank": "effective rank",
    "alignment": "alignment with y",
}


def laziness_figure(document: dict[str, Any]) -> Figure:
    """Spectrum, distance to the linearization against alpha, and stability gate by gate."""
    curves, metrics, run = document["curves"], document["metrics"], document["run"]
    fig, (spectrum, distance, gates) = plots.figure(1, 3, size=(9.6, 3.1))
    _eigenvalues(spectrum, curves, metrics)
    _distances(distance, curves)
    _stabilities(gates, curves)
    epochs = f"{run['epochs']} epoch{'s' * (run['epochs'] != 1)}"
    fig.suptitle(
        f"{run['model']} on {metrics['inputs']} inputs of {run['dataset']}; trained for {epochs}",
        fontsize=9,
    )
    return fig


def _eigenvalues(axes: Any, curves: dict[str, Any], metrics: dict[str, Any]) -> None:
    values, errors = curves["eigenvalues"], curves["eigenvalue_errors"]
    exact = metrics["exact_spectrum"]
    # What its error could swallow says nothing of a spectrum, nor does what follows it.
    count = next(
        (i for i, (v, e) in enumerate(zip(values, errors, strict=True)) if v <= 4 * e), None
    )
    shown = values[: max(1, len(values) if count is None else count)]
    line = "o-" if exact else "o"  # between values by Lanczos others may lie
    axes.errorbar(range(1, len(shown) + 1), shown, errors[: len(shown)], fmt=line, ms=3, capsize=2)
    axes.set(yscale="log", xlabel="in order", ylabel="eigenvalue of the kernel / n")
    _whole_decades(axes, shown)
    if len(shown) > 20:
        axes.set_xscale("log")
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    how = "all" if exact else "by Lanczos: one within every bar"
    axes.set_title(f"{how}; effective rank {metrics['effective_rank']:.3g}", fontsize=8, pad=9)


def _whole_decades(axes: Any, values: list[float]) -> None:
    """Limits at powers of ten, which alone are labelled, two of them at least."""
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    positive = [v for v in values if v > 0]
    if positive:
        low = math.floor(math.log10(min(positive) / 1.1))
        axes.set_ylim(10.0**low, 10.0 ** max(low + 1, math.ceil(math.log10(max(positive) * 1.1))))


def _distances(axes: Any, curves: dict[str, Any]) -> None:
    rows = zip(curves["trained_alpha"], curves["trained_from_linearized"], strict=True)
    known = [(a, d) for a, d in rows if a is not None and d is not None and d > 0]
    if known:
        axes.loglog(*zip(*known, strict=True), "o-", ms=4)
        _whole_decades(axes, [NEAR, *(d for _, d in known)])
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    else:
        axes.text(0.5, 0.5, "no finite scale was measured", ha="center", transform=axes.transAxes)
    axes.axhline(NEAR, color="0.4", lw=0.8, ls="--")
    axes.set(xlabel=r"scale $\alpha$", ylabel="distance of outputs\nfrom the linearization")
    axes.set_title("below the dashed line: called lazy", fontsize=8)


def _stabilities(axes: Any, curves: dict[str, Any]) -> None:
    if not curves["gates"]:
        axes.text(0.5, 0.5, "no gates: a smooth network", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    for alpha, kept in zip(curves["trained_alpha"], curves["trained_stability"], strict=True):
        if alpha is not None and kept:
            label = rf"$\alpha$ = {alpha:.3g}"
            axes.plot(range(1, len(kept) + 1), [100 * k for k in kept], "o-", ms=3, label=label)
    axes.set(xlabel="gate, from the input on", ylabel="decisions kept (%)")
    axes.set_title("what the training left as it was", fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=7)


def laziness_table(results: pd.DataFrame) -> Table:
    """A row a report: the numbers of equation (1) and how the trainings ended."""
    numbers = results[list(_COLUMNS)].copy()
    documents = [read_result(Path(path)) for path in results["path"]]
    own = [_at_one(document["curves"]) for document in documents]
    numbers["from_linearized_at_1"] = [o[0] for o in own]
    numbers["least_stable_at_1"] = [o[1] for o in own]
    shown = numbers.rename(
        columns={
            **_COLUMNS,
            "from_linearized_at_1": "from linearization at alpha = 1",
            "least_stable_at_1": "least stable gate at alpha = 1",
        }
    )
    for name in shown.select_dtypes(float).columns:
        shown[name] = ["–" if v != v else f"{v:.3g}" for v in shown[name]]
    notes = [
        f"{results['data_label'].iloc[0]}, {int(results['n'].iloc[0])} images, square loss on "
        f"one-hot targets; norms on outputs are root mean squares over the images. After "
        f"{int(results['epochs'].iloc[0])} epochs at half the stable rate. Kinks of gates are left "
        "out of D²h and kappa.",
        *(
            f"{d['run']['model']}, seed {d['run']['seed']}: {d['metrics']['verdict']}"
            for d in documents
        ),
    ]
    return Table("Laziness of networks", numbers, shown, notes)


def _at_one(curves: dict[str, Any]) -> tuple[float | None, float | None]:
    for i, alpha in enumerate(curves["trained_alpha"]):
        if alpha == 1:
            kept = curves["trained_stability"][i]
            return curves["trained_from_linearized"][i], min(kept, default=None)
    return None, None


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the table of all reports, and each as text and as a figure."""
    results = results[results["status"] == "done"]
    if not len(results):
        return []
    paths = write_table(laziness_table(results), folder, "laziness")
    for path in results["path"]:
        document = read_result(Path(path))
        run = document["run"]
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", f"laziness-{run['model']}-seed{run['seed']}")
        write_file(folder / f"{stem}.txt", (document["metrics"]["text"] + "\n").encode())
        with plots.style():
            paths += [folder / f"{stem}.txt"]
            paths += plots.save_figure(laziness_figure(document), folder, stem)
    return paths
