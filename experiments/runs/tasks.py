"""One run, where it is computed: claimed, computed from its checkpoint on, and written.

The same function works in the command's own process and in a worker of any executor. What it
returns is small: results go through the shared folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.files import OutputError
from experiments.runs import claims
from experiments.runs.experiment import Experiment
from experiments.runs.pack import Stamp, kept, stamp
from experiments.runs.results import Context, Outcome, ResultError, read_arrays, write_result
from experiments.usage import UsageError, say, watched


@dataclass(frozen=True)
class Task:
    """One run of a plan.

    Parameters
    ----------
    name : str
        The experiment's.
    number, count : int
        Which of how many, for the line of progress.
    run : dict
        The run's settings.
    path : Path
        Of its result.
    data : dict or None
        Name, label and fingerprint of its data set.
    stale : Stamp or None
        The `stamp` of a result that counts as not there.
    left : str
        How much is left, for the end of the line of progress.
    """

    name: str
    number: int
    count: int
    run: dict[str, Any]
    path: Path
    data: dict[str, Any] | None
    stale: Stamp | None = None
    left: str = ""

    def there(self, log: Callable[[str], None]) -> bool:
        """Whether the run has a whole result that is not stale."""
        if self.stale is not None and self.stale == stamp(self.path):
            return False
        return finished(self.path, log)


@dataclass(frozen=True)
class Done:
    """What became of a task.

    Parameters
    ----------
    kind : {"computed", "diverged", "failed", "skipped", "elsewhere", "unwritable"}
        ``"elsewhere"``: another process computes it now. ``"unwritable"``: an `OutputError`.
    message : str
        Why it failed.
    lines : tuple of str
        Progress that was not shown when it happened, far from the command's stderr.
    cpu_seconds : float
        Of the run, where it was computed.
    refused : bool
        Whether it failed because what was asked for is wrong: a `UsageError`.
    """

    kind: Literal["computed", "diverged", "failed", "skipped", "elsewhere", "unwritable"]
    message: str = ""
    lines: tuple[str, ...] = ()
    cpu_seconds: float = 0.0
    refused: bool = False


@dataclass(frozen=True)
class Work:
    """What all runs of a command share; picklable, and called with a `Task` in a worker.

    Parameters
    ----------
    module : str
        Path of the experiment (`experiments.runs.experiment.Experiment`).
    context : callable
        ``context(device, log)`` makes the context of a run.
    device : str
        ``"auto"`` is resolved where the run is computed.
    threads : int, optional
        All cores that the worker may use when left out.
    command : str
        As recorded with every run.
    live : bool
        Progress is shown at once: the worker's stderr is the command's.
    """

    module: str
    context: Callable[[str, Callable[[str], None]], Context]
    device: str
    threads: int | None
    command: str
    live: bool = True

    def __call__(self, task: Task) -> Done:
        """Compute one run in this process, with this machine recorded."""
        from experiments.runs.machine import cores, provenance, resolve_device, settled

        device, threads = resolve_device(self.device), self.threads or cores()
        lines: list[str] = []
        context = self.context(device, say if self.live else lines.append)
        recorded = {"command": self.command, **provenance(device, threads)}
        with _interruptible(), settled(threads):
            try:
                module = Experiment(self.module)
                done = compute(task, module=module, context=context, recorded=recorded)
            except OutputError as error:  # in words: not every executor keeps an error's kind
                done = Done("unwritable", str(error))
        return dataclasses.replace(done, lines=tuple(lines))


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGINT end what runs inside; between two runs a worker does not listen to it."""
    if threading.current_thread() is not threading.main_thread():  # a worker of Dask
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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


def compute(
    task: Task,
    *,
    module: Experiment,
    context: Context,
    recorded: dict[str, Any],
    clock: Callable[[], float] = time.process_time,
) -> Done:
    """Compute ``task`` unless it is done or another process does it, and write its result.

    Parameters
    ----------
    task : Task
    module : Experiment
        Whose ``compute`` it is.
    context : Context
    recorded : dict
        Further entries of the result.
    clock : callable
        CPU seconds so far of all that computes the run: this process, unless others help it.

    Raises
    ------
    OutputError
        When the result cannot be written, which no other run would survive either.
    """
    with claims.claimed(task.path) as mine:
        if not mine:
            return Done("elsewhere")
        # Another process may have finished it between the look and the claim.
        if task.there(lambda _: None):
            return Done("skipped")
        context.log(f"[{task.number}/{task.count}] {task.path.stem}{task.left}")
        return _computed(module, task, context, recorded, clock)


def _computed(
    module: Experiment,
    task: Task,
    context: Context,
    recorded: dict[str, Any],
    clock: Callable[[], float],
) -> Done:
    from experiments.runs.machine import PeakMemory, with_seed
    from tangent.machine.bars import bars

    with_seed(int(task.run.get("seed", 0)))
    memory = PeakMemory(context.device)
    start, cpu = time.perf_counter(), clock()
    status, message = "done", None
    checkpoint = task.path.with_suffix(".ckpt")
    context = dataclasses.replace(context, checkpoint=checkpoint)
    before = _spent(checkpoint)
    try:
        # What estimators say is no result.
        with contextlib.redirect_stdout(sys.stderr), bars(watched()):
            outcome = _resumed(module, task.run, context, checkpoint)
    except UsageError as error:  # the user's own file or weights: no place in our code to show
        return Done("failed", str(error), refused=True)
    except Exception as error:
        if not _of_kind(error, "DivergenceError"):  # by name: torch may not be loaded
            context.log(traceback.format_exc())
            return Done("failed", f"{type(error).__name__}: {error}")
        status, message, outcome = "diverged", str(error), Outcome(metrics={})
        context.log(f"diverged: {error}")
    seconds = clock() - cpu
    write_result(
        task.path,
        experiment=task.name,
        run=task.run,
        outcome=outcome,
        status=status,
        message=message,
        data=task.data,
        seconds=time.perf_counter() - start,
        cpu_seconds=None if before is None else before + seconds,
        peak_memory_bytes=memory.host(),
        memory_before_bytes=memory.before,
        peak_memory_is_of_this_run=memory.own,
        peak_gpu_memory_bytes=memory.gpu(),
        dtype=context.dtype,
        **recorded,
    )
    checkpoint.unlink(missing_ok=True)
    return Done("diverged" if status == "diverged" else "computed", cpu_seconds=seconds)


def _spent(checkpoint: Path) -> float | None:
    """CPU seconds of the processes that a run goes on from; None where the file does not say."""
    if not checkpoint.exists():
        return 0.0
    from tangent.training.checkpoint import CheckpointError, load_checkpoint

    try:
        spent = load_checkpoint(checkpoint).get("cpu_seconds")
    except CheckpointError:  # the run starts anew
        return 0.0
    return None if spent is None else float(spent)


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


def _of_kind(error: Exception, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(error).__mro__)
