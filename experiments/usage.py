"""What is said to the user: progress, and that something asked for is not there."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable


class UsageError(ValueError):
    """A wrong request, found before any work: the command line answers with status 2."""


def one_of(what: str, value: str, allowed: Iterable[str]) -> str:
    """Return ``value``, or raise a `UsageError` that suggests the nearest allowed name.

    Parameters
    ----------
    what : str
        What is being named, as in "dataset".
    value : str
    allowed : iterable of str
    """
    names = list(allowed)
    if value in names:
        return value
    near = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"unknown {what} {value!r}: {hint}there is {', '.join(names)}")


def under_torchrun() -> bool:
    """Whether ``torchrun`` started this process, and others beside it."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def process_number() -> int:
    """The number of this process among those that ``torchrun`` started; 0 if it is alone."""
    return int(os.environ["RANK"]) if under_torchrun() else 0


def say(message: str) -> None:
    """Show a line of progress, on stderr; of several processes it says which speaks."""
    number = process_number()
    print(f"process {number}: {message}" if number else message, file=sys.stderr, flush=True)


def watched() -> bool:
    """Whether bars are shown: on a terminal, by the first process."""
    return sys.stderr.isatty() and not process_number()
