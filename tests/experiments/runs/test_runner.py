"""Runs are computed once, in any order, by any number of processes, and go on after a stop."""

from __future__ import annotations

import functools
import io
import json
import sys
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack

import pytest

from experiments.files import OutputError
from experiments.runs import claims, runner, tasks
from experiments.runs.results import Context, ResultError, read_result


@pytest.fixture
def log():
    return []


@pytest.fixture
def go(toy, tmp_path, log, monkeypatch):
    """``go(1, 2, 3)`` runs the toy on these numbers; gives the plan and the report."""

    def load(name):
        raise AssertionError("the toy has no data")

    monkeypatch.setenv("TOY_COUNTER", str(tmp_path / "computed"))
    context = Context("cpu", "float32", load, log.append)

    def _go(*numbers, **options):
        settings = toy.Settings(numbers)
        plan = runner.plan(toy, "toy", "smoke", settings, tmp_path / "out", context)
        recorded = options.pop("recorded", {})
        work = functools.partial(tasks.compute, module=toy, context=context, recorded=recorded)
        return plan, runner.execute(plan, work, log.append, **options)

    return _go


@pytest.fixture
def computed(tmp_path):
    """The numbers computed so far, in order."""

    def _computed():
        path = tmp_path / "computed"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    return _computed


def metrics(plan):
    return [read_result(path)["metrics"] for path in plan.paths]


def test_runs_are_written_with_all_that_is_recorded(go):
    plan, report = go(3, recorded={"command": "the command"})
    assert report.computed == plan.paths
    document = read_result(plan.paths[0])
    assert document["run"] == {"number": 3, "seconds": 0.0}
    assert document["metrics"]["square"] == 9
    assert document["metrics"]["nothing"] is None
    assert document["curves"]["powers"] == [1, 3, 9, 27]
    assert document["command"] == "the command"
    assert document["seconds"] > 0
    assert document["cpu_seconds"] > 0
    assert document["peak_memory_bytes"] > 2**20
    assert document["dtype"] == "float32"
    assert sorted(p.name for p in plan.paths[0].parent.iterdir()) == sorted(
        [plan.paths[0].name, plan.paths[0].with_suffix(".npz").name]
    )


