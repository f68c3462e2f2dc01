"""The command line: verbs, options and exit status.

Exit status: 0 done, 1 some run failed (the others went on), 2 wrong usage, 130 interrupted.
Results go to stdout, progress to stderr. torch is imported only once a command has work to do.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from experiments import registry
from experiments.results import Context, OutputError, ResultError, jsonable
from experiments.usage import UsageError, one_of

__all__ = ["run"]

_VERBS = {
    "list": "names of the experiments, a line each",
    "plot": "draw an experiment's figures and tables again, from results only",
    "table": "show an experiment's tables, from results only",
    "report": "one page with every table and figure found in --out",
    "all": "every experiment, one after the other",
}


@dataclass(frozen=True)
class RunOptions:
    """Options that mean the same for every experiment."""

    preset: str = "laptop"
    """smoke (seconds), laptop (minutes on two cores) or paper (as printed; wants a GPU)"""
    out: Path = Path("results")
    """folder of results; what is finished there is not computed again"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: Literal["auto", "float32", "float64"] = "auto"
    """precision; auto is the experiment's own"""
    threads: int | None = None
    """threads of torch and of the matrix library; all cores when left out"""
    jobs: int = 1
    """processes that share the runs; they share the threads too"""
    force: bool = False
    """compute finished runs again"""
    dry_run: bool = False
    """say what would run, and write nothing"""


@dataclass(frozen=True)
class DataOptions:
    """Options of experiments that take a data set."""

    data_dir: Path | None = None
    """where the data set is: a folder, an archive, or a folder that holds the archive"""
    download: bool = False
    """let torchvision fetch CIFAR-10 into --data-dir"""
    cache_dir: Path | None = None
    """folder of decoded archives; the user's cache folder when left out"""


@dataclass(frozen=True)
class _OutOptions:
    out: Path = Path("results")
    """folder of results"""


@dataclass(frozen=True)
class _AllOptions(RunOptions, DataOptions):
    """Options of the verb ``all``."""


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def run(argv: list[str]) -> int:
    """Run the command line ``argv`` and return its exit status."""
    try:
        return _dispatch(argv)
    except UsageError as error:
        _say(f"experiments: {error}")
        return 2
    except (ResultError, OutputError) as error:
        _say(f"experiments: {error}")
        return 1
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _say("experiments: interrupted")
        return 130


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0 if argv else 2
    verb, rest = argv[0], argv[1:]
    one_of("experiment or verb", verb, [*registry.available(), *_VERBS])
    if verb == "list":
        return _list()
    if verb in ("plot", "table"):
        return _redraw(verb, rest)
    if verb == "report":
        return _report(rest)
    if verb == "all":
        return _all(rest)
    return _experiment(verb, rest)


def _help() -> str:
    lines = [
        "usage: experiments VERB [options]     (experiments VERB --help shows its options)",
        "",
    ]
    width = max(map(len, [*registry.available(), *_VERBS])) + 2
    lines += ["experiments:"]
    for name in registry.available():
        lines += [f"  {name:<{width}}{registry.experiment(name).SUMMARY}"]
    lines += ["", "verbs:", *(f"  {name:<{width}}{text}" for name, text in _VERBS.items())]
    return "\n".join(lines)


def _list() -> int:
    for name in registry.available():
        print(f"{name}\t{registry.experiment(name).SUMMARY}")
    return 0


def _parse(kind: Any, argv: list[str], prog: str, **more: Any) -> Any:
    """Parse ``argv`` into a dataclass or a call, as tyro does; its errors leave with status 2."""
    import tyro

    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    return tyro.cli(kind, args=argv, prog=f"experiments {prog}", config=config, **more)


def _peek(argv: list[str], option: str) -> str | None:
    """The value of ``--option`` in ``argv``, needed before the whole line is parsed."""
    value = None
    for word, following in zip(argv, [*argv[1:], None], strict=True):
        if word == f"--{option}":
            value = following
        elif word.startswith(f"--{option}="):
            value = word.partition("=")[2]
    return value


def _experiment(name: str, argv: list[str]) -> int:
    module = registry.experiment(name)
    preset = _peek(argv, "preset") or "laptop"
    default = registry.preset(module, preset, _peek(argv, "dataset"))
    parts: list[tuple[str, type, Any]] = [
        ("settings", module.Settings, default),
        ("run", RunOptions, RunOptions(preset=preset)),
    ]
    if hasattr(default, "dataset"):
        parts.append(("data", DataOptions, DataOptions()))
    # One class of the three groups, made here since only this experiment's settings belong in it.
    command = dataclasses.make_dataclass("Command", parts, frozen=True)
    command.__doc__ = module.SUMMARY
    given = _parse(command, argv, name)
    data = getattr(given, "data", DataOptions())
    study = _study_name(given.settings, default, preset)
    return _run(module, name, study, given.settings, given.run, data, argv)


def _study_name(settings: Any, default: Any, preset: str) -> str:
    """Folder of a study: preset and data set, and a hash where settings were changed."""
    words = [preset]
    if hasattr(settings, "dataset"):
        words.append(settings.dataset)
    if settings != default:
        text = json.dumps(jsonable(dataclasses.asdict(settings)), sort_keys=True)
        words.append(hashlib.sha256(text.encode()).hexdigest()[:6])
    return "-".join(words)


