"""Completion of the command line in bash, zsh and fish: verbs, presets, options, their values."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from experiments.command import registry
from experiments.command.options import DataOptions, RunOptions
from experiments.data.datasets import DATASETS
from experiments.usage import one_of

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
# experiments: completion for bash. Use it by: eval "$(experiments completion bash)"
_experiments() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}"
  local verb="${{COMP_WORDS[1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{verbs}"
  else
    case "$verb $before" in
{values}
      *\\ --out|*\\ --data-dir|*\\ --cache-dir) COMPREPLY=($(compgen -d -- "$word")); return ;;
      *)
        case "$verb" in
{options}
        esac ;;
    esac
    if [ "$COMP_CWORD" -eq 2 ]; then
      case "$verb" in
{first}
      esac
    fi
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _experiments experiments
"""
_ZSH = """\
# experiments: completion for zsh. Use it by: eval "$(experiments completion zsh)"
autoload -U +X compinit && compinit
autoload -U +X bashcompinit && bashcompinit
"""


def script(shell: str, verbs: typing.Sequence[str]) -> str:
    """The script that a shell evaluates.

    Parameters
    ----------
    shell : {"bash", "zsh", "fish"}
    verbs : sequence of str
        Besides the experiments.

    Raises
    ------
    UsageError
        For another shell.
    """
    one_of("shell", shell, SHELLS)
    options = {name: _options(name) for name in registry.available()}
    options["all"] = {**_of(RunOptions), **_of(DataOptions)}
    options["report"] = {"out": None}
    first = {
        **{name: _presets(name) for name in registry.available()},
        "plot": registry.available(),
        "table": registry.available(),
        "completion": list(SHELLS),
    }
    every = [*registry.available(), *verbs]
    if shell == "fish":
        return _fish(every, options, first)
    return (_ZSH if shell == "zsh" else "") + _bash(every, options, first)


def _presets(name: str) -> list[str]:
    return [key for key in registry.experiment(name).PRESETS if "/" not in key]


def _options(name: str) -> dict[str, list[str] | None]:
    """Options of an experiment and the words each takes; None for numbers, paths and the like."""
    module = registry.experiment(name)
    found = {**_of(module.Settings), **_of(RunOptions), "preset": _presets(name)}
    if "dataset" in found:
        found |= {**_of(DataOptions), "dataset": list(getattr(module, "DATASETS", DATASETS))}
    return found


def _of(kind: Any) -> dict[str, list[str] | None]:
    hints = typing.get_type_hints(kind)
    return {
        field.name.replace("_", "-"): _words(hints[field.name])
        for field in dataclasses.fields(kind)
    }


def _words(hint: Any) -> list[str] | None:
    """The words that an annotation allows: those of a Literal, alone or in a union."""
    if typing.get_origin(hint) is typing.Literal:
        return [str(value) for value in typing.get_args(hint)]
    found = [word for part in typing.get_args(hint) for word in _words(part) or []]
    return found or None


def _bash(
    verbs: list[str],
    options: dict[str, dict[str, list[str] | None]],
    first: dict[str, list[str]],
) -> str:
    values = [
        f'      "{verb} --{option}") words="{" ".join(words)}" ;;'
        for verb, its in options.items()
        for option, words in its.items()
        if words
    ]
    return _BASH.format(
        verbs=" ".join(verbs),
        values="\n".join(values),
        options="\n".join(
            f'          {verb}) words="{" ".join(f"--{option}" for option in its)} --help" ;;'
            for verb, its in options.items()
        ),
        first="\n".join(
            f'        {verb}) words="$words {" ".join(words)}" ;;' for verb, words in first.items()
        ),
    )


def _fish(
    verbs: list[str],
    options: dict[str, dict[str, list[str] | None]],
    first: dict[str, list[str]],
) -> str:
    paths = {"out", "data-dir", "cache-dir"}
    lines = [
        "# experiments: completion for fish. Use it by: experiments completion fish | source",
        "complete -c experiments -f",
        f'complete -c experiments -n __fish_use_subcommand -a "{" ".join(verbs)}"',
    ]
    for verb, words in first.items():
        seen = f"'__fish_seen_subcommand_from {verb}; and test (count (commandline -opc)) -eq 2'"
        lines.append(f'complete -c experiments -n {seen} -a "{" ".join(words)}"')
    for verb, its in options.items():
        seen = f"'__fish_seen_subcommand_from {verb}'"
        for option, some in its.items():
            takes = f' -x -a "{" ".join(some)}"' if some else " -r -F" if option in paths else ""
            lines.append(f"complete -c experiments -n {seen} -l {option}{takes}")
    return "\n".join(lines) + "\n"
