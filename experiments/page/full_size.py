"""The comparison on all images: what is measured of it, and what the page says of the question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from experiments.drawing import plots
from experiments.drawing.axes import power
from experiments.drawing.collected import Collected, collected
from experiments.drawing.tables import percent
from experiments.fig3b import draw_full as full_figure
from experiments.fig3b.claims import pairs, rows
from experiments.fig3b.draw_full import comparison_rows
from experiments.fig3b.paper import of_the_paper
from experiments.networks.claims import CLEAR, Row
from experiments.page.drawn import Drawn
from experiments.page.findings import images_of
from experiments.runs.pack import run_paths
from experiments.runs.results import load_results

FULL_COMMAND = "python -m experiments fig3b full --data-dir DIR --jobs 2"
_QUESTION = (
    "Do deep convolutional networks learn because they train lazily, that is, as their "
    "linearization at initialization would (Chizat, Oyallon and Bach 2019)?"
)


@dataclass(frozen=True)
class Answer:
    """The question, what the numbers say, and what is missing for more."""

    question: str
    sentences: list[str]
    missing: str
    command: str


def networks_in(study: Drawn) -> bool:
    """Whether this study of Figure 3(b) has networks trained on all images."""
    return bool(study.results["n_train"].isna().all())


def fixed_only(out: Path) -> tuple[Collected, list[Path]] | None:
    """Picture and table of the fixed representations on all images, and the runs' paths.

    For a page without networks of full size; None where these are missing too.
    """
    found = _fixed_rows(out)
    if found is None:
        return None
    results, rows = found
    label = str(results["data_label"].iloc[0])
    with plots.style(), collected() as into:
        plots.save_figure(full_figure.comparison(rows, label), out, "fig3b-fixed")
    into.tables["fig3b-fixed"] = full_figure.comparison_table(rows, label)
    return into, [Path(path) for path in results["path"]]


def _fixed_rows(out: Path) -> tuple[pd.DataFrame, list[Row]] | None:
    """Runs of `experiments baselines` on the most images of CIFAR-10, and the rows they make."""
    paths = run_paths(out / "baselines")
    if not paths:
        return None
    results = load_results(paths)
    fixed = results[(results["status"] == "done") & (results["dataset"] == "cifar10")]
    fixed = fixed[fixed["n_train"] == 50_000]
    known = fixed["method"].str.startswith(("random-patches", "scattering", "roto"))
    fixed = fixed[known]
    if fixed.empty:
        return None
    nothing = fixed.assign(model=None, width=None, alpha=None).iloc[:0]
    return fixed, rows(nothing, fixed)


def answer(studies: Sequence[Drawn], out: Path) -> Answer:
    """The question and its answer, from Figure 3(b)'s studies, those of full size first."""
    whole = next((s for s in studies if networks_in(s)), None)
    if whole is not None:
        found = comparison_rows(whole.results, out)
        text = _said(found, "all 50,000 training images")
        planned = dict(whole.provenance.facts)["runs"]
        if text:
            missing = "" if " of " not in planned else f"Finished so far: {planned} runs."
            said = [text, *_published(), *_best_fixed(out)]
            return Answer(_QUESTION, said, missing, FULL_COMMAND if missing else "")
    parts = [s for s in studies if not networks_in(s)]
    part = max(parts, key=lambda s: (s.results["n_train"].max(), s.name), default=None)
    text = "" if part is None else _said(_rows_of_part(part.results), images_of(part.results))
    said = [text, *_published()] if text else ["Nothing of it has been measured yet."]
    return Answer(
        _QUESTION,
        [*said, *_best_fixed(out)],
        "Networks on all 50,000 images have not been trained yet: what is said of them above is "
        "said of fewer images and narrower networks.",
        FULL_COMMAND,
    )


def _rows_of_part(results: pd.DataFrame) -> list[Row]:
    if "model" not in results:
        return []
    networks = results[results["model"].notna() & ~results["method"].str.endswith("-exact")]
    finite = networks[networks["alpha"].astype(float) < math.inf]
    return rows(finite, results.iloc[:0])


def _said(found: Sequence[Row], where: str) -> str:
    """The answer from pairs of a network at alpha = 1 and the same at its largest scale."""
    compared = pairs(found)
    if not compared:
        return ""
    gaps = [
        ((one.test or 0) - (lazy.test or 0)) / math.hypot(one.error or 0, lazy.error or 0)
        for one, lazy in compared
    ]
    if all(gap >= CLEAR for gap in gaps):
        word = "No, not here"
    elif all(gap <= -CLEAR for gap in gaps):
        word = "The lazy networks are not behind here"
    else:
        word = "Undecided"
    shown = [
        f"{one.name.rpartition(',')[0]}: {percent(one.test)}% of the test images at α = 1, "
        f"{percent(lazy.test)}% at α = {power(lazy.alpha or 0)} "
        f"(a difference of {gap:+.1f} standard errors)"
        for (one, lazy), gap in zip(compared, gaps, strict=True)
    ]
    paired = [one for one, _ in compared]
    alone = [
        f"{row.name.rpartition(',')[0]} {percent(row.test)}%"
        for row in found
        if row.kind == "standard" and row.test is not None and row not in paired
    ]
    only = f" Trained at α = 1 only: {', '.join(alone)}." if alone else ""
    return f"{word}: trained on {where}, " + "; ".join(shown) + "." + only


def _best_fixed(out: Path) -> list[str]:
    found = _fixed_rows(out)
    if found is None:
        return []
    best = max(found[1], key=lambda row: row.test or 0)
    return [
        f"Without any learned representation, {best.name} reaches {percent(best.test)}% from all "
        f"50,000 images of {found[0]['data_label'].iloc[0]}."
    ]


def _published() -> list[str]:
    """The paper's own pairs, which belong to other images and other widths."""
    paper = of_the_paper()
    shown = []
    for model, name in (("vgg11", "VGG-11"), ("resnet18", "ResNet-18")):
        found = (paper[f"{model}{kind}"].get("test_accuracy") for kind in ("", "-lazy"))
        numbers = [number for number in found if number is not None]
        if len(numbers) == 2:
            marks = ["†" if number.status == "recalled" else "" for number in numbers]
            one, lazy = (f"{percent(n.value)}%{m}" for n, m in zip(numbers, marks, strict=True))
            shown.append(f"{name} {one} and {lazy}")
    text = "Published, for networks 8 and 7 times as wide on all lossless images: "
    return [text + ", ".join(shown) + " (α = 1 and α = 10⁷)."] if shown else []
