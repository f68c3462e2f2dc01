"""The laziness report as a figure and a table, made from result files only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.drawing import plots
from experiments.drawing.tables import Table, write_table
from experiments.files import write_file
from experiments.runs.results import read_result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["draw", "laziness_figure", "laziness_table"]

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
    curves, metrics = document["curves"], document["metrics"]
    fig, (spectrum, distance, gates) = plots.figure(1, 3, size=(9.6, 3.0))
    values, errors = curves["eigenvalues"], curves["eigenvalue_errors"]
    # a value that its error could swallow says nothing of a spectrum
    pairs = enumerate(zip(values, errors, strict=True), 1)
    shown = [(rank, value, error) for rank, (value, error) in pairs if value > 2 * error]
    rank, height, error = zip(*shown, strict=True)
    spectrum.errorbar(rank, height, error, fmt="o-", ms=3, capsize=2)
    spectrum.set(yscale="log", xlabel="rank", ylabel="eigenvalue of the kernel / n")
    if len(rank) > 20:
        spectrum.set_xscale("log")
    how = "all eigenvalues" if metrics["exact_spectrum"] else "the first few, by Lanczos"
    spectrum.set_title(f"{how}; effective rank {metrics['effective_rank']:.3g}", fontsize=8)
    _distances(distance, curves)
    _stabilities(gates, curves)
    fig.suptitle(f"{document['run']['model']}, {metrics['inputs']} inputs", fontsize=9)
    return fig


def _distances(axes: Any, curves: dict[str, Any]) -> None:
    rows = zip(curves["trained_alpha"], curves["trained_from_linearized"], strict=True)
    known = [(a, d) for a, d in rows if a is not None and d is not None and d > 0]
    if known:
        axes.loglog(*zip(*known, strict=True), "o-")
    else:
        axes.text(0.5, 0.5, "no finite scale was measured", ha="center", transform=axes.transAxes)
    axes.axhline(0.1, color="0.6", lw=0.8, ls="--")
    axes.set(xlabel=r"$\alpha$", ylabel="distance of outputs\nfrom the linearization")
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