def test_a_run_shows_how_far_it_is_on_a_terminal_only(go, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    go(1)
    assert "power" not in sys.stderr.getvalue()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    go(2)
    assert "power:" in sys.stderr.getvalue()


def test_a_finished_run_is_not_computed_again_unless_forced(go, computed):
    go(1, 2)
    plan, report = go(1, 2, 3)
    assert computed() == [1, 2, 3]
    assert report.skipped == plan.paths[:2]
    stale = runner.stamps(plan)
    go(1, 2, 3, stale=stale)
    assert computed() == [1, 2, 3, 1, 2, 3]
    go(1, 2, 3, stale=stale)  # what is there now is not what the stamps are of
    assert computed() == [1, 2, 3, 1, 2, 3]


def test_a_run_gives_the_same_numbers_alone_and_after_others(go):
    plan, _ = go(1, 2, 3)
    first = metrics(plan)
    plan.paths[1].unlink()
    go(2)
    assert metrics(plan) == first


@pytest.mark.parametrize("damage", ["json", "empty", "npz", "no npz", "digit", "name", "nested"])
def test_a_damaged_result_is_named_and_computed_again(go, computed, log, damage):
    plan, _ = go(1, 2, 3)
    first = metrics(plan)
    path = plan.paths[1]
    if damage == "json":
        path.write_text(path.read_text()[:200])
    elif damage == "empty":
        path.write_text("")
    elif damage == "npz":
        path.with_suffix(".npz").write_bytes(b"PK")
    elif damage == "digit":
        path.write_text(path.read_text().replace('"square": 4', '"square": 5'))
    elif damage == "name":
        path.write_text(plan.paths[0].read_text())
    elif damage == "nested":
        path.write_text("[" * 10**5)
    else:
        path.with_suffix(".npz").unlink()
    go(1, 2, 3)
    assert computed() == [1, 2, 3, 2]
    assert any(path.stem in line and "computed again" in line for line in log)
    assert metrics(plan) == first


def test_a_failing_run_is_listed_and_the_others_go_on(go):
    plan, report = go(1, 13, 2)
    assert report.computed == [plan.paths[0], plan.paths[2]]
    assert report.failed == [(plan.paths[1], "RuntimeError: thirteen does not work")]
    assert not plan.paths[1].exists()


def test_a_diverged_run_is_kept_with_no_numbers(go, computed):
    plan, report = go(14, 2)
    assert report.diverged == plan.paths[:1]
    document = read_result(plan.paths[0])
    assert document["status"] == "diverged"
    assert document["metrics"] == {}
    assert document["message"] == "loss is inf at step 3"
    go(14, 2)
    assert computed() == [14, 2]


def test_an_interrupted_run_leaves_nothing_and_the_restart_ends_the_same(
    go, toy, computed, monkeypatch
):
    plan, _ = go(1, 2, 3)
    straight = metrics(plan)
    for path in plan.paths:
        path.unlink()
    compute = toy.compute

    def interrupted(run, context):
        if run["number"] == 2:
            raise KeyboardInterrupt
        return compute(run, context)

    monkeypatch.setattr(toy, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(1, 2, 3)
    assert [p.suffix for p in plan.paths[0].parent.glob("*.claim")] == []
    assert [path.exists() for path in plan.paths] == [True, False, False]
    monkeypatch.setattr(toy, "compute", compute)
    _, report = go(1, 2, 3)
    assert report.skipped == plan.paths[:1]
    assert metrics(plan) == straight


def test_a_run_that_another_process_computes_is_left_to_it(go, computed, log, monkeypatch):
    plan, _ = go(1, 2)
    content = plan.paths[0].read_bytes()
    plan.paths[0].unlink()

    def other_finishes(path):
        path.write_bytes(content)
        held.close()

    monkeypatch.setattr(claims, "wait_for", other_finishes)
    held = claims.claimed(plan.paths[0])
    held.close = lambda: held.__exit__(None, None, None)
    assert held.__enter__()
    plan, report = go(1, 2, 3)
    assert computed() == [1, 2, 3]
    assert report.computed == [plan.paths[2]]
    assert report.skipped == [plan.paths[1], plan.paths[0]]
    assert any(line.startswith("waiting for") for line in log)


def test_a_run_whose_process_died_is_taken_over(go, computed, monkeypatch):
    plan, _ = go(1, 2)
    plan.paths[0].unlink()
    held = claims.claimed(plan.paths[0])
    assert held.__enter__()
    monkeypatch.setattr(claims, "wait_for", lambda path: held.__exit__(None, None, None))
    go(1, 2)
    assert computed() == [1, 2, 1]


def test_a_forced_run_waits_for_the_process_that_computes_it(go, computed, log, monkeypatch):
    plan, _ = go(1, 2)
    stale = runner.stamps(plan)
    wait_for = claims.wait_for
    with ExitStack() as other:
        assert other.enter_context(claims.claimed(plan.paths[0]))

        def gives_up(path):  # the other process ends while it is waited for
            other.close()
            wait_for(path)

        monkeypatch.setattr(claims, "wait_for", gives_up)
        go(1, 2, stale=stale)  # the old result is there all the time
    assert computed() == [1, 2, 2, 1]
    assert sum(line.startswith("waiting for") for line in log) == 1


class Lossy(Executor):
    """Computes here; the first so many calls of a number lose their worker."""

    def __init__(self, losses):
        self.losses = dict(losses)

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        (task,) = args
        if self.losses.get(task.run["number"], 0):
            self.losses[task.run["number"]] -= 1
            future.set_exception(BrokenProcessPool("gone"))
        else:
            future.set_result(fn(task))
        return future


def test_the_run_of_a_lost_worker_is_submitted_again(go, computed, log):
    plan, report = go(1, 2, 3, executor=Lossy({2: 2}))
    assert computed() == [1, 3, 2]
    assert sorted(report.computed) == sorted(plan.paths)
    assert sum("its worker was lost" in line and "run again" in line for line in log) == 2


def test_a_run_that_loses_every_worker_is_a_failure_after_three(go, computed):
    executor = Lossy({2: 9})
    plan, report = go(1, 2, 3, executor=executor)
    assert computed() == [1, 3]
    ((path, reason),) = report.failed
    assert path == plan.paths[1]
    assert reason == "its worker was lost each time (BrokenProcessPool: gone)"
    assert executor.losses == {2: 6}


def test_a_full_disk_of_a_worker_stops_all_runs(go, toy, tmp_path, log):
    class Full(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.set_result(tasks.Done("unwritable", "cannot write there"))
            return future

    with pytest.raises(OutputError, match="cannot write there"):
        go(1, 2, executor=Full())


def test_two_paths_are_never_the_same(go):
    plan, _ = go(*range(1, 8))
    assert len(set(plan.paths)) == 7


def test_a_full_disk_stops_all_runs_and_leaves_nothing(go, computed, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("experiments.files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device; make room"):
        go(1, 2)
    assert computed() == [1]


def test_drawing_uses_the_runs_of_its_study_only(go, toy, tmp_path):
    go(1, 2, 3)
    plan, _ = go(2, 5)
    study = runner.save_study(plan, tmp_path / "out")
    paths = runner.draw_study(toy, study)
    assert (study.folder / "toy.csv") in paths
    assert (study.folder / "toy.csv").read_text() == "number,square\n2,4\n5,25\n"


def test_a_study_is_found_again(go, toy, tmp_path):
    plan, _ = go(2, 5)
    saved = runner.save_study(plan, tmp_path / "out")
    (found,) = runner.studies(tmp_path / "out", "toy")
    assert found == saved
    assert found.settings["numbers"] == [2, 5]
    (saved.folder / "study.json").write_text(json.dumps({"runs": []})[:-3])
    with pytest.raises(ResultError, match=r"study\.json cannot be read"):
        runner.studies(tmp_path / "out", "toy")


@pytest.mark.parametrize(
    ("old", "new"), [('"sha256"', '"sha257"'), ('"runs"', '"runz"'), ("2,\n   5", "2,\n   4")]
)
def test_a_changed_study_is_named_and_one_without_a_digest_is_read(go, toy, tmp_path, old, new):
    plan, _ = go(2, 5)
    path = runner.save_study(plan, tmp_path / "out").folder / "study.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ResultError, match=r"study\.json cannot be read"):
        runner.studies(tmp_path / "out", "toy")
    document = json.loads(text)
    del document["sha256"]  # as earlier versions wrote it
    path.write_text(json.dumps(document))
    assert len(runner.studies(tmp_path / "out", "toy")) == 1
