"""Helper processes for the runs of one command.

Runs are independent and claimed by file, so a helper needs no more than the plan: it goes through
it once and computes what nobody else does. Narrow networks gain more from a process a core than
from a thread a core.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from pathlib import Path
from typing import Any

from experiments.runs import runner
from experiments.runs.experiment import Experiment
from experiments.runs.machine import settled
from experiments.runs.pack import Stamp
from experiments.runs.results import Context

__all__ = ["Team", "helpers"]


class Team:
    """The helpers of a command, and what they say of their runs.

    Parameters
    ----------
    count : int
    runs : int
        Of the plan.

    Attributes
    ----------
    failed : sequence of int
        Shared with all helpers: 1 where a run has failed, which none of them tries again.
    """

    def __init__(self, count: int, runs: int):
        self._spawn = multiprocessing.get_context("spawn")  # a fork would share torch's threads
        self.failed = self._spawn.RawArray("b", runs)
        self.processes: list[Any] = []
        self._reports = [runner.Report() for _ in range(count)]
        self._readers: list[threading.Thread] = []

    def start(self, *arguments: Any) -> None:
        """Start the helpers on what `_help` takes after its first two arguments."""
        for report in self._reports:
            ours, theirs = self._spawn.Pipe(duplex=False)
            process = self._spawn.Process(
                target=_help, args=(theirs, self.failed, *arguments), daemon=True
            )
            process.start()
            theirs.close()  # so that the pipe ends when the helper does
            reader = threading.Thread(target=_read, args=(ours, report), daemon=True)
            reader.start()
            self.processes.append(process)
            self._readers.append(reader)

    def end(self, *, interrupt: bool = False) -> None:
        """Wait for the helpers, which have nothing left to do; of an interrupt, tell them."""
        for process in self.processes:
            if interrupt and process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)  # a terminal has done it already
        for process, reader in zip(self.processes, self._readers, strict=True):
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()
            reader.join()

    def account(self, report: runner.Report, log: Callable[[str], None]) -> runner.Report:
        """Add to ``report`` what the helpers did; say which of them ended before their time."""
        for process, theirs in zip(self.processes, self._reports, strict=True):
            report.add(theirs)
            if process.exitcode:
                log(f"a helper ended with {process.exitcode}; what it left was done here")
        return report


def _read(pipe: Any, report: runner.Report) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            report.note(*pipe.recv())


class _Told(runner.Report):
    """A report that says every entry to the command's process at once."""

    def __init__(self, pipe: Any):
        super().__init__()
        self._pipe = pipe

    def note(self, kind: str, entry: Any) -> None:
        """Add an entry, and say it."""
        super().note(kind, entry)
        self._pipe.send((kind, entry))


@contextlib.contextmanager
def helpers(
    count: int,
    *,
    module: str,
    plan: runner.Plan,
    context: Callable[[], Context],
    threads: int,
    recorded: dict[str, Any],
    stale: Mapping[Path, Stamp],
) -> Iterator[Team]:
    """Have ``count`` more processes work on ``plan``; they end with the block, whatever ends it.

    Parameters
    ----------
    count : int
    module : str
        Name of the experiment's module.
    plan : runner.Plan
    context : callable
        Makes the context in the helper; picklable.
    threads : int
        Of each helper.
    recorded : dict
    stale : mapping
        The `runner.stamps` of results to be computed again.
    """
    team = Team(count, len(plan.entries))
    interrupt = True
    try:
        team.start(module, plan, context, threads, recorded, stale)
        yield team
        interrupt = False
    finally:
        team.end(interrupt=interrupt)


def _help(
    pipe: Any,
    failed: MutableSequence[int],
    module: str,
    plan: runner.Plan,
    context: Callable[[], Context],
    threads: int,
    recorded: dict[str, Any],
    stale: Mapping[Path, Stamp],
) -> None:
    _die_with_parent()
    with contextlib.suppress(KeyboardInterrupt), settled(threads):
        runner.execute(
            Experiment(module),
            plan,
            context(),
            stale=stale,
            recorded=recorded,
            once=True,
            report=_Told(pipe),
            failed=failed,
        )


def _die_with_parent() -> None:
    """End this process when its command has gone without a word, killed for instance.

    At once, as that did: SIGINT is ignored where a shell started the command in the background.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()
