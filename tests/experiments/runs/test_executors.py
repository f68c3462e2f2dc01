"""Executors compute what one process computes, and what a dead worker left is done again."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from experiments.command import cli
from experiments.runs import executors
from experiments.runs.results import read_result
from experiments.usage import UsageError
from tests.processes import cluster, server

NUMBERS = (1, 13, 14, 16)  # 13 fails, 14 diverges, 16 kills its first worker
_HANG = 800  # seconds: a bound against hangs


def _begin(environment, errors, begin=executors._begin):
    """Set up a worker that comes from a server, which has an environment of its own."""
    os.environ |= environment
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    begin()


def words(out, *more):
    return ["toy", "--numbers", *map(str, NUMBERS), "--out", str(out), "--threads", "1", *more]


def numbers_in(out: Path) -> dict[str, dict]:
    """Everything of the results that is not of the machine or the clock."""
    kept = ("run", "status", "metrics", "curves", "arrays", "dtype")
    found = {path.name: read_result(path) for path in (out / "toy" / "runs").glob("*.json")}
    return {name: {key: one[key] for key in kept} for name, one in found.items()}


@pytest.fixture
def counter(tmp_path, monkeypatch):
    """Where the toy's runs, in whatever process, say that they begin."""
    monkeypatch.setenv("TOY_COUNTER", str(tmp_path / "computed"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[3]), *sys.path]))
    return tmp_path / "computed"


@pytest.fixture
def alone(toy, tmp_path, counter):
    """What the command computes in its own process."""
    counter.write_text("dead-16\n")  # number 16 has no worker to kill
    assert cli.run(words(tmp_path / "alone")) == 1
    counter.write_text("")
    return numbers_in(tmp_path / "alone")


def check(out, alone, counter, said, *, once=True):
    """Same numbers as alone; every failure and line of progress came back; 16 ran twice.

    Without ``once`` other runs may have begun twice too: a worker of Dask that dies takes the
    answers with it that were not fetched yet.
    """
    assert numbers_in(out) == alone
    # In its traceback, and at the end.
    assert said.count("RuntimeError: thirteen does not work") == 2
    assert "1 runs failed; the same command tries them again" in said
    assert sum(line.startswith("diverged: /") for line in said.splitlines()) == 1
    for number in range(1, 5):
        assert f"[{number}/4] " in said
    begun = counter.read_text().split()
    counts = [begun.count(str(n)) for n in NUMBERS]
    assert counts == [1, 1, 1, 2] if once else min(counts) >= 1 and counts[-1] >= 2
    if once:
        assert "3 runs computed, 0 were finished before" in said
    assert not list(out.rglob("*.claim"))


def test_processes_compute_what_one_process_does(alone, counter, tmp_path, capsys, monkeypatch):
    # Spawned ones, which import torch anew, share the runs of `experiments.command.test_cli`.
    context, errors = server(), tmp_path / "errors"
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(executors, "_begin", partial(_begin, {"TOY_COUNTER": str(counter)}, errors))
    capsys.readouterr()
    assert cli.run(words(tmp_path / "out", "--jobs", "2")) == 1
    check(tmp_path / "out", alone, counter, errors.read_text() + capsys.readouterr().err)


def test_dask_computes_what_one_process_does(alone, counter, tmp_path, capsys):
    pytest.importorskip("distributed")
    with cluster(TOY_COUNTER=str(counter)) as workers:
        dask = ("--executor", "dask", "--scheduler", workers.scheduler_address)
        capsys.readouterr()
        assert cli.run(words(tmp_path / "out", *dask)) == 1
    check(tmp_path / "out", alone, counter, capsys.readouterr().err, once=False)


@pytest.fixture
def without_torch(counter, tmp_path, monkeypatch):
    """New interpreters begin as `tests.experiments.toy_command`, without torch."""
    (tmp_path / "sitecustomize.py").write_text("import tests.experiments.toy_command\n")
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    monkeypatch.setenv("PYTHONPATH", path)


