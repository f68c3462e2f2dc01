"""The table of experiments.

An experiment is a folder of three modules, each imported when it is first needed, so that
``--help`` answers without torch.

``settings.py``
    ``SUMMARY : str``
        One line for ``experiments list``.
    ``Settings`` : frozen dataclass
        Its field docstrings are the help; JSON-able types and tuples only. A field ``dataset``
        brings the options ``--data-dir`` and ``--download`` with it.
    ``PRESETS : dict[str, Settings]``
        ``smoke`` (seconds), ``laptop`` (minutes on two cores) and ``paper`` (as printed). A key
        such as ``laptop/cifar10`` holds what the preset is on that data set.
    ``runs(settings) -> list[dict]``
        One JSON-able dictionary a run: with the fingerprint of the data and the dtype it
        determines the result completely. Wrong settings raise `experiments.usage.UsageError`.
    ``distributed(run) -> bool``, on request
        Which runs all processes of ``torchrun`` compute together, sharing their batches
        (``context.distributed``); the others are shared out.
    ``DTYPE`` and ``DATASETS``, on request
        What ``--dtype auto`` stands for ("float32" when left out), and the names that its
        ``--dataset`` takes (those of `experiments.data.datasets` when left out).
``measure.py``
    ``compute(run, context) -> Outcome``
        Does the work of one run, given a `experiments.runs.results.Context`.
``draw.py``
    ``draw(results, folder) -> list[Path]``
        Makes figures and tables (CSV, Markdown) of a DataFrame with a row a run, and of nothing
        else.

A module that has all of these is an experiment, too.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

from experiments.data.datasets import DATASETS, check_dataset
from experiments.runs.experiment import Experiment
from experiments.usage import UsageError, one_of

EXPERIMENTS: dict[str, str] = {
    "fig1": "experiments.fig1",
    "fig2": "experiments.fig2",
    "fig3a": "experiments.fig3a",
    "fig3b": "experiments.fig3b",
    "theory": "experiments.theory",
    "laziness": "experiments.laziness",
    "spectrum": "experiments.spectrum",
    "precision": "experiments.precision",
    "baselines": "experiments.baselines",
    "tabular": "experiments.tabular",
    "open-question": "experiments.open_question",
}


def available() -> list[str]:
    """Names of the experiments whose module is there, in the order of the table."""
    return [name for name, path in EXPERIMENTS.items() if importlib.util.find_spec(path)]


def experiment(name: str) -> Experiment:
    """Return the experiment of this name."""
    one_of("experiment", name, available())
    return Experiment(EXPERIMENTS[name])


def preset(of: Experiment, name: str, dataset: str | None = None) -> Any:
    """Return the settings of a preset, on ``dataset`` where one is given.

    Raises
    ------
    UsageError
        When there is no such preset or data set, or when the experiment takes no data set.
    """
    presets = of.PRESETS
    one_of("preset", name, [key for key in presets if "/" not in key])
    if dataset is not None and hasattr(presets[name], "dataset"):
        check_dataset(dataset, getattr(of, "DATASETS", DATASETS))
    if dataset is None or dataset == getattr(presets[name], "dataset", None):
        return presets[name]
    if not hasattr(presets[name], "dataset"):
        raise UsageError(f"{of.path.rpartition('.')[2]} takes no --dataset")
    settings = presets.get(f"{name}/{dataset}", presets[name])
    return dataclasses.replace(settings, dataset=dataset)
