"""Measured speed, as tables of the benchmarks' JSON files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.drawing.tables import Table

_PEAK = "peak GiB"


@dataclass(frozen=True)
class Measured:
    """A table of times, and the commands that measured them."""

    table: Table
    commands: list[str]


def speed_tables(out: Path) -> list[Measured]:
    """Tables of what `benchmarks/` has measured and left in ``out``; empty where it has not."""
    folder = out / "benchmarks"
    read = {
        path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))
    }
    made = (
        _training(read.get("lazy_training")),
        _kernels(v for k, v in read.items() if k.startswith("tangent_kernel-")),
        _solvers(read.get("solve-exact")),
        _scattering(v for k, v in read.items() if k.startswith("scattering")),
    )
    return [table for table in made if table is not None]


def _seconds(taken: Any) -> float:
    """The median of the calls after the first, of either form of the stored times."""
    if isinstance(taken, dict):
        return float(taken["median"])
    return statistics.median(taken[1:] or taken)


def _step_seconds(taken: Any) -> float:
    """The median step; the older form of the file keeps no first one."""
    return float(taken["median"]) if isinstance(taken, dict) else statistics.median(taken)


def _table(title: str, rows: list[dict[str, str]], notes: list[str]) -> Table:
    frame = pd.DataFrame(rows)
    return Table(title, frame, frame.fillna("–"), notes)


def _training(record: dict[str, Any] | None) -> Measured | None:
    if not record or "seconds" not in record:
        return None
    setting = record["setting"]
    rates = {
        name: setting["batch"] / _step_seconds(taken["wall"])
        for name, taken in record["seconds"].items()
    }
    published = next(iter(rates.values()))
    rows = [
        {
            "method": name,
            "images a second": f"{rate:.1f}",
            "times the first": f"{rate / published:.1f}",
        }
        for name, rate in rates.items()
    ]
    title = (
        f"A training step of VGG-11 at width {setting['width']:g}, batch {setting['batch']}, "
        f"α = {setting['alpha']:g}"
    )
    return Measured(_table(title, rows, [_machine(record)]), [_command(record)])


def _kernels(records: Iterable[dict[str, Any]]) -> Measured | None:
    rows, commands, notes = [], [], []
    for record in records:
        if "case" not in record:
            continue
        done = {n: r for n, r in record["results"].items() if "cpu_seconds" in r}
        ours = _seconds(done["tangent"]["cpu_seconds"]) if "tangent" in done else None
        for name, found in done.items():
            seconds = _seconds(found["cpu_seconds"])
            rows.append(
                {
                    "case": record["case"],
                    "method": name,
                    "CPU seconds": f"{seconds:.2f}",
                    _PEAK: f"{found['peak_memory_bytes'] / 2**30:.2f}",
                    "largest error": f"{found['error']:.0e}",
                    "tangent is faster by": f"{seconds / ours:.1f}" if ours else "–",
                }
            )
        commands.append(_command(record))
        notes.append(_machine(record))
    if not rows:
        return None
    explained = (
        "CPU seconds: the median of the calls after the first, or the only one. full: all outputs; "
        "trace: their sum; the number is that of the images. Error: over the float64 kernel's "
        "largest entry."
    )
    return Measured(
        _table("Tangent kernels beside other libraries", rows, [explained, *dict.fromkeys(notes)]),
        commands,
    )


def _solvers(record: dict[str, Any] | None) -> Measured | None:
    if not record:
        return None
    rows = [
        {
            "problem": name,
            "gives": found["gives"],
            "seconds": f"{found['wall_s']:.1f}",
            "CPU seconds": f"{found['cpu_s']:.1f}",
        }
        for name, found in record["results"].items()
        if isinstance(found, dict)
    ]
    return Measured(
        _table("Solvers of a stored kernel", rows, [_machine(record)]), [_command(record)]
    )


def _scattering(records: Iterable[dict[str, Any]]) -> Measured | None:
    rows, commands = [], []
    for record in records:
        size = record["command"].partition("--size ")[2].partition(" ")[0] or "32"
        for run in record["runs"]:
            best = {name: max(by.values()) for name, by in run["images_per_cpu_second"].items()}
            peer, own = best.pop("kymatio"), max(best.values())
            rows.append(
                {
                    "pixels": f"{size} × {size}",
                    "J": str(run["J"]),
                    "images a CPU second": f"{own:,.0f}",
                    "kymatio": f"{peer:,.0f}",
                    "faster by": f"{own / peer:.1f}",
                }
            )
        commands.append(_command(record))
    if not rows:
        return None
    return Measured(
        _table("Scattering beside kymatio", rows, ["Each at its best batch, one thread."]), commands
    )


def _command(record: dict[str, Any]) -> str:
    return str(record.get("command", "command not recorded"))


def _machine(record: dict[str, Any]) -> str:
    """Processor, threads, torch and load, as far as this form of file has them."""
    machine = record.get("machine")
    inside = machine if isinstance(machine, dict) else record
    versions = record.get("versions") or inside.get("versions") or {}
    parts = [
        str(inside.get("cpu") or inside.get("processor") or machine or "processor not recorded"),
        _threads(inside.get("threads")),
        f"torch {versions.get('torch') or inside.get('torch') or record.get('torch')}",
        str(inside.get("note") or ""),
    ]
    commit = inside.get("commit")
    parts.append(f"commit {commit[:9]}" if commit else "commit not recorded")
    return "Measured on " + ", ".join(part for part in parts if part) + "."


def _threads(count: int | None) -> str:
    return "" if count is None else f"{count} thread{'s' * (count > 1)}"
