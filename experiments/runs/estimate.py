"""How long runs will take and how much memory: from finished runs of the same settings, or others.

Where no finished run has the same settings, the nearest of the same kind is scaled by the ratio of
their work, a product of powers of the settings that the work grows with. That is an order of
magnitude: rates differ between machines, and narrow networks do not fill a processor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.runs.costs import Cost, costs_in, kept_costs, settings_of

# Work is proportional to these powers: images and steps once, convolutions to the square of their
# width, a kernel to the square of its inputs. Of a list its length counts; a setting that one of
# two runs lacks says nothing.
_POWERS = {
    "n_train": 1,
    "epochs": 1,
    "steps": 1,
    "width": 2,
    "n": 2,
    "m": 1,
    "units": 1,
    "features": 1,
    "size": 1,
    "n_filters": 1,
    "filters": 1,
    "max_rows": 1,
    "seeds": 1,
    "taus": 1,
    "alphas": 1,
    "methods": 1,
    "rows": 1,
}
_OF_KERNELS = ("pixels", "dual")  # parts whose time is that of a kernel among all images
_ALL_IMAGES = {"cifar10": 50_000, "digits": 1_797}  # what n_train = None stands for


@dataclass(frozen=True)
class Estimate:
    """What some runs will take.

    Parameters
    ----------
    cpu_seconds : float
        All threads together; of the runs that are known.
    peak_memory_bytes : int or None
        Largest peak of a process.
    alike, scaled, unknown : int
        Runs estimated from the same settings, from others, and not at all.
    """

    cpu_seconds: float = 0.0
    peak_memory_bytes: int | None = None
    alike: int = 0
    scaled: int = 0
    unknown: int = 0

    def __add__(self, other: Estimate) -> Estimate:
        peaks = [p for p in (self.peak_memory_bytes, other.peak_memory_bytes) if p is not None]
        return Estimate(
            self.cpu_seconds + other.cpu_seconds,
            max(peaks, default=None),
            self.alike + other.alike,
            self.scaled + other.scaled,
            self.unknown + other.unknown,
        )

    def __str__(self) -> str:
        """In words: "about 12 CPU minutes, 1.3 GiB"; says where it is scaled or not known."""
        if not self.alike + self.scaled:
            return "not known: no finished run is like it"
        text = f"about {minutes(self.cpu_seconds)} of CPU time"
        if self.peak_memory_bytes is not None:
            least = "at least " if self.scaled else ""
            text += f", {least}{self.peak_memory_bytes / 2**30:.1f} GiB"
        notes = [f"{self.scaled} scaled from other settings"] if self.scaled else []
        notes += [f"{self.unknown} not known"] if self.unknown else []
        return f"{text} ({', '.join(notes)})" if notes else text


def minutes(seconds: float) -> str:
    """Seconds in minutes, or what suits them, to two digits: "20 seconds", "1.5 minutes"."""
    if (whole := max(1, round(seconds))) < 60:
        return f"{whole} second{'s' if whole > 1 else ''}"
    number, unit = (seconds / 3600, "hours") if seconds >= 6000 else (seconds / 60, "minutes")
    return f"{float(f'{number:.2g}'):,.{0 if number >= 9.95 else 1}f} {unit}"


def estimate(experiment: str, run: dict[str, Any], known: Sequence[Cost]) -> Estimate:
    """Estimate of one run.

    Parameters
    ----------
    experiment : str
    run : dict
        Its settings.
    known : sequence of Cost
        Of finished runs; those of other experiments are not looked at.
    """
    wanted = settings_of(run)
    own = [cost for cost in known if cost.experiment == experiment]
    for cost in own:
        if cost.run == wanted:
            return Estimate(cost.cpu_seconds, cost.peak_memory_bytes, alike=1)
    near = [cost for cost in own if _kind(cost.run) == _kind(wanted)]
    if not near:
        return Estimate(unknown=1)
    # Images of another data set have another size; they say something all the same.
    near = [c for c in near if c.run.get("dataset") == wanted.get("dataset")] or near
    nearest = min(
        near,
        key=lambda cost: (_lacking(wanted, cost.run), abs(math.log(_ratio(wanted, cost.run)))),
    )
    ratio = _ratio(wanted, nearest.run)
    return Estimate(ratio * nearest.cpu_seconds, nearest.peak_memory_bytes, scaled=1)


def total_of(
    experiment: str, runs: Sequence[dict[str, Any]], finished: Sequence[Path] = ()
) -> Estimate:
    """Estimate of several runs of an experiment together.

    Parameters
    ----------
    experiment : str
    runs : sequence of dict
    finished : sequence of Path
        Results on this machine; they count before those that come with the package.
    """
    known = [*costs_in(finished), *kept_costs()]
    return sum((estimate(experiment, run, known) for run in runs), Estimate())


def _kind(run: dict[str, Any]) -> tuple[Any, ...]:
    """What has to agree for one run's time to say anything of another's."""
    names = ("figure", "part", "method", "model", "variant", "problem", "lever", "parametrization")
    return tuple(run.get(name) for name in names)


def _ratio(run: dict[str, Any], other: dict[str, Any]) -> float:
    """The work of a run by that of another of its kind."""
    ratio = _trials(run) / _trials(other)
    for name, power in _POWERS.items():
        amounts = _amount(run, name), _amount(other, name)
        if min(amounts) > 0:
            squared = name == "n_train" and run.get("part") in _OF_KERNELS
            ratio *= (amounts[0] / amounts[1]) ** (2 if squared else power)
    return ratio


def _lacking(run: dict[str, Any], other: dict[str, Any]) -> int:
    """How many settings that work grows with one of two runs has and the other lacks."""
    return sum((_amount(run, name) > 0) != (_amount(other, name) > 0) for name in _POWERS)


def _trials(run: dict[str, Any]) -> float:
    """What choosing a rate multiplies the work by: it trains on a part of the images beforehand."""
    trials = len(run.get("rate_fractions") or ()) * (run.get("trial_epochs") or 0)
    if not trials:
        return 1.0
    images = _amount(run, "n_train") * _amount(run, "epochs")
    return 1 + trials * min(run["trial_images"], _amount(run, "n_train")) / images


def _amount(run: dict[str, Any], name: str) -> float:
    value = run.get(name)
    if value is None and name == "n_train" and name in run:
        return _ALL_IMAGES.get(str(run.get("dataset")), 1)
    if isinstance(value, list | tuple):
        return len(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
