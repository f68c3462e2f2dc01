"""One command of one experiment: plan, compute what is missing, draw, account.

torch is imported only where something is left to compute.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.command.options import DataOptions, RunOptions
from experiments.files import OutputError
from experiments.runs import runner, tasks
from experiments.runs.costs import costs_in, kept_costs
from experiments.runs.estimate import Estimate, estimate, minutes
from experiments.runs.experiment import Experiment
from experiments.runs.machine import cores, provenance, resolve_device, settled
from experiments.runs.pack import Stamp
from experiments.runs.pack import kept as has_result
from experiments.runs.results import Context, file_word, jsonable
from experiments.usage import UsageError, process_number, say, under_torchrun


@dataclass(frozen=True)
class Command:
    """What was asked for on the command line."""

    module: Experiment
    name: str
    settings: Any
    default: Any
    """the preset's settings, before options changed them"""
    options: RunOptions
    data: DataOptions
    argv: list[str]
    """the words after the verb, as recorded with every run"""

    @property
    def study(self) -> str:
        """Folder of figures: preset and data set, and a hash where settings were changed."""
        words = [self.options.preset]
        if hasattr(self.settings, "dataset"):
            words.append(file_word(self.settings.dataset))
        if self.settings != self.default:
            text = json.dumps(jsonable(dataclasses.asdict(self.settings)), sort_keys=True)
            words.append(hashlib.sha256(text.encode()).hexdigest()[:6])
        return "-".join(words)

    @property
    def recorded(self) -> str:
        """The command in words; folders of this machine are left out."""
        words, hide = [], False
        for word in self.argv:
            option, equals, _ = word.partition("=")
            folder = option.replace("_", "-") in ("--data-dir", "--out", "--cache-dir")
            words.append("DIR" if hide else f"{option}=DIR" if folder and equals else word)
            hide = folder and not equals
        return shlex.join(["python", "-m", "experiments", self.name, *words])


def execute(command: Command) -> int:
    """Do what ``command`` asks for and return the exit status.

    Raises
    ------
    UsageError
        For wrong settings and missing data, before any work.
    experiments.files.OutputError
        When the output folder cannot be written, before any work or when it fills up.
    """
    options, out = command.options, command.options.out
    _check(options, command.data)
    first = process_number() == 0
    if not options.dry_run and first:
        runner.check_writable(out / command.name)
    dtype = getattr(command.module, "DTYPE", "float32")
    dtype = dtype if options.dtype == "auto" else options.dtype
    context = _context(dtype, command.data, "cpu", say)
    plan = runner.plan(command.module, command.name, command.study, command.settings, out, context)
    if options.dry_run:
        return _dry_run(plan, options)

    study = runner.save_study(plan, out) if first else None
    report = runner.Report(skipped=plan.paths)
    if _unfinished(plan, options):
        try:
            report = _compute(command, plan, dtype)
        except KeyboardInterrupt:
            done = sum(has_result(path) for path in plan.paths)
            say(
                f"interrupted: {done} of {len(plan.paths)} runs are finished and kept in "
                f"{out / command.name}; the same command goes on from there"
            )
            return 130
    if study is None:
        return report.status
    kept = draw_and_show(command.module, [study])
    return max(_account(report), 0 if kept else 1)


def _check(options: RunOptions, data: DataOptions) -> None:
    """Raise `UsageError` where options contradict each other."""
    for option, value in (("jobs", options.jobs), ("threads", options.threads)):
        if value is not None and value < 1:
            raise UsageError(f"--{option} must be at least 1; got {value}")
    if (options.scheduler is not None) != (options.executor == "dask"):
        raise UsageError("--scheduler ADDRESS goes with --executor dask, and that with it")
    if options.job_parameters and options.executor != "submitit":
        raise UsageError("--job-parameters go with --executor submitit")
    if under_torchrun() and (options.jobs > 1 or options.executor != "local"):
        raise UsageError("torchrun's processes share the runs: leave --jobs and --executor out")
    if under_torchrun() and data.download:
        raise UsageError("--download would fetch once a process: fetch without torchrun first")


def _unfinished(plan: runner.Plan, options: RunOptions) -> bool:
    """Whether there may be something to compute; of several processes none decides that alone."""
    if options.force or under_torchrun():
        return True
    # Not said here: what is damaged is said where it is computed again.
    return not all(tasks.finished(path, lambda _: None) for path in plan.paths)


