"""Where the runs of a command are computed: executors behind one interface.

Each is a `concurrent.futures.Executor` whose futures fail with any error where a worker is lost;
the runner then submits the run again. What workers need of a machine is the results' folder, at
the same path, and this package.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import psutil

from experiments.usage import UsageError

_GRACE = 10.0  # seconds that an interrupted worker has to put away what it holds
_LONGEST = 24 * 60  # minutes of a job; submitit's own default is five


@contextlib.contextmanager
def opened(
    kind: str, jobs: int, *, scheduler: str = "", parameters: Sequence[str] = (), folder: Path
) -> Iterator[Executor]:
    """Give an executor that ends with the block; what still runs is stopped if an error ends it.

    Parameters
    ----------
    kind : {"local", "dask", "submitit"}
    jobs : int
        Workers; for ``"submitit"``, jobs that are queued or run at a time. Dask has its own.
    scheduler : str
        Address of Dask's, ``"tcp://host:8786"`` say.
    parameters : sequence of str
        ``"name=value"`` for submitit's ``AutoExecutor``.
    folder : Path
        Where submitit keeps its logs.

    Raises
    ------
    UsageError
        When a package is not installed, or the cluster does not answer.
    """
    if kind == "dask":
        with dask(scheduler) as executor:
            yield executor
        return
    executor = Submitit(jobs, folder, parameters) if kind == "submitit" else Processes(jobs)
    try:
        yield executor
    except BaseException:
        executor.stop()
        raise
    executor.shutdown()


class _Slots(Executor, ABC):
    """So many calls at a time, each in a thread that waits for a worker's answer."""

    def __init__(self, count: int):
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="slot")
        self._stopped = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a worker call ``fn``, as soon as one is free."""
        return self._threads.submit(self._waited, functools.partial(fn, *args, **kwargs))

    def _waited(self, call: Callable[[], Any]) -> Any:
        if self._stopped:
            raise RuntimeError("the executor was stopped")
        return self._answer(call)

    @abstractmethod
    def _answer(self, call: Callable[[], Any]) -> Any:
        """What a call gives, where it is computed."""

    def stop(self) -> None:
        """End what runs; nothing that was submitted is begun any more."""
        self._stopped = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was submitted."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)


class Processes(_Slots):
    """Processes of this machine, the standard library's, spawned.

    Every worker is a pool of its own: in a pool of several the death of one ends them all, and
    with them runs that have nothing to do with it.

    Parameters
    ----------
    count : int
    """

    def __init__(self, count: int):
        super().__init__(count)
        self._mine = threading.local()
        self._pools: list[ProcessPoolExecutor] = []
        self._workers: list[psutil.Process] = []
        self._lock = threading.Lock()

    def _answer(self, call: Callable[[], Any]) -> Any:
        try:
            return self._pool().submit(call).result()
        except BrokenProcessPool as error:
            self._mine.pool.shutdown()  # when it has ended nobody holds its claims
            self._mine.pool = None
            raise BrokenProcessPool("its worker was killed or crashed") from error

    def _pool(self) -> ProcessPoolExecutor:
        """The pool of this thread, made anew where its worker has died."""
        if getattr(self._mine, "pool", None) is None:
            spawn = multiprocessing.get_context("spawn")  # a fork would share torch's threads
            pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin)
            with self._lock:
                self._pools.append(pool)
                if self._stopped:
                    pool.shutdown(wait=False)
            self._mine.pool = pool
            worker = psutil.Process(pool.submit(os.getpid).result())
            with self._lock:
                self._workers.append(worker)
        return self._mine.pool

    def stop(self) -> None:
        """Interrupt the workers, wait for their end, and kill what does not end."""
        super().stop()
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGINT)  # a terminal has done it already
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        _, alive = psutil.wait_procs(workers, timeout=_GRACE)
        for worker in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        psutil.wait_procs(alive)
        self._threads.shutdown()
        for pool in self._pools:
            pool.shutdown()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what was submitted, then end the workers."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        for pool in self._pools:
            pool.shutdown(wait)


def _begin() -> None:
    """Set a worker up: it ends with its command, and is interrupted in a run only."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # at once, as a killed command did

    threading.Thread(target=watch, daemon=True, name="parent").start()


class Submitit(_Slots):
    """Jobs of a cluster, SLURM's where ``sbatch`` is there, through submitit.

    Parameters
    ----------
    count : int
        Jobs that are queued or run at a time.
    folder : Path
        On a file system that the nodes share; keeps the jobs' logs.
    parameters : sequence of str
        ``"name=value"``: ``cluster=local`` for processes of this machine, and what
        ``AutoExecutor.update_parameters`` takes, ``timeout_min=60 slurm_partition=gpu`` say.

    Raises
    ------
    UsageError
        When submitit is not installed, or does not take the parameters.
    """

    def __init__(self, count: int, folder: Path, parameters: Sequence[str] = ()):
        try:
            import submitit
        except ImportError as error:
            raise UsageError(_missing("submitit")) from error
        given = _values(parameters)
        cluster = given.pop("cluster", None)
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster)
            self._executor.update_parameters(**{"timeout_min": _LONGEST, **given})
        except Exception as error:  # assertions, type and name errors of submitit's own
            raise UsageError(f"--job-parameters {' '.join(parameters)}: {error}") from error
        super().__init__(count)
        self._jobs: list[Any] = []
        self._lock = threading.Lock()

    def _answer(self, call: Callable[[], Any]) -> Any:
        with self._lock:  # its files are named by what it counts
            job = self._executor.submit(call)
            self._jobs.append(job)
        return job.result()

    def stop(self) -> None:
        """Cancel the jobs that wait or run."""
        super().stop()
        with self._lock:
            for job in self._jobs:
                if not job.done():
                    job.cancel(check=False)
        self._threads.shutdown()


def _values(parameters: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for word in parameters:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--job-parameters are NAME=VALUE; got {word!r}")
        given[name] = int(value) if value.isdigit() else value
    return given


@contextlib.contextmanager
def dask(address: str) -> Iterator[Executor]:
    """Give the executor of a Dask cluster that is there already.

    Its workers must have one thread each (``dask worker ADDRESS --nthreads 1``): a run sets seeds
    and threads of its whole process. A run that is under way when an error ends the block goes on
    in its worker, and its result is kept.

    Raises
    ------
    UsageError
        When there is no scheduler at ``address``, or a worker has several threads.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(_missing("dask")) from error
    try:
        client = Client(address, timeout=30)
    except (OSError, ValueError) as error:
        raise UsageError(f"--scheduler {address} does not answer ({error})") from error
    with client:
        if any(threads > 1 for threads in client.nthreads().values()):
            raise UsageError(
                f"the workers of {address} must have one thread each: start them with --nthreads 1"
            )
        executor = client.get_executor(pure=False)
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False)
            raise
        executor.shutdown()


def _missing(extra: str) -> str:
    return f"--executor {extra} needs more packages: pip install 'tangent-lazy[{extra}]'"
