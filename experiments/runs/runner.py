"""The generic runner: expand the runs, skip the finished, compute the others, then draw."""

from __future__ import annotations

import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Mapping, MutableSequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.files import sweep, write_file, writing
from experiments.runs import claims
from experiments.runs.countdown import Countdown
from experiments.runs.experiment import Experiment
from experiments.runs.pack import Stamp, kept, stamp
from experiments.runs.results import (
    Context,
    Outcome,
    ResultError,
    jsonable,
    load_results,
    read_arrays,
    result_path,
    write_result,
)

__all__ = [
    "Plan",
    "Report",
    "Study",
    "check_writable",
    "draw_study",
    "execute",
    "finished",
    "plan",
    "stamps",
    "studies",
]


@dataclass(frozen=True)
class Plan:
    """The runs of a command and the paths of their results, in order."""

    name: str
    study: str
    settings: Any
    entries: list[tuple[dict[str, Any], Path, dict[str, Any] | None]]

    @property
    def paths(self) -> list[Path]:
        """Paths of the results."""
        return [path for _, path, _ in self.entries]


@dataclass
class Report:
    """What became of the runs of a plan."""

    computed: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    diverged: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)

    def note(self, kind: str, entry: Any) -> None:
        """Add an entry to the list of this name, "computed" say."""
        getattr(self, kind).append(entry)

    def add(self, other: Report) -> None:
        """Add what a helper of the same command has done: that was not finished before it."""
        self.computed += other.computed
        self.diverged += other.diverged
        self.failed += other.failed
        self.skipped = [path for path in self.skipped if path not in other.computed]


def plan(
    module: Experiment, name: str, study: str, settings: Any, out: Path, context: Context
) -> Plan:
    """Expand ``settings`` into runs and the paths of their results.

    The data sets that the runs name are read here, since a result's path depends on their
    fingerprint: missing data is found before any work.
    """
    from experiments.data.datasets import names_images

    entries = []
    for run in module.runs(settings):
        data = None
        if names_images(run.get("dataset")):
            images = context.load(run["dataset"])
            data = {
                "name": images.name,
                "label": images.label,
                "fingerprint": images.fingerprint,
            }
        fingerprint = data["fingerprint"] if data else None
        path = result_path(out, name, run, fingerprint=fingerprint, dtype=context.dtype)
        entries.append((run, path, data))
    return Plan(name, study, settings, entries)


def check_writable(folder: Path) -> None:
    """Raise `OutputError` unless files can be made in ``folder``, which is made if missing."""
    probe = folder / ".write-test"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink(missing_ok=True)


def finished(path: Path, log: Callable[[str], None]) -> bool:
    """Whether ``path`` is a whole result; a damaged one is named and counts as not there."""
    if not kept(path):
        return False
    try:
        read_arrays(path)
    except ResultError as error:
        log(f"{error}; the run is computed again")
        return False
    return True


def stamps(plan: Plan) -> dict[Path, Stamp]:
    """What tells the present results from later ones at the same paths."""
    found = ((path, stamp(path)) for path in plan.paths)
    return {path: its for path, its in found if its}


def execute(
    module: Experiment,
    plan: Plan,
    context: Context,
    *,
    stale: Mapping[Path, Stamp] | None = None,
    recorded: dict[str, Any] | None = None,
    once: bool = False,
    report: Report | None = None,
    failed: MutableSequence[int] | None = None,
) -> Report:
    """Compute the runs of ``plan`` that have no result; return what became of them.

    A run that fails is listed and the others go on. Runs that another process computes now are
    waited for at the end, and taken over if that process dies; with ``once`` they are left to it.
    Results that are ``stale``, the `stamps` of which are given, count as not there. Helpers of one
    command share ``failed``, an entry a run of the plan: what failed in one is not tried in
    another.

    Raises
    ------
    OutputError
        When a result cannot be written, which no other run would survive either.
    """
    report = Report() if report is None else report
    tried = [0] * len(plan.entries) if failed is None else failed
    folder = plan.paths[0].parent
    sweep(folder)
    try:
        _execute(module, plan, context, stale or {}, recorded or {}, report, once, tried)
    finally:
        claims.sweep(folder)
    return report


