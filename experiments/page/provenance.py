"""Where a study's numbers come from: commands, settings, commits, machines and CPU time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.runs.results import read_result

_MOST_COMMANDS = 3


@dataclass(frozen=True)
class Provenance:
    """What is said below a study's figures.

    Parameters
    ----------
    commands : sequence of str
        As recorded with the runs, the most frequent first.
    facts : sequence of (str, str)
        Names and values: runs, CPU time, commits, machine, versions, data, settings.
    brief : str
        One line for captions: CPU time, commits, seeds.
    """

    commands: Sequence[str]
    facts: Sequence[tuple[str, str]]
    brief: str


def duration(seconds: float) -> str:
    """Seconds in the unit that suits: "50 s", "7.5 minutes", "16.2 hours"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:.1f} hours"


def provenance(paths: Sequence[Path], settings: Mapping[str, Any], planned: int) -> Provenance:
    """Provenance of the runs at ``paths``, of ``planned`` ones.

    Parameters
    ----------
    paths : sequence of Path
        Finished runs, one at least.
    settings : mapping
        Of the study.
    planned : int
        Runs that the study consists of.
    """
    runs = [read_result(path) for path in paths]
    known = [run["cpu_seconds"] for run in runs if run.get("cpu_seconds") is not None]
    spent = f"{duration(sum(known))} of CPU time" if known else "CPU time not kept"
    if 0 < len(known) < len(runs):
        spent += f" in {len(known)} of them"
    commits = _counted(_commit(run.get("commit")) for run in runs)
    machines = _counted(
        f"{run.get('gpu') or run.get('cpu') or 'processor not recorded'}, threads: "
        f"{run.get('threads') or 'not recorded'}"
        for run in runs
    )
    versions = _counted(
        ", ".join(f"{k} {v}" for k, v in (run.get("versions") or {}).items() if v) for run in runs
    )
    data = _counted(
        f"{run['data']['label']}, fingerprint {run['data']['fingerprint'][:12]}"
        for run in runs
        if run["data"]
    )
    diverged = sum(run["status"] == "diverged" for run in runs)
    finished = f"{len(runs)} of {planned}" if planned != len(runs) else f"{len(runs)}"
    facts = [
        ("runs", finished + (f", {diverged} of them diverged" if diverged else "")),
        ("CPU time", f"{spent}, all threads together"),
        ("commit", "; ".join(commits)),
        ("machine", "; ".join(machines)),
        ("versions", "; ".join(versions)),
        ("data", "; ".join(data)),
        ("settings", ", ".join(f"{name} = {_value(v)}" for name, v in settings.items())),
    ]
    commands = _counted(run.get("command") or "" for run in runs)
    brief = f"{finished} runs, {spent}, commit {', '.join(commits[:3])}"
    brief += f" and {len(commits) - 3} more" if len(commits) > 3 else ""
    kept = commands[:_MOST_COMMANDS]
    if len(commands) > len(kept):
        kept.append(f"# and {len(commands) - len(kept)} more, in the runs' files")
    return Provenance(kept, [(name, value) for name, value in facts if value], brief)


def _counted(values: Any) -> list[str]:
    """Different values that are not empty, the most frequent first."""
    return [value for value, _ in Counter(v for v in values if v).most_common()]


def _commit(commit: str | None) -> str:
    if not commit:
        return "not recorded"
    changed = " (files changed after it)" if commit.endswith("-modified") else ""
    return commit.removesuffix("-modified")[:9] + changed


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "(" + ", ".join(map(_value, value)) + ")"
    return "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
