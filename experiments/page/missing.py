"""What has not been run: presets without results, and the command of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.command import registry
from experiments.runs.estimate import Estimate, total_of
from experiments.runs.pack import run_paths
from experiments.runs.results import ResultError, jsonable, read_result


@dataclass(frozen=True)
class Missing:
    """A preset of an experiment that has runs without a result.

    Parameters
    ----------
    experiment, preset : str
    finished, planned : int
        Runs.
    estimate : Estimate
        Of what is left.
    command : str
    """

    experiment: str
    preset: str
    finished: int
    planned: int
    estimate: Estimate
    command: str


def missing_presets(out: Path) -> list[Missing]:
    """Presets with unfinished runs, those for a first look (smoke) left out."""
    found = []
    for name in registry.available():
        module = registry.experiment(name)
        there = _finished(out, name)
        for key, settings in module.PRESETS.items():
            preset, _, dataset = key.partition("/")
            if preset == "smoke":
                continue
            runs = module.runs(settings)
            left = [run for run in runs if _key(run) not in there]
            if not left:
                continue
            words = ["python -m experiments", name, preset]
            images = dataset or getattr(settings, "dataset", "")
            if dataset:
                words.append(f"--dataset {dataset}")
            if images == "cifar10":
                words.append("--data-dir DIR")
            found.append(
                Missing(
                    name,
                    key.replace("/", " on "),
                    len(runs) - len(left),
                    len(runs),
                    total_of(name, left),
                    " ".join(words),
                )
            )
    return found


def _finished(out: Path, name: str) -> set[str]:
    """Settings of the runs that have a result, on whatever copy of the data set."""
    found = set()
    for path in run_paths(out / name):
        try:
            found.add(_key(read_result(path)["run"]))
        except ResultError:
            continue
    return found


def _key(run: dict[str, Any]) -> str:
    return json.dumps(jsonable(run), sort_keys=True)