def _compute(command: Command, plan: runner.Plan, dtype: str) -> runner.Report:
    """Compute what is missing: in this process, or where ``--jobs`` and ``--executor`` say."""
    from experiments.runs import executors

    options = command.options
    stale = runner.stamps(plan) if options.force else {}
    local = options.executor == "local"
    # Far away, the device and the threads are those of the worker's machine.
    device = resolve_device(options.device) if local else options.device
    threads = max(1, (options.threads or cores()) // options.jobs) if local else options.threads
    if local and options.jobs == 1:
        context = _context(dtype, command.data, device, say)
        recorded = {"command": command.recorded, **provenance(device, threads or 1)}
        if under_torchrun():
            return _distributed(command, plan, context, recorded, stale, threads or 1)
        here = functools.partial(
            tasks.compute, module=command.module, context=context, recorded=recorded
        )
        with settled(threads or 1):
            return runner.execute(plan, here, say, stale=stale)
    work = tasks.Work(
        module=command.module.path,
        context=functools.partial(_context, dtype, command.data),
        device=device,
        threads=threads,
        command=command.recorded,
        live=local,
    )
    there = executors.opened(
        options.executor,
        options.jobs,
        scheduler=options.scheduler or "",
        parameters=options.job_parameters,
        folder=options.out / command.name / "jobs",
    )
    with there as executor:
        return runner.execute(plan, work, say, stale=stale, executor=executor)


def _distributed(
    command: Command,
    plan: runner.Plan,
    context: Context,
    recorded: dict[str, Any],
    stale: dict[Path, Stamp],
    threads: int,
) -> runner.Report:
    """Compute what is missing with the other processes of ``torchrun``."""
    from experiments.runs import distributed

    with settled(threads):
        return distributed.execute(
            plan,
            distributed.joined(context.device),
            module=command.module,
            context=context,
            recorded=recorded,
            stale=stale,
        )


@functools.lru_cache
def _load(options: DataOptions, name: str) -> Any:
    """A data set, read once a process."""
    from experiments.data.datasets import load_dataset

    return load_dataset(
        name,
        data_dir=options.data_dir,
        download=options.download,
        cache_dir=options.cache_dir,
    )


def _context(dtype: str, data: DataOptions, device: str, log: Callable[[str], None]) -> Context:
    return Context(device=device, dtype=dtype, load=functools.partial(_load, data), log=log)


def _dry_run(plan: runner.Plan, options: RunOptions) -> int:
    """Say what would run, with the CPU time and memory it is likely to take; write nothing."""
    known = [*costs_in(path for path in plan.paths if has_result(path)), *kept_costs()]
    whole = Estimate()
    for run, path, _ in plan.entries:
        if not options.force and tasks.finished(path, say):
            print(f"finished\t{path}")
            continue
        one = estimate(plan.name, run, known)
        whole += one
        print(f"would run\t{path}\t{one}")
    left = whole.alike + whole.scaled + whole.unknown
    print(f"{left} of {len(plan.paths)} runs would be computed: {whole if left else 'nothing'}")
    threads = options.threads or cores()
    if threads > 1 and whole.cpu_seconds:
        print(f"on {threads} threads {minutes(whole.cpu_seconds / threads)} at best")
    return 0


def _account(report: runner.Report) -> int:
    """Say what became of the runs; the exit status."""
    say(f"{len(report.computed)} runs computed, {len(report.skipped)} were finished before")
    for path in report.diverged:
        say(f"diverged: {path}")
    for path, reason in report.failed:
        say(f"failed: {path.stem}: {reason}")
    if report.failed:
        say(f"{len(report.failed)} runs failed; the same command tries them again")
    return report.status


def draw_and_show(
    module: Experiment, studies: Sequence[runner.Study], *, tables: bool = False
) -> bool | None:
    """Draw studies and show their tables and where everything is; None if nothing was drawn.

    Where the folder cannot be written the tables are shown all the same, what is missing is said,
    and the answer is False. With ``tables`` the paths of figures are not shown.
    """
    shown, kept = [], True
    for study in studies:
        try:
            shown += runner.draw_study(module, study)
        except OutputError as error:
            kept = False
            with tempfile.TemporaryDirectory() as elsewhere:
                drawn = runner.draw_study(module, study, Path(elsewhere))
                for path in drawn:
                    if path.suffix == ".md":
                        print(path.read_text(encoding="utf-8"))
            say(f"{error}; not written there: {', '.join(path.name for path in drawn)}")
    show([path for path in shown if not tables or path.suffix == ".md"])
    return kept if shown or not kept else None


def show(paths: list[Path]) -> None:
    """Print the tables to stdout and then where everything is."""
    for path in paths:
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
    for path in paths:
        print(path)
