"""Experiments under torchrun: two processes end with what one ends with, and write it once."""

from __future__ import annotations

import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.command import cli, registry
from experiments.data.datasets import load_dataset
from experiments.runs.results import Context, read_result
from experiments.usage import process_number, say, under_torchrun

ROOT = Path(__file__).parents[3]
_HANG = 900  # seconds: a bound against hangs, on a machine however busy


@pytest.fixture
def torchrun(tmp_path):
    """``torchrun(module, *words)`` starts two processes and gives what has become of them."""
    counter = tmp_path / "computed"
    counter.touch()

    def _torchrun(module, *words, processes=2, **environment):
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", str(processes), "-m", module]
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOY_COUNTER": str(counter)}
        return subprocess.run(
            [sys.executable, *launcher, *map(str, words)],
            env={**os.environ, **own, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=_HANG,
        )

    return _torchrun


def results(out):
    found = {path.name: read_result(path) for path in out.glob("*/runs/*.json")}
    return {name: found[name] for name in sorted(found)}


def leftovers(out):
    kinds = {".json", ".npz"}
    return [p for p in out.glob("*/runs/*") if p.suffix not in kinds or p.name.startswith(".")]


def close(one, two):
    """Whether two values of results are the same to 1e-5."""
    if isinstance(one, list):
        return len(one) == len(two) and all(map(close, one, two))
    if isinstance(one, float) and isinstance(two, float | int):
        return math.isclose(one, two, rel_tol=1e-5, abs_tol=1e-7)
    return one == two


NETWORKS = shlex.split("""fig3b --preset smoke --dtype float64 --seeds 0 --device cpu --threads 1
    --methods vgg11 vgg11-lazy gaussian
    --vgg11-lazy-lr held-out --rate-fractions 0.05 0.1 --trial-epochs 1""")


@pytest.mark.timeout(2 * _HANG)
def test_two_processes_of_torchrun_compute_what_one_does(tmp_path, torchrun, capsys):
    done = torchrun("experiments", *NETWORKS, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Figure 3(b)") == 1  # one process draws and shows
    assert cli.run([*NETWORKS, "--out", f"{tmp_path}/one"]) == 0
    two, one = results(tmp_path / "two"), results(tmp_path / "one")
    assert list(two) == list(one)
    assert len(two) == 3
    for name, found in two.items():
        network = "epochs" in found["run"]
        assert found.get("processes") == (2 if network else None)
        timeless = {k for k in found["metrics"] if "seconds" not in k}
        for kind in ("metrics", "curves"):
            for key in timeless & one[name][kind].keys() if kind == "metrics" else found[kind]:
                expected, value = one[name][kind][key], found[kind][key]
                assert close(value, expected), f"{name}: {key} is {value}, not {expected}"
    assert not leftovers(tmp_path / "two")


@pytest.mark.timeout(_HANG + 60)
def test_runs_are_shared_out_and_trained_together_and_failures_are_told(tmp_path, torchrun):
    numbers = [1, 2, 3, 13, 21, 22, 23, 24]
    words = ["sums", "--numbers", *numbers, "--out", tmp_path / "out"]
    done = torchrun("tests.experiments.toy_distributed", *words)
    assert done.returncode == 1, done.stderr[-3000:]
    lines = (tmp_path / "computed").read_text().split()
    computed = sorted(tuple(map(int, line.split(":"))) for line in lines)  # number, rank, rows
    together = [(n, rank, (n + 2 - rank) // 2) for n in (21, 22, 23, 24) for rank in (0, 1)]
    assert [line for line in computed if line[0] >= 20] == together
    alone = [(number, rows) for number, _, rows in computed if number < 20]
    assert alone == [(1, 2), (2, 3), (3, 4), (13, 14)]
    found = {r["run"]["number"]: r for r in results(tmp_path / "out").values()}
    assert sorted(found) == [1, 2, 3, 21, 22]
    rng = np.random.RandomState(3)
    noise = rng.rand()
    for number, result in found.items():
        assert result["metrics"] == {"sum": number * (number + 1) / 2, "noise": noise}
    said = done.stderr
    assert "5 runs computed, 0 were finished before" in said
    assert "3 runs failed; the same command tries them again" in said
    assert "RuntimeError: 13 does not work" in said
    assert "RuntimeError: 23 does not work" in said
    assert "RuntimeError: it failed in process 1: RuntimeError: not in this process" in said
    assert "[5/8] " in said
    assert done.stdout.count("Sums") == 1
    assert not leftovers(tmp_path / "out")


@pytest.mark.timeout(2 * _HANG)
def test_a_failure_that_the_others_wait_for_ends_all(tmp_path, torchrun, monkeypatch):
    words = ["sums", "--numbers", 25, 21, 1, "--out", tmp_path / "out"]
    module = "tests.experiments.toy_distributed"
    done = torchrun(module, *words, TOY_FAIL="1")
    assert done.returncode == 1
    assert "RuntimeError: while the other waits" in done.stderr
    assert "process 1 failed, and the others wait for it: all end" in done.stderr
    assert "runs computed" not in done.stderr
    assert results(tmp_path / "out") == {}
    monkeypatch.setitem(registry.EXPERIMENTS, "sums", "tests.experiments.toy_distributed")
    monkeypatch.setenv("TOY_COUNTER", str(tmp_path / "computed"))
    assert cli.run([*map(str, words), "--threads", "1"]) == 0  # one process goes on from there
    found = {r["run"]["number"]: r["metrics"]["sum"] for r in results(tmp_path / "out").values()}
    assert found == {25: 325, 21: 231, 1: 1}
    assert not leftovers(tmp_path / "out")


@pytest.mark.parametrize("name", ["fig3a", "fig3b"])
def test_networks_are_trained_by_all_processes(name):
    module = registry.experiment(name)
    run, *_ = module.runs(module.PRESETS["smoke"])
    assert module.distributed(run)
    context = Context("cpu", "float32", load_dataset, print, distributed=True)
    with pytest.raises(RuntimeError, match=r"torch\.distributed is not initialized"):
        module.compute(run, context)


def test_what_is_no_training_is_shared_out():
    module = registry.experiment("fig3b")
    methods = ("gaussian", "scattering", "random-features", "vgg11-exact")
    assert not any(map(module.distributed, module.runs(module.Settings(methods=methods))))


@pytest.fixture
def second(monkeypatch):
    """This process says that it is number 1 of two."""
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)


def test_the_first_process_alone_shows(second, capsys):
    for words in (["list"], ["--help"], ["fig1", "--help"], ["fig1", "--dry-run"], ["report"], []):
        assert cli.run(words) == 0
    assert capsys.readouterr() == ("", "")


def test_a_process_says_its_number(second, capsys):
    say("hello")
    assert capsys.readouterr().err == "process 1: hello\n"
    assert process_number() == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--jobs", "2"], "leave --jobs and --executor out"),
        (["--download"], "fetch without torchrun"),
    ],
)
def test_what_does_not_go_with_torchrun_is_wrong_usage(second, tmp_path, capsys, option, message):
    assert cli.run(["fig3a", *option, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_one_process_of_torchrun_is_as_without(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not under_torchrun()
