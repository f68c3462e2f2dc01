"""The comparison on all images as a picture, a table and a table of claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.drawing import plots
from experiments.drawing.tables import Table, percent
from experiments.fig3b.claims import rows
from experiments.fig3b.paper import dagger, of_the_paper
from experiments.networks.claims import Row
from experiments.runs.pack import run_paths
from experiments.runs.results import load_results

_PUBLISHED = {
    ("standard", "vgg11"): "vgg11",
    ("lazy", "vgg11"): "vgg11-lazy",
    ("standard", "resnet18"): "resnet18",
    ("lazy", "resnet18"): "resnet18-lazy",
    ("patches", None): "random-features",
    ("scattering", None): "scattering",
}
_COLUMNS = (
    *("kind", "name", "model", "width", "alpha", "train", "test", "error", "stability"),
    *("runs", "size", "cpu_hours"),
)


def comparison_rows(results: pd.DataFrame, out: Path) -> list[Row]:
    """Rows of a study and, beside them, the fixed representations measured on the same images.

    Parameters
    ----------
    results : DataFrame
        Of the study, a row a run.
    out : Path
        The results folder, where `experiments baselines` keeps its runs.
    """
    networks = results[results["model"].notna()]
    paths = run_paths(out / "baselines")
    if not paths:
        return rows(networks, results.iloc[:0])
    fixed = load_results(paths)
    mark = results["data_fingerprint"].iloc[0]
    whole = fixed["n_train"] == _whole(networks)
    fixed = fixed[(fixed["data_fingerprint"] == mark) & whole & (fixed["status"] == "done")]
    return rows(networks, fixed)


def _whole(networks: pd.DataFrame) -> int:
    """Training images of the networks; all of CIFAR-10 where none are left out."""
    given = networks["n_train"].iloc[0]
    return 50_000 if given is None or given != given else int(given)


def _published(label: str) -> dict[tuple[str, str | None], dict[str, Any]]:
    """The paper's numbers by kind and network; none beside another data set than theirs."""
    if not label.startswith("CIFAR-10"):
        return {}
    known = of_the_paper()
    return {key: known[method] for key, method in _PUBLISHED.items()}


def comparison_table(found: list[Row], label: str) -> Table:
    """Measured accuracies with their standard errors, cost and size; the paper's apart."""
    paper = _published(label)
    numbers, shown = [], []
    for row in found:
        known = paper.get((row.kind, row.model), {})
        numbers.append({name: getattr(row, name) for name in _COLUMNS})
        error = "" if row.error is None else f" ± {100 * row.error:.1f}"
        shown.append(
            {
                "method": row.name,
                "train %": percent(row.train),
                "test %": percent(row.test) + error,
                "stable %": percent(row.stability, 2),
                "CPU hours": "–" if row.cpu_hours is None else f"{row.cpu_hours:.2f}",
                "parameters or features": "–" if row.size is None else f"{row.size:,.0f}",
                "paper: train %": dagger(known.get("train_accuracy")),
                "paper: test %": dagger(known.get("test_accuracy")),
            }
        )
    notes = [
        "± is one standard error of the test accuracy (10,000 test images; with several seeds "
        "their spread too). Stable: ReLUs with the sign they had at initialization, on test "
        "images. Every network's learning rate was chosen on held-out training images by one rule. "
        "CPU hours of one run; – where it went on from a checkpoint that did not keep them.",
        "Paper: Chizat, Oyallon and Bach 2019, Figure 3(b): lossless images, networks 8 (VGG-11) "
        "and 7 (ResNet-18) times as wide as the originals.",
        "† Recalled from the published figure and not checked against print.",
    ]
    title = f"Figure 3(b) on {label}"
    return Table(title, pd.DataFrame(numbers), pd.DataFrame(shown), notes)


def comparison(found: list[Row], label: str) -> Figure:
    """Test accuracies as bars, networks and fixed representations; training and paper as marks."""
    paper = _published(label)
    ordered = sorted(found, key=lambda row: -(row.test or 0.0))
    fig, ax = plots.figure(size=(7.0, 0.34 * len(ordered) + 1.6))
    handles: dict[str, Any] = {"pale: lazy networks": Patch(color="0.8")}
    for y, row in enumerate(ordered):
        if row.test is None:
            ax.text(1, y, "diverged", va="center", fontsize=8)
            continue
        colour = plots.colour(row.model or row.method.replace("patches", "patch"))
        faint = 0.45 if row.kind in ("lazy", "solved") else 0.9
        ax.barh(y, 100 * row.test, height=0.6, color=colour, alpha=faint)
        ax.errorbar(100 * row.test, y, xerr=100 * (row.error or 0), color="black", lw=1, capsize=2)
        ax.text(1.5, y, f"{100 * row.test:.1f}", va="center", fontsize=7.5)
        if row.train is not None:
            (dot,) = ax.plot(100 * row.train, y, "o", mfc="white", mec="black", ms=4.5, zorder=4)
            handles.setdefault("training images, measured", dot)
        number = paper.get((row.kind, row.model), {}).get("test_accuracy")
        if number is not None:
            (mark,) = ax.plot(100 * number.value, y, "^", color="0.25", ms=4.5, zorder=5)
            handles.setdefault(
                "test, paper† (recalled; lossless images, 7 to 8 times as wide)", mark
            )
    ax.set_yticks(range(len(ordered)), [row.name for row in ordered], fontsize=8)
    ax.set(xlim=(0, 101), ylim=(len(ordered) - 0.4, -0.6))
    ax.set_xlabel("test accuracy (%), ± one standard error")
    ax.set_title(f"Figure 3(b) on {label}", loc="left", fontsize=9)
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=8)
    return fig


def widening(found: list[Row], label: str) -> Figure:
    """Accuracy of networks against their width, at alpha = 1 and lazy."""
    found = [row for row in found if row.width and row.kind != "solved"]
    fig, ax = plots.figure(size=(4.6, 3.2))
    groups = dict.fromkeys((row.model, row.kind) for row in found if row.model)
    widths: set[float] = set()
    for model, kind in groups:
        same = [r for r in found if (r.model, r.kind) == (model, kind) and r.test is not None]
        same.sort(key=lambda r: r.width or 0.0)
        x = [r.width for r in same]
        widths |= {w for w in x if w}
        colour, line = plots.colour(str(model)), "-" if kind == "standard" else "--"
        name = same[0].name.split(",")[0] if same else ""
        scale = "α = 1" if kind == "standard" else "lazy"
        ax.errorbar(
            x,
            [100 * (r.test or 0) for r in same],
            [100 * (r.error or 0) for r in same],
            fmt=f"o{line}",
            color=colour,
            capsize=2,
            ms=4,
            label=f"{name}, {scale}, test",
        )
        trained = [(r.width, 100 * r.train) for r in same if r.train is not None]
        if trained:
            ax.plot(*zip(*trained, strict=True), "o", mfc="white", mec=colour, ms=4)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(widths), [f"{w:g}" for w in sorted(widths)])
    ax.minorticks_off()
    ax.set(xlabel="width (1: the original's channels)", ylabel="accuracy (%)")
    ax.set_title(f"{label}; open: training images", loc="left", fontsize=8)
    fig.legend(loc="outside lower center", ncols=2, fontsize=8)
    return fig
