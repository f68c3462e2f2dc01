"""What finished runs took: the table that estimates of other runs are made from.

The package carries the table of the results that come with it (``costs.json``), so that an
estimate needs no results at hand. It is made by ``python -m experiments.runs.costs results``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from experiments.runs.pack import run_paths
from experiments.runs.results import ResultError, jsonable, read_result

_REPETITIONS = ("seed", "fold")  # runs that differ in these alone cost the same


@dataclass(frozen=True)
class Cost:
    """CPU time and memory of the finished runs with these settings.

    Parameters
    ----------
    experiment : str
    run : dict
        Settings, in JSON's types, without those that only repeat a run.
    cpu_seconds : float
        Mean, all threads together.
    peak_memory_bytes : int or None
        Largest, of the whole process.
    runs : int
    """

    experiment: str
    run: dict[str, Any]
    cpu_seconds: float
    peak_memory_bytes: int | None
    runs: int


def settings_of(run: dict[str, Any]) -> dict[str, Any]:
    """A run's settings in JSON's types, without seed and fold."""
    return {k: v for k, v in jsonable(run).items() if k not in _REPETITIONS}


def costs_in(paths: Iterable[Path]) -> list[Cost]:
    """Costs of the finished runs at ``paths``, an entry a setting; damaged files are left out."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        try:
            document = read_result(path)
        except ResultError:
            continue
        if document["status"] == "done" and document.get("cpu_seconds") is not None:
            key = json.dumps([document["experiment"], settings_of(document["run"])], sort_keys=True)
            found.setdefault(key, []).append(document)
    costs = []
    for key, documents in sorted(found.items()):
        experiment, run = json.loads(key)
        seconds = [document["cpu_seconds"] for document in documents]
        peaks = [d["peak_memory_bytes"] for d in documents if d.get("peak_memory_bytes")]
        mean = round(sum(seconds) / len(seconds), 3)
        costs.append(Cost(experiment, run, mean, max(peaks, default=None), len(documents)))
    return costs


@lru_cache
def kept_costs() -> list[Cost]:
    """The table that comes with the package."""
    text = resources.files("experiments.runs").joinpath("costs.json").read_text("utf-8")
    return [Cost(**entry) for entry in json.loads(text)]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", type=Path)
    paths = run_paths(parser.parse_args().results)
    lines = [json.dumps(asdict(cost), sort_keys=True) for cost in costs_in(paths)]
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    Path(__file__).with_name("costs.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _main()
