"""``python -m tests.faults run`` makes docs/reliability.json, ``table`` docs/reliability.md of it.

``run --trials 50 --damages 10`` goes through every fault: 50 kills of every kind of work, half as
many full disks and killed holders of claims, and 10 damages of each kind to each kind of file. A
trial that fails is counted, and said at the end. ``soak`` adds what two hundred fits leave behind.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
JSON, PAGE = DOCS / "reliability.json", DOCS / "reliability.md"
SAME = "the same work again ended with the same bits"

Trial = Callable[[random.Random], str]


def trials(count: int, damages: int) -> Iterator[tuple[str, str, Trial, int]]:
    """Fault, what it is done to, the trial, and how often."""
    from tests.faults.damage import DAMAGES
    from tests.faults.trials import FILES, claims_trial, damage_trial, disk_trial, kill_trial, room
    from tests.faults.works import WORKS

    for name in WORKS:
        yield "SIGKILL at a random moment", name, partial(kill_trial, name), count
    for processes in (2, 4):
        what = f"one of {processes} processes on a folder"
        yield "SIGKILL with a claim held", what, partial(claims_trial, processes), count // 2
    with room(2**20) as mounted:
        full = "full disk (tmpfs)" if mounted else "files cannot grow (RLIMIT_FSIZE)"
    for name in (name for name in WORKS if "two" not in name):
        yield full, name, partial(disk_trial, name), count // 2
    for kind in FILES:
        for damage in DAMAGES:
            yield damage, kind, partial(damage_trial, kind, damage), damages


def run(count: int, damages: int, seed: int) -> int:
    """Do all trials, write the counts, and give the number that failed."""
    from experiments.runs.machine import provenance

    start, rows = time.perf_counter(), []
    for fault, what, trial, times in trials(count, damages):
        rng, found, failures = random.Random(f"{fault} {what} {seed}"), Counter[str](), []
        for _ in range(max(1, times)):
            try:
                found[trial(rng)] += 1
            except Exception as error:
                found["failed"] += 1
                failures.append(f"{type(error).__name__}: {error}")
                traceback.print_exc()
        rows.append({"fault": fault, "what": what, "found": dict(found), "failures": failures})
        print(f"{fault}: {what}: {dict(found)}", file=sys.stderr, flush=True)
    record: dict[str, Any] = {
        "trials": count,
        "damages": damages,
        "seed": seed,
        "seconds": time.perf_counter() - start,
        "machine": provenance("cpu", 1),
        "rows": rows,
    }
    _write({**record, "soak": _read().get("soak")})
    return sum(row["found"].get("failed", 0) for row in rows)


def soak() -> None:
    """Do two hundred fits and add what they left to the record."""
    from experiments.runs.machine import provenance
    from tests.faults.soak import soaked

    machine, start = provenance("cpu", 1), time.perf_counter()  # of the commit that was loaded
    found = soaked()
    seconds = time.perf_counter() - start
    numbers = {"memory": [round(m, 1) for m in found.memory], "descriptors": found.descriptors}
    _write({**_read(), "soak": {"seconds": seconds, "machine": machine, **numbers}})


def _read() -> dict[str, Any]:
    return json.loads(JSON.read_text(encoding="utf-8")) if JSON.exists() else {}


def _write(record: dict[str, Any]) -> None:
    JSON.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def page(record: dict[str, Any]) -> str:
    """The page with the table of a record."""
    rows = record["rows"]
    total = sum(sum(row["found"].values()) for row in rows)
    failed = sum(row["found"].get("failed", 0) for row in rows)
    machine = record["machine"]
    lines = [
        "# What a fault costs",
        "",
        "Written by `python -m tests.faults table` from `docs/reliability.json`, which "
        f"`python -m tests.faults run --trials {record['trials']} --damages {record['damages']} "
        f"--seed {record['seed']}` made.",
        "",
        "Every kind of long work is killed at random moments, every kind of file that is written",
        "is damaged, the disk is filled, and processes that share a folder are killed with a claim",
        "in hand. Survived means: the same command afterwards ended with the same bits (and left",
        "nothing half-written), and no number was read from a damaged file on the way: it was",
        "named, or made again unread.",
        "",
        f"{total} trials, {failed} failed; {record['seconds'] / 60:.0f} minutes, one thread, "
        f"{machine['cpu']}, torch {machine['versions']['torch']}, commit {machine['commit']}.",
        "",
        "| Fault | Done to | Trials | Survived | What happened |",
        "|---|---|---:|---:|---|",
    ]
    for row in rows:
        found = row["found"]
        times, bad = sum(found.values()), found.get("failed", 0)
        words = ", ".join(f"{word} {count}" for word, count in sorted(found.items()))
        lines.append(f"| {row['fault']} | {row['what']} | {times} | {times - bad} | {words} |")
    lines += [
        "",
        '"Had ended": the work was done before the kill came. "Nothing changed": the damage left',
        'the file as it was. "Named": the name of the damaged file was said; "made again": what it',
        'held was computed again without a word, as the blocks of a kernel are. "Went on": there',
        "was room enough, or what could not be kept (a checkpoint, a cache) was not needed.",
        '"Had no claim": the other processes had taken all runs. Nothing here is about a machine',
        "that loses its power: files are flushed before they are renamed, folders are not.",
        "",
    ]
    return "\n".join(lines + (_soak_lines(record["soak"]) if record.get("soak") else []))


def _soak_lines(record: dict[str, Any]) -> list[str]:
    """What is said of the soak."""
    from tests.faults.soak import Soak

    found, machine = Soak(record["memory"], record["descriptors"]), record["machine"]
    (early, late), (fewest, most) = found.parts, found.open_files
    return [
        "## Soak",
        "",
        f"{len(found.memory)} fits of five estimators in one process, each forgotten before the",
        f"next (`python -m tests.faults soak`, {record['seconds'] / 60:.0f} minutes, "
        f"{machine['cpu']}, torch {machine['versions']['torch']}, commit {machine['commit']}):",
        f"resident memory goes from {early:.0f} MiB (the median over the second quarter of the "
        f"fits) to {late:.0f} MiB",
        f"(the last quarter), at most {max(found.memory):.0f} MiB; from {fewest} to {most} files "
        "are open after the first quarter.",
        "`pytest tests/test_soak.py -m faults` allows 16 MiB and not one file.",
        "",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("verb", choices=["run", "soak", "table"])
    parser.add_argument("--trials", type=int, default=50, help="kills of each kind of work")
    parser.add_argument("--damages", type=int, default=10, help="of each kind and kind of file")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    failed = run(given.trials, given.damages, given.seed) if given.verb == "run" else 0
    if given.verb == "soak":
        soak()
    PAGE.write_text(page(_read()), encoding="utf-8")
    print(f"{failed} trials failed" if given.verb == "run" else PAGE)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
