"""A study of small runs, in one process or two; without torch, which takes seconds to import."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from experiments.runs import executors, machine, runner, tasks
from experiments.runs.results import Context, read_arrays, read_result
from tests.experiments import toy

__all__ = ["held_study", "study", "study_as_read"]

Log = Callable[[str], None]

RUNS = tuple(range(1, 9))


class _NoMemory:
    """In place of the peak of memory, whose reset takes a tenth of a second."""

    before, own = None, False

    def __init__(self, device: str):
        pass

    def host(self) -> None:
        return None

    gpu = host


def study(folder: Path, log: Log, jobs: int = 1, seconds: float = 0.0) -> str:
    """Runs of a study and the list of them, in this process or in two."""
    plan = _plan(folder, seconds, log)
    if jobs == 1:
        report = runner.execute(plan, functools.partial(_computed, log), log)
    else:
        with executors.opened("local", jobs, folder=folder) as executor:
            report = runner.execute(plan, _computed_there, log, executor=executor)
    assert not report.failed, report.failed
    return study_as_read(folder)


def study_as_read(folder: Path) -> str:
    """Digest of a study from its files alone."""
    studies = runner.studies(folder / "out", "toy")
    if not studies:
        raise FileNotFoundError(f"no study.json in {folder / 'out'}")
    (found,) = studies
    for path in found.paths:
        read_arrays(path)
    outcomes = [[read_result(p)[key] for key in ("metrics", "arrays")] for p in found.paths]
    return hashlib.sha256(json.dumps(outcomes).encode()).hexdigest()


def _plan(folder: Path, seconds: float, log: Log) -> runner.Plan:
    settings = toy.Settings(RUNS, seconds)
    plan = runner.plan(toy, "toy", "faults", settings, folder / "out", _context(log))
    runner.save_study(plan, folder / "out")
    return plan


def _context(log: Log) -> Context:
    def no_data(name):
        raise AssertionError("the toy has no data")

    return Context("cpu", "float32", no_data, log)


def _computed(log: Log, task: tasks.Task, module: Any = toy) -> tasks.Done:
    # Without torch; and as it was afterwards, in the suite's own process.
    with mock.patch.multiple(machine, with_seed=np.random.seed, PeakMemory=_NoMemory):
        return tasks.compute(task, module=module, context=_context(log), recorded={})


def _computed_there(task: tasks.Task) -> tasks.Done:
    return _computed(lambda line: None, task)


def held_study(folder: Path, log: Log, begun: Path, hold: bool) -> str:
    """The study; ``begun`` says which process begins which run; with ``hold`` it stays in that."""

    def compute(run, context):
        with begun.open("a") as file:
            file.write(f"{os.getpid()} {run['number']}\n")
        if hold:
            threading.Event().wait()  # with the run's claim in hand, until it is killed
        return toy.compute(run, context)

    module = types.SimpleNamespace(compute=compute)
    plan = _plan(folder, 0.02, log)
    runner.execute(plan, functools.partial(_computed, log, module=module), log)
    return study_as_read(folder)
