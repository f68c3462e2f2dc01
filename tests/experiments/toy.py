"""A small experiment: squares of numbers, with ways to fail that the tests need."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.drawing.tables import Table, write_table
from experiments.runs.results import Outcome
from experiments.usage import UsageError
from tangent.machine.bars import counted

SUMMARY = "squares of numbers"


class DivergenceError(ArithmeticError):
    """Has the name of the one that training raises."""


@dataclass(frozen=True)
class Settings:
    """Settings of the toy."""

    numbers: tuple[int, ...] = (1, 2, 3)
    """what is squared"""
    seconds: float = 0.0
    """how long a run takes"""


PRESETS = {"smoke": Settings(), "laptop": Settings((1, 2, 3, 4))}


def runs(settings):
    if not settings.numbers:
        raise UsageError("--numbers needs one value at least")
    return [{"number": n, "seconds": settings.seconds} for n in settings.numbers]


def compute(run, context):
    if counter := os.environ.get("TOY_COUNTER"):
        with Path(counter).open("a") as file:
            file.write(f"{run['number']}\n")
    together = int(os.environ.get("TOY_TOGETHER", "0"))
    while together and len(Path(counter or "").read_text().split()) < together:
        time.sleep(0.02)  # until so many runs have begun, each in a process of its own
    if run["number"] == 16 and "dead-16" not in Path(counter or "").read_text():
        _die(counter, 16)
    if run["number"] == 17:
        _die(counter, 17)
    if run["number"] == 13:
        raise RuntimeError("thirteen does not work")
    if run["number"] == 19:
        raise UsageError("--weights w: the weights do not fit")
    if run["number"] == 14:
        raise DivergenceError("loss is inf at step 3")
    print("a word about this run")
    powers = [run["number"] ** k for k in counted(range(4), "power")]
    time.sleep(run["seconds"])
    if run["number"] >= int(os.environ.get("TOY_HOLD_FROM", "1000")):
        threading.Event().wait()  # until it is interrupted or killed
    noise = float(np.random.rand())  # noqa: NPY002
    return Outcome(
        {"square": run["number"] ** 2, "noise": noise, "nothing": float("nan")},
        curves={"powers": powers},
        arrays={"ramp": np.arange(run["number"])},
    )


def _die(counter, number):
    """The worker is killed here, never the command."""
    assert multiprocessing.parent_process() is not None or "SUBMITIT_FOLDER" in os.environ
    with Path(counter).open("a") as file:
        file.write(f"dead-{number}\n")
    os.kill(os.getpid(), signal.SIGKILL)


def draw(results, folder):
    frame = results[["number", "square"]] if "square" in results else results[["number"]]
    return write_table(Table("Squares", frame, frame), folder, "toy")
