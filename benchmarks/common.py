"""What every benchmark shares: how a time is taken, and what is written beside it.

A time is the median of the calls after the first, which compiles, allocates and calibrates and is
kept apart. Both sides of a comparison run on the same number of threads.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from experiments.runs.machine import provenance

DIRTY = "the files were changed after the commit that is named: these numbers belong to no commit"


def seconds_of(
    work: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, Any]:
    """Seconds of ``work``: of the first call, and the median and all of ``repeats`` more."""
    taken = []
    for _ in range(repeats + 1):
        start = clock()
        work()
        taken.append(clock() - start)
    return {"first": taken[0], "median": statistics.median(taken[1:]), "all": taken[1:]}


def wall_and_cpu(work: Callable[[], Any], repeats: int) -> tuple[dict[str, dict[str, Any]], Any]:
    """Wall and CPU seconds of the same calls, as `seconds_of`, and the last result."""
    taken: dict[str, list[float]] = {"wall": [], "cpu": []}
    for _ in range(repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        taken["wall"].append(time.perf_counter() - wall)
        taken["cpu"].append(time.process_time() - cpu)
    times = {
        kind: {"first": t[0], "median": statistics.median(t[1:]), "all": t[1:]}
        for kind, t in taken.items()
    }
    return times, result


def later(seconds: Sequence[float]) -> float:
    """The median of stored repetitions without the first call, or the only one there is."""
    return statistics.median(seconds[1:] or seconds)


def machine(device: str | torch.device = "cpu", threads: int | None = None) -> dict[str, Any]:
    """Commit, processor, threads, load and versions; says so where the tree was changed."""
    found = provenance(str(device), torch.get_num_threads() if threads is None else threads)
    commit = found["commit"]
    found |= {
        "load_average": list(os.getloadavg()),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "statistic": "median of the calls after the first",
    }
    if commit is None or commit.endswith("-modified"):
        found["warning"] = DIRTY if commit else "no commit is known: not run from a checkout"
    return found


def write(
    record: dict[str, Any] | list[dict[str, Any]], path: Path | None, *, shown: Any = None
) -> None:
    """Write ``record`` as JSON, print it or ``shown``, and warn where the tree was changed.

    Of a list of records, which grows by one a run, the last one is this run's.
    """
    last = record[-1] if isinstance(record, list) else record
    warning = last.get("machine", {}).get("warning")
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record if shown is None else shown, indent=1))
