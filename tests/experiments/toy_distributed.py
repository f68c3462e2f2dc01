"""A small experiment whose runs from 20 on are computed together; as a command under torchrun."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.command import cli, registry
from experiments.drawing.tables import Table, write_table
from experiments.runs import distributed as processes
from experiments.runs.results import Outcome

SUMMARY = "sums over processes"


@dataclass(frozen=True)
class Settings:
    """Settings of the toy."""

    numbers: tuple[int, ...] = (1,)
    """what is summed"""


PRESETS = {"smoke": Settings(), "laptop": Settings()}


def runs(settings):
    return [{"number": n, "seed": 3} for n in settings.numbers]


def distributed(run):
    return run["number"] >= 20


def compute(run, context):
    import torch

    from tangent.training.distributed import ONE, my_share

    number, rank = run["number"], int(os.environ.get("RANK", "0"))
    share = my_share() if context.distributed else ONE
    (parts,) = share.of(torch.arange(float(number + 1), dtype=torch.float64))
    with Path(os.environ["TOY_COUNTER"]).open("a") as file:
        file.write(f"{number}:{rank}:{len(parts)}\n")
    if number in (13, 23):
        raise RuntimeError(f"{number} does not work")
    if number == 24 and rank == 1:
        raise RuntimeError("not in this process")
    if number == 25 and rank == 1 and "TOY_FAIL" in os.environ:
        raise RuntimeError("while the other waits")
    total = parts.sum()
    if number != 24:  # of which the first comes out alone
        share.add(total)
    noise = float(np.random.rand())  # noqa: NPY002
    return Outcome({"sum": float(total), "noise": noise})


def draw(results, folder):
    frame = results[["number", "sum"]]
    return write_table(Table("Sums", frame, frame), folder, "toy")


if __name__ == "__main__":
    registry.EXPERIMENTS["sums"] = "tests.experiments.toy_distributed"
    processes._GRACE = 2.0
    sys.exit(cli.run(sys.argv[1:]))
