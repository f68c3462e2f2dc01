"""How much of a command is left, from estimates that its own runs correct as they finish."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.runs.costs import costs_in, kept_costs
from experiments.runs.estimate import estimate, minutes
from experiments.runs.pack import kept

_UNSURE = 10.0  # CPU seconds that first calls and imports may take beside the work


class Countdown:
    """CPU time that the unfinished runs of a plan will take.

    Parameters
    ----------
    experiment : str
    entries : sequence of (dict, Path)
        Settings of the runs and the paths of their results.
    """

    def __init__(self, experiment: str, entries: Sequence[tuple[dict[str, Any], Path]]):
        known = [*costs_in(path for _, path in entries if kept(path)), *kept_costs()]
        found = ((path, estimate(experiment, run, known)) for run, path in entries)
        self._seconds = {path: e.cpu_seconds for path, e in found if not e.unknown}
        self._expected = self._taken = 0.0

    def took(self, path: Path, cpu_seconds: float) -> None:
        """A run of this command has finished: estimates are corrected by what it took."""
        if path in self._seconds:
            self._expected += self._seconds[path]
            self._taken += cpu_seconds

    def left(self, paths: Sequence[Path]) -> str:
        """What is left, for the end of a line of progress; empty where nothing is known."""
        known = [self._seconds[path] for path in paths if path in self._seconds]
        if not known:
            return ""
        pace = (self._taken + _UNSURE) / (self._expected + _UNSURE)
        beside = len(paths) - len(known)
        more = f" and {beside} runs of unknown length" if beside else ""
        return f", about {minutes(pace * sum(known))} of CPU time left{more}"
