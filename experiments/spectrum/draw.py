"""The figure and the table of Appendix C, made from results only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.drawing import plots
from experiments.drawing.tables import Table, provenance_notes, write_table
from experiments.runs.results import read_arrays

_NETWORK = ["variant", "width", "gain"]
_LINES = {"images": "-", "random": "--"}
_NUMBERS = {
    "condition_number": "condition number",
    "largest_over_median": "largest / median",
    "share_of_top_1": "share of the first",
    "share_of_top_10": "share of the first ten",
    "effective_rank": "trace / largest",
    "numerical_rank": "numerical rank",
}


def _label(row: Any) -> str:
    if ":" in row.variant:  # of a library or of the user's own, as it is made there
        return row.variant
    return f"{row.variant}, width {row.width:g}, gain {row.gain:.3g}"


def _networks(results: pd.DataFrame) -> pd.DataFrame:
    """The networks in the order of the runs, the main one first."""
    return results[_NETWORK].drop_duplicates()


def _curves(results: pd.DataFrame, network: Any, inputs: str) -> list[np.ndarray]:
    same = (results["inputs"] == inputs) & (results["status"] == "done")
    for column, value in zip(_NETWORK, network, strict=True):
        same &= results[column] == value
    return [read_arrays(Path(path))["singular_values"] for path in results.loc[same, "path"]]


def spectra(results: pd.DataFrame) -> Figure:
    """Sorted singular values: of the main network on both kinds of inputs, and of all on images.

    ``results`` has a row a run, with columns variant, width, gain, inputs, seed and path. On the
    right, where there are several networks, every spectrum is divided by its largest value. A
    line a seed.
    """
    networks = list(_networks(results).itertuples(index=False))
    several = len(networks) > 1
    fig, axes = plots.figure(1, 1 + several, size=(4.5 + 4.5 * several, 3.6), squeeze=False)
    left, right = axes[0, 0], axes[0, -1]
    label = results["data_label"].iloc[0] if "data_label" in results else "images"
    for colour, (inputs, line) in enumerate(_LINES.items()):
        for index, values in enumerate(_curves(results, networks[0], inputs)):
            name = label if inputs == "images" else "random pixels"
            left.semilogy(
                np.arange(1, len(values) + 1),
                np.where(values > 0, values, np.nan),
                line,
                color=f"C{colour}",
                label=name if index == 0 else None,
            )
    for colour, network in enumerate(networks if several else ()):
        for index, values in enumerate(_curves(results, network, "images")):
            right.semilogy(
                np.arange(1, len(values) + 1),
                np.where(values > 0, values / values[0], np.nan),
                ["-", "--", ":", "-."][colour % 4],
                color=f"C{colour}",
                label=_label(network) if index == 0 else None,
            )
    left.set(xlabel="index", ylabel=r"singular value of $Dh(w_0)$", title=_label(networks[0]))
    left.legend()
    if several:
        right.set(xlabel="index", ylabel="singular value / largest", title=f"on {label}")
        right.legend(fontsize="small")
    return fig


def spectrum_table(results: pd.DataFrame) -> Table:
    """Conditioning and concentration of every spectrum, mean over the seeds."""
    groups = results.groupby([*_NETWORK, "inputs"], sort=False)
    numbers = groups[list(_NUMBERS)].mean(numeric_only=True)
    numbers["seeds"] = groups["seed"].nunique()
    numbers = numbers.reset_index()
    shown = numbers.copy()
    for column in _NUMBERS:
        shown[column] = [
            "–" if value != value else f"{value:.3g}" for value in numbers[column].astype(float)
        ]
    shown["gain"] = [f"{gain:.3g}" for gain in numbers["gain"]]
    rows = int(results["rows"].max()) if "rows" in results else 0
    return Table(
        "Spectrum of the tangent kernel",
        numbers,
        shown.rename(columns=_NUMBERS),
        [
            f"Kernel of {rows} rows: all outputs of {int(results['n'].iloc[0])} inputs.",
            "Condition number: –, where the smallest eigenvalue is rounding.",
            *provenance_notes(results),
        ],
    )


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the spectra and the table of their numbers."""
    paths = write_table(spectrum_table(results), folder, "spectrum")
    with plots.style():
        paths += plots.save_figure(spectra(results), folder, "spectrum")
    return paths
