"""How figures look and how they are saved.

Figures are made with matplotlib's objects (`figure`), not with pyplot: no global state, no
windows, nothing to close.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.drawing.collected import collecting
from experiments.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("pdf", "svg", "png")

# petroff10 (Petroff 2021), safe for colour-blind readers. A method keeps its colour everywhere.
_PETROFF = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
_COLOURS = {
    "vgg11": _PETROFF[0],
    "resnet18": _PETROFF[1],
    "mlp": _PETROFF[9],
    "two-layer": _PETROFF[9],
    "random-features": _PETROFF[2],
    "random-patch": _PETROFF[2],
    "scattering": _PETROFF[4],
    "roto-translation": _PETROFF[7],
    "gaussian": _PETROFF[3],
    "tangent-kernel": _PETROFF[6],
    "linear": _PETROFF[5],
    "published": "black",
}
_STYLE: dict[str, Any] = {
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.hashsalt": "tangent",  # element names otherwise change from one file to the next
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
_NO_DATE: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "ModDate": None},
    "svg": {"Date": None},
    "png": {},
}


def colour(method: str) -> str:
    """Colour of a method in every figure, by the longest name in the table it starts with.

    ``"vgg11-linearized"`` has that of ``"vgg11"``; a method without an entry is dark grey.
    """
    known = [name for name in _COLOURS if method.startswith(name)]
    return _COLOURS[max(known, key=len)] if known else _PETROFF[8]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Set the look of all figures (petroff10 and ours) for what is drawn and saved inside."""
    import matplotlib.style

    with matplotlib.style.context(["petroff10", _STYLE]):
        yield


def figure(
    n_rows: int = 1, n_columns: int = 1, *, size: tuple[float, float] = (5.0, 3.4), **options: Any
) -> tuple[Figure, Any]:
    """Return a figure and its axes, as ``pyplot.subplots`` does, without pyplot.

    Parameters
    ----------
    n_rows, n_columns : int
    size : (float, float)
        Width and height in inches.
    **options
        For ``Figure.subplots``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(n_rows, n_columns, **options)


def accuracy_bars(rows: list[tuple[str, str, list[float]]], images: int, data: str) -> Figure:
    """Mean test accuracies as bars, from bottom to top, draws as dots.

    Parameters
    ----------
    rows : list of (label, colour, accuracies in percent)
    images : int
        Trained on.
    data : str
        What they are of.
    """
    fig, ax = figure(size=(7.0, 0.32 * len(rows) + 1.1))
    for place, (_, shade, values) in enumerate(rows):
        mean = sum(values) / len(values)
        ax.barh(place, mean, color=shade, alpha=0.6)
        ax.plot(values, [place] * len(values), "o", color="black", markersize=3)
        ax.annotate(f"{mean:.1f}", (max(values), place), (5, -3), textcoords="offset points")
    ax.set_yticks(range(len(rows)), [label for label, *_ in rows])
    ax.set(xlabel=f"test accuracy (%); dots: draws\n{images:,} training images of {data}")
    return fig


def save_figure(fig: Figure, folder: Path, stem: str) -> list[Path]:
    """Save ``fig`` as PDF, SVG and PNG and return the paths.

    The files carry no date: the same data gives the same bytes. Call it inside `style`. Inside
    `experiments.drawing.collected.collected` the SVG is kept in memory and no file is written.

    Raises
    ------
    experiments.runs.results.OutputError
        When the folder cannot be written; no file is left half-written.
    """
    if (into := collecting()) is not None:
        text = io.BytesIO()
        fig.savefig(text, format="svg", metadata=_NO_DATE["svg"])
        into.pictures[stem] = text.getvalue().decode()
        return []
    paths = []
    for kind in FORMATS:
        buffer = io.BytesIO()
        fig.savefig(buffer, format=kind, metadata=_NO_DATE[kind])
        paths.append(folder / f"{stem}.{kind}")
        write_file(paths[-1], buffer.getvalue())
    return paths