def _execute(
    module: Experiment,
    plan: Plan,
    context: Context,
    stale: Mapping[Path, Stamp],
    recorded: dict[str, Any],
    report: Report,
    once: bool,
    failed: MutableSequence[int],
) -> None:
    def there(path: Path) -> bool:
        if path in stale and stale[path] == stamp(path):
            return False
        return finished(path, context.log)

    pending = list(enumerate(plan.entries))
    n = len(pending)
    countdown = Countdown(plan.name, [(run, path) for run, path, _ in plan.entries])
    while pending:
        elsewhere = []
        for number, (run, path, data) in pending:
            if there(path):
                report.note("skipped", path)
                continue
            with claims.claimed(path) as mine:
                if not mine:
                    elsewhere.append((number, (run, path, data)))
                    continue
                # Another process may have finished it between the look and the claim.
                if there(path):
                    report.note("skipped", path)
                    continue
                if failed[number]:  # in another process of this command, which reports it
                    continue
                rest = [p for p in plan.paths if stamp(p) == stale.get(p)]
                context.log(f"[{number + 1}/{n}] {path.stem}{countdown.left(rest)}")
                start = time.process_time()
                done = _one(module, plan.name, run, path, data, context, recorded, report)
                countdown.took(path, time.process_time() - start)
                failed[number] = not done
        pending = [] if once else elsewhere
        if pending:
            path = pending[0][1][1]
            if claims.held(path):  # else finished or given up since the look
                context.log(f"waiting for {path.stem}, which another process computes")
            claims.wait_for(path)


def _one(
    module: Experiment,
    name: str,
    run: dict[str, Any],
    path: Path,
    data: dict[str, Any] | None,
    context: Context,
    recorded: dict[str, Any],
    report: Report,
) -> bool:
    """Compute one run and write its result; False if it failed."""
    from experiments.runs.machine import PeakMemory, with_seed

    with_seed(int(run.get("seed", 0)))
    memory = PeakMemory(context.device)
    start, cpu = time.perf_counter(), time.process_time()
    status, message = "done", None
    checkpoint = path.with_suffix(".ckpt")
    context = dataclasses.replace(context, checkpoint=checkpoint)
    try:
        outcome = _resumed(module, run, context, checkpoint)
    except Exception as error:
        if not _diverged(error):
            context.log(traceback.format_exc())
            report.note("failed", (path, f"{type(error).__name__}: {error}"))
            return False
        status, message, outcome = "diverged", str(error), Outcome(metrics={})
        report.note("diverged", path)
        context.log(f"diverged: {error}")
    write_result(
        path,
        experiment=name,
        run=run,
        outcome=outcome,
        status=status,
        message=message,
        data=data,
        seconds=time.perf_counter() - start,
        cpu_seconds=time.process_time() - cpu,
        peak_memory_bytes=memory.host(),
        memory_before_bytes=memory.before,
        peak_memory_is_of_this_run=memory.own,
        peak_gpu_memory_bytes=memory.gpu(),
        dtype=context.dtype,
        **recorded,
    )
    checkpoint.unlink(missing_ok=True)
    report.note("computed", path)
    return True


def _resumed(module: Experiment, run: dict[str, Any], context: Context, checkpoint: Path) -> Any:
    """Compute a run from its checkpoint on; from the start where that cannot be used."""
    if checkpoint.exists():
        context.log(f"going on from {checkpoint.name}")
        try:
            return module.compute(run, context)
        except ValueError as error:
            if not _of_kind(error, "CheckpointError"):
                raise
            context.log(f"{error}; the run starts anew")
            checkpoint.unlink(missing_ok=True)
    return module.compute(run, context)


def _diverged(error: Exception) -> bool:
    """Whether ``error`` is `tangent.training.DivergenceError`, by name: torch may not be loaded."""
    return _of_kind(error, "DivergenceError")


def _of_kind(error: Exception, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(error).__mro__)


@dataclass(frozen=True)
class Study:
    """A folder of figures and tables, and the results it was drawn from."""

    name: str
    folder: Path
    settings: dict[str, Any]
    paths: list[Path]


def save_study(plan: Plan, out: Path) -> Study:
    """Write ``study.json``: which results belong to the command with these settings."""
    folder = out / plan.name / plan.study
    settings = jsonable(dataclasses.asdict(plan.settings))
    names = [path.name for path in plan.paths]
    text = json.dumps({"settings": settings, "runs": names}, indent=1)
    write_file(folder / "study.json", (text + "\n").encode())
    return Study(plan.study, folder, settings, plan.paths)


def studies(out: Path, name: str) -> list[Study]:
    """Studies of an experiment found in ``out``, sorted by name.

    Raises
    ------
    ResultError
        When a ``study.json`` cannot be read; the message names it.
    """
    found = []
    for path in sorted((out / name).glob("*/study.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            names, settings = document["runs"], dict(document["settings"])
            if not all(Path(name).name == name for name in names):
                raise ValueError("its runs are no names of files")
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            raise ResultError(f"{path} cannot be read ({error})") from error
        runs = out / name / "runs"
        found.append(Study(path.parent.name, path.parent, settings, [runs / n for n in names]))
    return found


def draw_study(module: Experiment, study: Study, folder: Path | None = None) -> list[Path]:
    """Draw a study's figures and tables from its finished runs; nothing if there is none.

    Into ``folder``, that of the study when left out.
    """
    paths = [path for path in study.paths if kept(path)]
    if not paths:
        return []
    results = load_results(paths)
    folder = study.folder if folder is None else folder
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return module.draw(results, folder)
