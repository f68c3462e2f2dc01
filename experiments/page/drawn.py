"""Studies drawn for the page: figures, tables and provenance, from result files only."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.command import registry
from experiments.drawing.collected import collected
from experiments.drawing.tables import Table
from experiments.page.picture import Picture, picture
from experiments.page.provenance import Provenance, provenance
from experiments.runs import runner
from experiments.runs.pack import kept
from experiments.runs.results import load_results

# Larger studies first; a data set of images that the paper used before the one that comes along.
_SIZES = ("full", "paper", "published", "targets", "subsets", "laptop", "exact", "solved", "smoke")


@dataclass(frozen=True)
class Drawn:
    """A study as the page shows it.

    Parameters
    ----------
    experiment, name : str
    settings : mapping
    results : DataFrame
        A row a finished run.
    pictures : sequence of Picture
    tables : mapping of str to Table
    provenance : Provenance
    folded : bool
        Whether it brings no kind of figure or table that a study before it has not shown.
    """

    experiment: str
    name: str
    settings: dict[str, Any]
    results: pd.DataFrame
    pictures: Sequence[Picture]
    tables: dict[str, Table]
    provenance: Provenance
    folded: bool


def drawn_studies(out: Path, experiment: str, named: Callable[[str], str | None]) -> list[Drawn]:
    """Studies of an experiment that have finished runs, the most telling first.

    Parameters
    ----------
    out : Path
        Folder of results.
    experiment : str
    named : callable
        Gives the accessible name of a figure by the name of its file, None where it has none.
    """
    module = registry.experiment(experiment)
    found: list[Drawn] = []
    seen: set[str] = set()
    for study in sorted(runner.studies(out, experiment), key=_place):
        paths = [path for path in study.paths if kept(path)]
        if not paths:
            continue
        results = load_results(paths)
        with tempfile.TemporaryDirectory() as folder, collected() as into:
            module.draw(results, Path(folder))
        stems = into.pictures.keys() | into.tables.keys()
        pictures = [
            picture(
                text,
                key=f"{experiment}-{study.name}-{stem}",
                title=f"{named(stem) or f'{experiment}: {stem}'} ({study.name})",
            )
            for stem, text in into.pictures.items()
        ]
        found.append(
            Drawn(
                experiment,
                study.name,
                study.settings,
                results,
                pictures,
                into.tables,
                provenance(paths, study.settings, len(study.paths)),
                folded=stems <= seen,
            )
        )
        seen |= stems
    return found


def _place(study: runner.Study) -> tuple[int, bool, bool, str]:
    preset = next((i for i, size in enumerate(_SIZES) if study.name.startswith(size)), len(_SIZES))
    images = "cifar10" in study.name
    changed = study.name.rpartition("-")[2].isalnum() and len(study.name.rpartition("-")[2]) == 6
    return preset, not images, changed and study.name.count("-") > 0, study.name
