"""The processes that ``torchrun`` starts, computing one command between them.

Runs of networks are trained by all of them together, every process with its share of each batch;
the other runs are shared out, one at a time to whoever is free. The first process alone writes
what is trained together, draws and says what became of it; a run that was shared out is written
by the process that computed it.

A run fails when it fails in any process. Where the others cannot learn of that, since they wait
for the failed one inside the run, the failed one ends, and torchrun ends them all; started again,
the command goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.runs import runner
from experiments.runs.experiment import Experiment
from experiments.runs.pack import Stamp
from experiments.runs.results import Context, Outcome
from experiments.runs.tasks import Done, Task, compute
from experiments.usage import UsageError

if TYPE_CHECKING:
    from torch.distributed import Store

_GRACE = 120.0  # seconds that a failed process waits for the others to fail, too
_FOREVER = timedelta(days=365)  # a dead process is noticed by its connection, not by a clock


@dataclass
class Processes:
    """The processes of ``torchrun``, seen from number ``rank`` of ``size``.

    Parameters
    ----------
    rank, size : int
    store : torch.distributed.Store
        torchrun's own: it lives as long as any of them.
    """

    rank: int
    size: int
    store: Store
    _rounds: int = field(default=0, init=False)

    def told(self, message: Any = None) -> Any:
        """Give the ``message`` of the first process; all wait for it."""
        import torch.distributed as dist

        messages = [message]
        dist.broadcast_object_list(messages, 0)
        return messages[0]

    def gathered(self, one: Any) -> list[Any]:
        """What every process brings, in order; all wait for each other."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, one)
        return found

    def turns(self, count: int) -> Iterator[int]:
        """Give the numbers below ``count``, each to one process: the next to whoever asks."""
        self._rounds += 1
        key = f"turns {self._rounds}"
        while (number := self.store.add(key, 1) - 1) < count:
            yield number

    def agreed(self, call: Callable[[], Any], log: Callable[[str], None]) -> tuple[Any, float]:
        """Call in all processes, and wait for all.

        Returns
        -------
        answer
            Of this process.
        cpu_seconds : float
            Of the other processes.

        Raises
        ------
        Exception
            What ``call`` raised here; a RuntimeError where it failed in another process.
        SystemExit
            When it failed and the others do not come out of it.
        """
        self._rounds += 1
        answer, error, begun = None, None, time.process_time()
        try:
            answer = call()
        except Exception as raised:
            error = raised
        said = "" if error is None else f"{type(error).__name__}: {error}"
        cpu_seconds = time.process_time() - begun
        found = self._outcomes(said, cpu_seconds, _FOREVER if error is None else _seconds(_GRACE))
        if found is None:
            log("".join(traceback.format_exception(error)))
            log(f"process {self.rank} failed, and the others wait for it: all end")
            raise SystemExit(1)
        if error is not None:
            raise error
        for rank, (words, _) in enumerate(found):
            if words:
                raise RuntimeError(f"it failed in process {rank}: {words}")
        return answer, sum(seconds for _, seconds in found) - cpu_seconds

    def _outcomes(
        self, said: str, cpu_seconds: float, timeout: timedelta
    ) -> list[tuple[str, float]] | None:
        """What became of this round in every process; None if that is not to be learnt."""
        name, ended = f"outcome {self._rounds} of ", f"ended {self._rounds}"
        self.store.set(name + str(self.rank), json.dumps([said, cpu_seconds]))
        keys = [name + str(rank) for rank in range(self.size)]
        with contextlib.suppress(RuntimeError):  # its time is up, or the store is gone
            self.store.wait(keys, timeout)
            # Of two that failed the first may have given up before it was freed the other.
            if not (said and self.store.check([ended])):
                return [json.loads(self.store.get(key)) for key in keys]
        with contextlib.suppress(RuntimeError):
            self.store.set(ended, "")
        return None


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


@functools.lru_cache
def joined(device: str) -> Processes:
    """Meet the other processes of torchrun; once for all commands of this process.

    Parameters
    ----------
    device : str
        "cpu", or this process's own "cuda:N".
    """
    import torch.distributed as dist

    store, rank, size = next(dist.rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    store.set_timeout(_FOREVER)
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("group", store),
        rank=rank,
        world_size=size,
        timeout=_FOREVER,
    )
    return Processes(rank, size, dist.PrefixStore("runs", store))


