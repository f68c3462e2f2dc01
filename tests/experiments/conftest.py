"""The toy experiment, in the table of experiments while a test runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command import registry
from experiments.drawing import plots

ROOT = Path(__file__).parents[2]


@pytest.fixture
def toy(monkeypatch):
    from tests.experiments import toy

    monkeypatch.setitem(registry.EXPERIMENTS, "toy", "tests.experiments.toy")
    return toy


@pytest.fixture
def every_format():
    """Figures of this test are saved in all their formats."""


@pytest.fixture(autouse=True)
def png_alone(request, monkeypatch):
    """Figures are saved as PNG alone, which takes a fifth of the time of all three formats."""
    if "every_format" not in request.fixturenames:
        monkeypatch.setattr(plots, "FORMATS", ("png",))


@pytest.fixture
def undrawn(monkeypatch):
    """``undrawn(experiment)``: its command computes and draws nothing."""
    return lambda experiment: monkeypatch.setattr(
        f"{experiment.path}.draw.draw", lambda results, folder: [folder]
    )


@pytest.fixture
def start(monkeypatch):
    """``start(*words)`` runs the command line, with the toy in it, in a process of its own.

    With ``real`` it is ``python -m experiments``.
    """
    started = []

    def _start(*words, **more):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **more.pop("env", {})}
        main = "experiments" if more.pop("real", False) else "tests.experiments.toy_command"
        process = subprocess.Popen(
            [sys.executable, "-m", main, *map(str, words)],
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
