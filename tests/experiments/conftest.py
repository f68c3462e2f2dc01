"""The toy experiment, in the table of experiments while a test runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command import registry

ROOT = Path(__file__).parents[2]
# What `python -m experiments` does, with the toy in the table; without torch, which takes seconds
# to import and which the toy does not use (tests in this process go through it).
_MAIN = """
import contextlib, sys
import numpy as np
from experiments.command import cli, registry
from experiments.runs import machine
registry.EXPERIMENTS["toy"] = "tests.experiments.toy"
machine.settled = lambda threads: contextlib.nullcontext()
machine.resolve_device = lambda device: "cpu"
machine.with_seed = np.random.seed
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.fixture
def toy(monkeypatch):
    from tests.experiments import toy

    monkeypatch.setitem(registry.EXPERIMENTS, "toy", "tests.experiments.toy")
    return toy


@pytest.fixture
def start(monkeypatch):
    """``start(*words)`` runs the command line, with the toy in it, in a process of its own.

    With ``real`` it is ``python -m experiments``.
    """
    started = []

    def _start(*words, **more):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **more.pop("env", {})}
        main = ["-m", "experiments"] if more.pop("real", False) else ["-c", _MAIN]
        process = subprocess.Popen(
            [sys.executable, *main, *map(str, words)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
        started.append(process)
        return process

    yield _start
    for process in started:
        process.kill()
        process.communicate()
