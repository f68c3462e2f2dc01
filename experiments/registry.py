"""The table of experiments.

An experiment is a module of this package that has

``SUMMARY : str``
    One line for ``experiments list``.
``Settings`` : frozen dataclass
    Its field docstrings are the help; JSON-able types and tuples only. A field ``dataset`` brings
    the options ``--data-dir`` and ``--download`` with it.
``PRESETS : dict[str, Settings]``
    ``smoke`` (seconds), ``laptop`` (minutes on two cores) and ``paper`` (as printed). A key such
    as ``laptop/cifar10`` holds what the preset is on that data set.
``runs(settings) -> list[dict]``
    One JSON-able dictionary a run: with the fingerprint of the data and the dtype it determines
    the result completely. Wrong settings raise `experiments.usage.UsageError`.
``compute(run, context) -> Outcome``
    Does the work of one run (`experiments.results.Outcome`, `experiments.results.Context`).
``draw(results, folder) -> list[Path]``
    Makes figures and tables (CSV, Markdown) of a DataFrame with a row a run, and of nothing else.

and may have ``DTYPE``, what ``--dtype auto`` stands for ("float32" when left out), and
``DATASETS``, the names that its ``--dataset`` takes (those of `experiments.data` when left out).
A module imports torch inside its functions only, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from types import ModuleType
from typing import Any

from experiments.data import DATASETS
from experiments.usage import UsageError, one_of

__all__ = ["EXPERIMENTS", "available", "experiment", "preset"]

EXPERIMENTS: dict[str, str] = {
    "fig1": "experiments.fig1",
    "fig2": "experiments.fig2",
    "fig3a": "experiments.fig3a",
    "fig3b": "experiments.fig3b",
    "theory": "experiments.theory",
    "laziness": "experiments.laziness",
    "diagnostics": "experiments.diagnostics",
    "spectrum": "experiments.spectrum",
    "precision": "experiments.precision",
    "baselines": "experiments.baselines",
    "tabular": "experiments.tabular",
    "open-question": "experiments.open_question",
}


def available() -> list[str]:
    """Names of the experiments whose module is there, in the order of the table."""
    return [name for name, path in EXPERIMENTS.items() if importlib.util.find_spec(path)]


def experiment(name: str) -> ModuleType:
    """Return the module of an experiment."""
    one_of("experiment", name, available())
    return importlib.import_module(EXPERIMENTS[name])


def preset(module: ModuleType, name: str, dataset: str | None = None) -> Any:
    """Return the settings of a preset, on ``dataset`` where one is given.

    Raises
    ------
    UsageError
        When there is no such preset or data set, or when the experiment takes no data set.
    """
    presets = module.PRESETS
    one_of("preset", name, [key for key in presets if "/" not in key])
    if dataset is not None and hasattr(presets[name], "dataset"):
        one_of("dataset", dataset, getattr(module, "DATASETS", DATASETS))
    if dataset is None or dataset == getattr(presets[name], "dataset", None):
        return presets[name]
    if not hasattr(presets[name], "dataset"):
        raise UsageError(f"{module.__name__.rpartition('.')[2]} takes no --dataset")
    settings = presets.get(f"{name}/{dataset}", presets[name])
    return dataclasses.replace(settings, dataset=dataset)
