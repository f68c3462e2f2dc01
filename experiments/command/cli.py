"""The command line: verbs, options and exit status.

Exit status: 0 done, 1 some run failed (the others went on), 2 wrong usage, 130 interrupted.
Results go to stdout, progress to stderr. torch is imported only once a command has work to do.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.command import registry
from experiments.command.options import DataOptions, RunOptions
from experiments.command.study import Command, draw_and_show, execute, say
from experiments.files import OutputError
from experiments.runs import distributed
from experiments.runs.results import ResultError
from experiments.usage import UsageError, one_of, process_number, under_torchrun

_VERBS = {
    "list": "names of the experiments, a line each",
    "plot": "draw an experiment's figures and tables again, from results only",
    "table": "show an experiment's tables, from results only",
    "report": "one self-contained HTML page of everything that was measured, from results only",
    "all": "every experiment, one after the other",
    "pack": "put the finished runs of --out into one compressed file an experiment",
    "completion": "a script for bash, zsh or fish that completes these words: completion SHELL",
}


@dataclass(frozen=True)
class _OutOptions:
    out: Path = Path("results")
    """folder of results"""


@dataclass(frozen=True)
class _AllOptions:
    """Options of the verb ``all``."""

    run: RunOptions = field(default_factory=RunOptions)
    data: DataOptions = field(default_factory=DataOptions)


def run(argv: list[str]) -> int:
    """Run the command line ``argv`` and return its exit status.

    Of the processes that ``torchrun`` starts the first does what only reads and shows.
    """
    if process_number() and not _computes(argv):
        return 0
    try:
        status = _dispatch(argv)
        if under_torchrun() and status != 130:
            distributed.left()
        return status
    except UsageError as error:
        say(f"experiments: {error}")
        return 2
    except (ResultError, OutputError) as error:
        say(f"experiments: {error}")
        return 1
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        say("experiments: interrupted")
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
    if verb == "pack":
        return _pack(rest)
    if verb == "completion":
        return _completion(rest)
    return _experiment(verb, rest)


def _computes(argv: list[str]) -> bool:
    """Whether the words ask for runs, of which each of several processes does its part."""
    shows = {"-h", "--help", "--dry-run"} & {word.replace("_", "-") for word in argv}
    return not shows and next(iter(argv), "list") not in _VERBS.keys() - {"all"}


def _help() -> str:
    lines = [
        "usage: experiments VERB [PRESET] [options]   (experiments VERB --help shows its options)",
        "",
    ]
    width = max(map(len, [*registry.available(), *_VERBS])) + 2
    lines += ["experiments:"]
    for name in registry.available():
        lines += [f"  {name:<{width}}{registry.experiment(name).SUMMARY}"]
    lines += ["", "verbs:", *(f"  {name:<{width}}{text}" for name, text in _VERBS.items())]
    lines += [
        "",
        "presets: smoke (seconds), laptop (minutes on two cores; taken when left out), paper (as",
        "printed; wants a GPU), and others that `experiments VERB --help` names. To begin with:",
        "  experiments fig3b                      Figure 3(b) on the digits that come along",
        "  experiments fig3b --dry-run            what that would compute, and for how long",
        "  experiments report                     a page of all results",
    ]
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


def _completion(argv: list[str]) -> int:
    from experiments.command import completion

    if argv in (["-h"], ["--help"]) or len(argv) != 1:
        print(f"usage: experiments completion {{{','.join(completion.SHELLS)}}}\n")
        print('eval "$(experiments completion bash)" in ~/.bashrc, the same for zsh in ~/.zshrc,')
        print("experiments completion fish | source in ~/.config/fish/config.fish")
        return 0 if argv in (["-h"], ["--help"]) else 2
    print(completion.script(argv[0], list(_VERBS)), end="")
    return 0


def _preset_first(argv: list[str]) -> list[str]:
    """``argv`` with a preset that stands first, as in ``fig3b full``, made an option."""
    word = next(iter(argv), "-")
    return argv if word.startswith("-") else ["--preset", word, *argv[1:]]


def _peek(argv: list[str], option: str) -> str | None:
    """The value of ``--option`` in ``argv``, needed before the whole line is parsed."""
    value = None
    for word, following in itertools.zip_longest(argv, argv[1:]):
        if word == f"--{option}":
            value = following
        elif word.startswith(f"--{option}="):
            value = word.partition("=")[2]
    return value


def _experiment(name: str, argv: list[str]) -> int:
    module = registry.experiment(name)
    argv = _preset_first(argv)
    preset = _peek(argv, "preset") or "laptop"
    default = registry.preset(module, preset, _peek(argv, "dataset"))
    parts: list[tuple[str, type, Any]] = [
        ("settings", module.Settings, default),
        ("run", RunOptions, RunOptions(preset=preset)),
    ]
    if hasattr(default, "dataset"):
        parts.append(("data", DataOptions, DataOptions()))
    # One class of the three groups, made here since only this experiment's settings belong in it.
    words = dataclasses.make_dataclass("Command", parts, frozen=True)
    presets = dict.fromkeys(key.partition("/")[0] for key in module.PRESETS)
    words.__doc__ = f"{module.SUMMARY}.\n\nPresets: {', '.join(presets)}."
    given = _parse(words, argv, f"{name} [PRESET]" if {"-h", "--help"} & {*argv} else name)
    data = getattr(given, "data", DataOptions())
    return execute(Command(module, name, given.settings, default, given.run, data, argv))


def _redraw(verb: str, argv: list[str]) -> int:
    from experiments.runs import runner

    if not argv or argv[0].startswith("-"):
        if argv[:1] in (["-h"], ["--help"]):
            print(f"usage: experiments {verb} EXPERIMENT [--out DIR]\n\n{_VERBS[verb]}")
            return 0
        raise UsageError(f"{verb} which experiment? there is {', '.join(registry.available())}")
    name, rest = argv[0], argv[1:]
    module = registry.experiment(name)
    out = _parse(_OutOptions, rest, f"{verb} {name}").out
    kept = draw_and_show(module, runner.studies(out, name), tables=verb == "table")
    if kept is None:
        raise UsageError(f"no results of {name} in {out}: run `experiments {name}` first")
    return 0 if kept or verb == "table" else 1


def _report(argv: list[str]) -> int:
    from experiments.page.build import write_page

    print(write_page(_parse(_OutOptions, argv, "report").out))
    return 0


def _pack(argv: list[str]) -> int:
    from experiments.runs.pack import pack, pack_of

    out = _parse(_OutOptions, argv, "pack").out
    for folder in sorted(out.glob("*/runs")):
        if count := pack(folder):
            print(f"{pack_of(folder / 'any.json')}: {count} runs more")
    return 0


def _all(argv: list[str]) -> int:
    given = _parse(_AllOptions, _preset_first(argv), "all")
    options, data = given.run, given.data
    worst = 0
    for name in registry.available():
        say(f"== {name}")
        module = registry.experiment(name)
        words = ["--preset", options.preset]
        try:
            settings = registry.preset(module, options.preset)
            status = execute(Command(module, name, settings, settings, options, data, words))
        except UsageError as error:  # its data is missing, say; the others go on
            say(f"{name}: {error}")
            status = 1
        if status == 130:
            return status
        worst = max(worst, status)
    return worst