def test_submitit_computes_what_one_process_does(alone, without_torch, counter, tmp_path, capsys):
    pytest.importorskip("submitit")
    local = ("--executor", "submitit", "--job-parameters", "cluster=local", "timeout_min=60")
    capsys.readouterr()
    assert cli.run(words(tmp_path / "out", *local, "--jobs", "2")) == 1
    said = capsys.readouterr().err
    check(tmp_path / "out", alone, counter, said)
    assert "its worker was lost (UncompletedJobError" in said


def test_workers_of_dask_with_several_threads_are_wrong_usage(monkeypatch):
    distributed = pytest.importorskip("distributed")

    class Client:
        def __init__(self, address, timeout):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def nthreads(self):
            return {"a": 1, "b": 4}

    monkeypatch.setattr(distributed, "Client", Client)
    with pytest.raises(UsageError, match="start them with --nthreads 1"), executors.dask("tcp://a"):
        pass


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["cluster=nowhere"], "AutoExecutor doesn't know any executor named nowhere"),
        (["cluster=local", "colour=blue"], "colour"),
        (["cluster"], "--job-parameters are NAME=VALUE; got 'cluster'"),
    ],
)
def test_wrong_parameters_of_jobs_are_named(tmp_path, parameters, message):
    pytest.importorskip("submitit")
    with pytest.raises(UsageError, match=message):
        executors.Submitit(1, tmp_path, parameters)


def test_no_scheduler_is_wrong_usage(monkeypatch):
    distributed = pytest.importorskip("distributed")

    def silent(address, **options):
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", silent)
    with (
        pytest.raises(UsageError, match="--scheduler tcp://nowhere:1 does not answer"),
        executors.dask("tcp://nowhere:1"),
    ):
        pass


@pytest.mark.parametrize(("package", "extra"), [("distributed", "dask"), ("submitit", "submitit")])
def test_a_missing_package_is_wrong_usage(monkeypatch, tmp_path, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with (
        pytest.raises(UsageError, match=rf"pip install 'tangent-lazy\[{extra}\]'"),
        executors.opened(extra, 1, scheduler="tcp://a:1", folder=tmp_path),
    ):
        pass


def _pid_and_wait(path):
    """Say that it has begun, and stay."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(_HANG)


def test_an_error_ends_the_processes_that_compute(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "_GRACE", 0.1)  # outside a run a worker heeds no interrupt
    started = tmp_path / "pid"
    with contextlib.suppress(KeyError), executors.opened("local", 2, folder=tmp_path) as executor:
        future = executor.submit(_pid_and_wait, started)
        while not (started.exists() and started.read_text()):
            time.sleep(0.02)
        raise KeyError("stop")
    assert future.done()
    assert not psutil.pid_exists(int(started.read_text()))


def test_a_worker_that_dies_takes_no_other_run_with_it(tmp_path):
    started = tmp_path / "pid"
    with executors.opened("local", 2, folder=tmp_path) as executor:
        dies = executor.submit(_pid_and_wait, started)
        lives = executor.submit(_until, str(tmp_path / "now"))
        while not (started.exists() and started.read_text()):
            time.sleep(0.02)
        os.kill(int(started.read_text()), signal.SIGKILL)
        with pytest.raises(Exception, match="its worker was killed or crashed"):
            dies.result(_HANG)
        (tmp_path / "now").touch()
        assert lives.result(_HANG) == "done"
        assert executor.submit(os.getpid).result(_HANG) != int(started.read_text())


def _until(path):
    while not Path(path).exists():
        time.sleep(0.02)
    return "done"


def test_slots_that_are_stopped_begin_nothing():
    begun, entered, gate = [], threading.Event(), threading.Event()

    class Held(executors._Slots):
        def _answer(self, call):
            begun.append(call)
            entered.set()
            gate.wait(_HANG)

    slots = Held(1)
    first, second = slots.submit(print), slots.submit(print)
    assert entered.wait(_HANG)
    slots.stop()
    gate.set()
    first.result(_HANG)
    assert second.cancelled()
    assert len(begun) == 1
