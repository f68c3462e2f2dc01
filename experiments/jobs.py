"""Helper processes for the runs of one command.

Runs are independent and claimed by file, so a helper needs no more than the plan: it goes through
it once and computes what nobody else does. Narrow networks gain more from a process a core than
from a thread a core.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments import runner
from experiments.machine import settled
from experiments.results import Context

__all__ = ["helpers"]


@contextlib.contextmanager
def helpers(
    count: int,
    *,
    module: str,
    plan: runner.Plan,
    context: Callable[[], Context],
    threads: int,
    recorded: dict[str, Any],
    stale: Mapping[Path, runner.Stamp],
) -> Iterator[None]:
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
    spawn = multiprocessing.get_context("spawn")  # a fork would share torch's threads
    arguments = (module, plan, context, threads, recorded, stale)
    processes = [spawn.Process(target=_help, args=arguments, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    except BaseException:
        for process in processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)  # a terminal has done it already
        raise
    finally:
        for process in processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()


def _help(
    module: str,
    plan: runner.Plan,
    context: Callable[[], Context],
    threads: int,
    recorded: dict[str, Any],
    stale: Mapping[Path, runner.Stamp],
) -> None:
    _die_with_parent()
    with contextlib.suppress(KeyboardInterrupt), settled(threads):
        runner.execute(
            importlib.import_module(module),
            plan,
            context(),
            stale=stale,
            recorded=recorded,
            once=True,
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