def left() -> None:
    """Part from the other processes, if they were met; all wait for each other."""
    if joined.cache_info().currsize:
        import torch.distributed as dist

        joined.cache_clear()
        dist.barrier()  # gloo aborts a process whose peer left first
        dist.destroy_process_group()


@dataclass
class _Leader:
    """An experiment whose runs the first process computes with all others.

    Attributes
    ----------
    cpu_seconds : float
        Of the others, so far.
    """

    module: Experiment
    processes: Processes
    cpu_seconds: float = 0.0

    def compute(self, run: dict[str, Any], context: Context) -> Outcome:
        """Have all processes compute a run; the outcome is this one's."""
        self.processes.told((run, context.checkpoint))
        here = functools.partial(
            self.module.compute, run, dataclasses.replace(context, distributed=True)
        )
        outcome, cpu_seconds = self.processes.agreed(here, context.log)
        self.cpu_seconds += cpu_seconds
        return outcome

    def clock(self) -> float:
        """CPU seconds of all processes for what they did together."""
        return time.process_time() + self.cpu_seconds


def _follow(module: Experiment, processes: Processes, context: Context) -> None:
    """Compute what the first process says, with it, and write nothing."""
    from experiments.runs.machine import with_seed

    silent = dataclasses.replace(context, distributed=True, writes=False, log=lambda _: None)
    while (asked := processes.told()) is not None:
        run, checkpoint = asked
        here = dataclasses.replace(silent, checkpoint=checkpoint)
        with_seed(int(run.get("seed", 0)))
        # Warnings and failures are the first process's to tell, and the next run may do.
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            processes.agreed(functools.partial(module.compute, run, here), context.log)


def execute(
    plan: runner.Plan,
    processes: Processes,
    *,
    module: Experiment,
    context: Context,
    recorded: dict[str, Any],
    stale: Mapping[Path, Stamp],
) -> runner.Report:
    """Have the runs of ``plan`` computed by all processes; what became of them, in each.

    Parameters
    ----------
    plan : Plan
        The same in all processes.
    processes : Processes
    module : Experiment
        Its ``distributed(run)``, where there is one, says which runs are trained together.
    context : Context
    recorded : dict
        Provenance of this process.
    stale : mapping
        As of `experiments.runs.runner.execute`.

    Raises
    ------
    UsageError
        When the processes have different plans: other data, say.
    OutputError
        When a result cannot be written.
    """
    if len({tuple(names) for names in processes.gathered([p.name for p in plan.paths])}) > 1:
        raise UsageError(
            "the processes of torchrun would compute different runs: give all of them the same "
            "command and the same data"
        )
    report, tasks = runner.Report(), runner.tasks_of(plan, stale)
    there = [processes.rank == 0 and task.there(context.log) for task in tasks]
    there = processes.told(there)  # one has looked, so that all lists are the same
    if processes.rank == 0:
        report.skipped = [t.path for t, done in zip(tasks, there, strict=True) if done]
    missing = [task for task, done in zip(tasks, there, strict=True) if not done]
    shared = getattr(module, "distributed", lambda run: False)
    with runner.swept(plan) as countdown:
        all_do = functools.partial(runner.compute_all, log=context.log, countdown=countdown)
        if together := [task for task in missing if shared(task.run)]:
            if processes.rank == 0:
                work = _led(processes, module, context, recorded)
                all_do(together, work, report=report)
                processes.told(None)
            else:
                _follow(module, processes, context)
        work = functools.partial(compute, module=module, context=context, recorded=recorded)
        alone = [task for task in missing if not shared(task.run)]
        all_do(alone, work, report=report, turns=processes.turns)
    whole = runner.Report()
    for found in processes.gathered(report):
        whole.add(found)
    return whole


def _led(
    processes: Processes, module: Experiment, context: Context, recorded: dict[str, Any]
) -> Callable[[Task], Done]:
    """What computes a task in the first process, with all others."""
    leader: Any = _Leader(module, processes)
    recorded = {**recorded, "processes": processes.size}
    return functools.partial(
        compute, module=leader, context=context, recorded=recorded, clock=leader.clock
    )