def _run(
    module: ModuleType,
    name: str,
    study: str,
    settings: Any,
    options: RunOptions,
    data: DataOptions,
    argv: list[str],
) -> int:
    from experiments import runner

    for option, value in (("jobs", options.jobs), ("threads", options.threads)):
        if value is not None and value < 1:
            raise UsageError(f"--{option} must be at least 1; got {value}")
    if not options.dry_run:
        runner.check_writable(options.out / name)
    dtype = getattr(module, "DTYPE", "float32") if options.dtype == "auto" else options.dtype
    context = _context("cpu", dtype, data)
    plan = runner.plan(module, name, study, settings, options.out, context)
    if options.dry_run:
        return _dry_run(plan, options.force)

    made = runner.save_study(plan, options.out)
    report = runner.Report(skipped=plan.paths)
    # Not said here: what is damaged is said where it is computed again.
    if options.force or not all(runner.finished(path, lambda _: None) for path in plan.paths):
        try:
            report = _compute(module, plan, context, options, data, argv=[name, *argv])
        except KeyboardInterrupt:
            done = sum(path.exists() for path in plan.paths)
            _say(
                f"interrupted: {done} of {len(plan.paths)} runs are finished and kept in "
                f"{options.out / name}; the same command goes on from there"
            )
            return 130
    _show(runner.draw_study(module, made))
    return _account(report)


def _context(device: str, dtype: str, data: DataOptions) -> Context:
    return Context(device=device, dtype=dtype, load=_loader(data), log=_say)


def _compute(
    module: ModuleType,
    plan: Any,
    context: Context,
    options: RunOptions,
    data: DataOptions,
    argv: list[str],
) -> Any:
    """Compute what is missing. Here torch is imported, and no earlier."""
    from experiments import jobs, runner
    from experiments.machine import cores, provenance, resolve_device, settled

    context = dataclasses.replace(context, device=resolve_device(options.device))
    threads = max(1, (options.threads or cores()) // options.jobs)
    recorded = {"command": _command(argv), **provenance(context.device, threads)}
    force = options.force
    with (
        jobs.helpers(
            options.jobs - 1,
            module=module.__name__,
            plan=plan,
            context=functools.partial(_context, context.device, context.dtype, data),
            threads=threads,
            recorded=recorded,
            force=force,
        ),
        settled(threads),
    ):
        return runner.execute(module, plan, context, force=force, recorded=recorded)


def _dry_run(plan: Any, force: bool) -> int:
    from experiments.runner import finished

    for _, path, _ in plan.entries:
        done = not force and finished(path, _say)
        print(f"{'finished' if done else 'would run'}\t{path}")
    return 0


def _account(report: Any) -> int:
    """Say what became of the runs; the exit status."""
    _say(f"{len(report.computed)} runs computed, {len(report.skipped)} were finished before")
    for path in report.diverged:
        _say(f"diverged: {path}")
    for path, reason in report.failed:
        _say(f"failed: {path.stem}: {reason}")
    if report.failed:
        _say(f"{len(report.failed)} runs failed; the same command tries them again")
    return 1 if report.failed else 0


def _show(paths: list[Path]) -> None:
    """Print the tables to stdout and then where everything is."""
    for path in paths:
        if path.suffix == ".md":
            print(path.read_text(encoding="utf-8"))
    for path in paths:
        print(path)


def _loader(options: DataOptions):
    """``load(name)``: a data set read once a command, with the command's options."""

    @functools.lru_cache
    def load(name: str):
        from experiments.data import load_dataset

        return load_dataset(
            name,
            data_dir=options.data_dir,
            download=options.download,
            cache_dir=options.cache_dir,
        )

    return load


def _command(argv: list[str]) -> str:
    """The command as recorded: folders of this machine are left out."""
    words, hide = [], False
    for word in argv:
        option, equals, _ = word.partition("=")
        folder = option in ("--data-dir", "--out", "--cache-dir", "--data_dir", "--cache_dir")
        words.append("DIR" if hide else f"{option}=DIR" if folder and equals else word)
        hide = folder and not equals
    return shlex.join(["python", "-m", "experiments", *words])


def _redraw(verb: str, argv: list[str]) -> int:
    from experiments import runner

    if not argv or argv[0].startswith("-"):
        if argv[:1] in (["-h"], ["--help"]):
            print(f"usage: experiments {verb} EXPERIMENT [--out DIR]\n\n{_VERBS[verb]}")
            return 0
        raise UsageError(f"{verb} which experiment? there is {', '.join(registry.available())}")
    name, rest = argv[0], argv[1:]
    module = registry.experiment(name)
    out = _parse(_OutOptions, rest, f"{verb} {name}").out
    found = runner.studies(out, name)
    paths = [path for study in found for path in runner.draw_study(module, study)]
    if not paths:
        raise UsageError(f"no results of {name} in {out}: run `experiments {name}` first")
    _show([path for path in paths if verb == "plot" or path.suffix == ".md"])
    return 0


def _report(argv: list[str]) -> int:
    from experiments import report

    out = _parse(_OutOptions, argv, "report").out
    for path in report.page(out):
        print(path)
    return 0


def _all(argv: list[str]) -> int:
    options = _parse(_AllOptions, argv, "all")
    run_options = RunOptions(**_fields(options, RunOptions))
    data = DataOptions(**_fields(options, DataOptions))
    worst = 0
    for name in registry.available():
        _say(f"== {name}")
        module = registry.experiment(name)
        words = ["--preset", options.preset]
        try:
            settings = registry.preset(module, options.preset)
            study = _study_name(settings, settings, options.preset)
            status = _run(module, name, study, settings, run_options, data, words)
        except UsageError as error:  # its data is missing, say; the others go on
            _say(f"{name}: {error}")
            status = 1
        if status == 130:
            return status
        worst = max(worst, status)
    return worst


def _fields(options: Any, kind: type) -> dict[str, Any]:
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(kind)}
