"""The generic runner: expand the runs, skip the finished, compute the others, then draw."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.files import OutputError, sweep, write_file, writing
from experiments.runs import claims
from experiments.runs.countdown import Countdown
from experiments.runs.experiment import Experiment
from experiments.runs.pack import Stamp, kept, stamp
from experiments.runs.results import Context, ResultError, jsonable, load_results, result_path
from experiments.runs.tasks import Done, Task

_ATTEMPTS = 3  # of a run whose workers die


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
    refused: int = 0

    @property
    def status(self) -> int:
        """Of the command: 1 if a run failed, 2 if what was asked for is wrong and nothing ran."""
        if self.failed and len(self.failed) == self.refused and not self.computed:
            return 2
        return 1 if self.failed else 0

    def note(self, done: Done, path: Path) -> None:
        """Add what became of the run of ``path``."""
        if done.kind == "failed":
            self.failed.append((path, done.message))
            self.refused += done.refused
        elif done.kind == "skipped":
            self.skipped.append(path)
        else:
            self.computed.append(path)
        if done.kind == "diverged":
            self.diverged.append(path)

    def add(self, other: Report) -> None:
        """Add what became of the runs of another process."""
        self.computed += other.computed
        self.skipped += other.skipped
        self.diverged += other.diverged
        self.failed += other.failed
        self.refused += other.refused


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
            data = {key: getattr(images, key) for key in ("name", "label", "fingerprint")}
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


def stamps(plan: Plan) -> dict[Path, Stamp]:
    """What tells the present results from later ones at the same paths."""
    found = ((path, stamp(path)) for path in plan.paths)
    return {path: one for path, one in found if one}


def execute(
    plan: Plan,
    work: Callable[[Task], Done],
    log: Callable[[str], None],
    *,
    stale: Mapping[Path, Stamp] | None = None,
    executor: Executor | None = None,
) -> Report:
    """Have the runs of ``plan`` computed that have no result; return what became of them.

    A run that fails is listed and the others go on. One whose worker dies is submitted again, three
    times in all. Runs that another command computes now are waited for at the end, and taken over
    if it dies.

    Parameters
    ----------
    plan : Plan
    work : callable
        Computes one `Task` where the executor calls it; picklable where that is another process.
    log : callable
        Shows a line of progress.
    stale : mapping, optional
        The `stamps` of results that count as not there.
    executor : Executor, optional
        Of `experiments.runs.executors`; this process when left out.

    Raises
    ------
    OutputError
        When a result cannot be written, which no other run would survive either.
    """
    report, tasks = Report(), tasks_of(plan, stale or {})
    with swept(plan) as countdown:
        missing = _missing(tasks, log, report)
        compute_all(missing, work, log, report, countdown, executor=executor)
    return report


def _missing(tasks: list[Task], log: Callable[[str], None], report: Report) -> list[Task]:
    """Those that have no result; the others are noted."""
    missing = []
    for task in tasks:
        if task.there(log):
            report.skipped.append(task.path)
        else:
            missing.append(task)
    return missing


def tasks_of(plan: Plan, stale: Mapping[Path, Stamp]) -> list[Task]:
    """The runs of a plan, one by one, in order."""
    return [
        Task(plan.name, number, len(plan.entries), run, path, data, stale.get(path))
        for number, (run, path, data) in enumerate(plan.entries, start=1)
    ]


@contextlib.contextmanager
def swept(plan: Plan) -> Iterator[Countdown]:
    """Clear up what killed commands left in a plan's folder, before and after; how much is left."""
    folder = plan.paths[0].parent
    sweep(folder)
    try:
        yield Countdown(plan.name, [(run, path) for run, path, _ in plan.entries])
    finally:
        claims.sweep(folder)


def compute_all(
    tasks: list[Task],
    work: Callable[[Task], Done],
    log: Callable[[str], None],
    report: Report,
    countdown: Countdown,
    *,
    executor: Executor | None = None,
    turns: Callable[[int], Iterable[int]] = range,
) -> None:
    """Have tasks computed that have no result, as `execute` does; the report is added to.

    Parameters
    ----------
    tasks : list of Task
    work, log, executor
        As of `execute`.
    report : Report
    countdown : Countdown
    turns : callable
        ``turns(n)`` gives the indices of the tasks that this process computes, as it comes to
        them, where others compute the rest.
    """
    died: Counter[int] = Counter()
    missing = tasks
    while missing:
        again = []
        left = [task.path for task in missing]
        for task, answer in _answers(missing, work, executor, countdown, turns):
            left.remove(task.path)
            if isinstance(answer, Exception):
                died[task.number] += 1
                reason = f"{type(answer).__name__}: {answer}"
                if died[task.number] < _ATTEMPTS:
                    log(f"{task.path.stem}: its worker was lost ({reason}); it is run again")
                    again.append(task)
                else:
                    report.failed.append((task.path, f"its worker was lost each time ({reason})"))
                continue
            for line in answer.lines:
                log(line)
            if answer.kind == "unwritable":
                raise OutputError(answer.message)
            if answer.kind == "elsewhere":
                again.append(task)
            else:
                report.note(answer, task.path)
                countdown.took(task.path, answer.cpu_seconds)
                if executor is not None and left:
                    log(f"{len(left)} runs are left{countdown.left(left)}")
        if again and claims.held(path := again[0].path):  # else finished or given up since
            log(f"waiting for {path.stem}, which another process computes")
            claims.wait_for(path)
        turns = range  # what others of this command compute is theirs
        missing = _missing(again, log, report)


def _answers(
    tasks: list[Task],
    work: Callable[[Task], Done],
    executor: Executor | None,
    countdown: Countdown,
    turns: Callable[[int], Iterable[int]],
) -> Iterator[tuple[Task, Done | Exception]]:
    """What became of each task, as it comes; an exception where the worker was lost."""
    if executor is None:
        for i in turns(len(tasks)):
            left = countdown.left([task.path for task in tasks[i:]])
            yield tasks[i], work(dataclasses.replace(tasks[i], left=left))
        return
    futures = {executor.submit(work, task): task for task in tasks}
    for future in as_completed(futures):
        error = CancelledError() if future.cancelled() else future.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        yield futures[future], future.result() if error is None else error


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
    study = {"settings": settings, "runs": names}
    text = json.dumps({**study, "sha256": _digest(study)}, indent=1)
    write_file(folder / "study.json", (text + "\n").encode())
    return Study(plan.study, folder, settings, plan.paths)


def _digest(study: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(study, sort_keys=True).encode()).hexdigest()


def _whole(document: dict[str, Any]) -> bool:
    """Whether a study is as it was written; earlier versions wrote no digest, and two entries."""
    if document.keys() == {"settings", "runs"}:
        return True
    study = {key: document[key] for key in ("settings", "runs")}
    return document == {**study, "sha256": _digest(study)}


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
            if not _whole(document):
                raise ValueError("it was changed since it was written")
            if not all(Path(name).name == name for name in names):
                raise ValueError("its runs are no names of files")
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            raise ResultError(
                f"{path} cannot be read ({error}); the command that wrote it writes it again"
            ) from error
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
