"""What is recorded of the machine, and the settings of the process."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import torch

from experiments.runs import machine
from experiments.usage import UsageError


def test_every_run_has_a_peak_of_its_own():
    first = machine.PeakMemory()
    if not first.own:
        pytest.skip("this system has no high-water mark that can be reset")
    block = np.ones(64 * 2**20, dtype=np.uint8)
    large = first.host()
    assert large - first.before > 60 * 2**20
    del block
    second = machine.PeakMemory()
    assert second.host() < large - 50 * 2**20


def test_where_the_mark_cannot_be_reset_the_peak_is_that_of_the_process(monkeypatch):
    monkeypatch.setattr(machine, "_status", lambda entry: None)
    memory = machine.PeakMemory()
    assert not memory.own
    assert memory.before is None
    assert memory.host() > 2**20
    assert memory.gpu() is None


def test_settings_hold_inside_and_are_given_back():
    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    with machine.settled(2):
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


def test_threads_follow_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.cores() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= machine.cores() <= 4096


def test_a_seed_reaches_the_global_generators():
    drawn = []
    for seed in (3, 3, 4):
        machine.with_seed(seed)
        drawn.append((float(torch.rand(1)), float(np.random.rand())))  # noqa: NPY002
    assert drawn[0] == drawn[1] != drawn[2]


def test_devices_are_resolved():
    assert machine.resolve_device("cpu") == "cpu"
    assert machine.resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UsageError, match=r"--device 'gpu' cannot be used \(.*\); take auto"):
        machine.resolve_device("gpu")


def test_provenance_names_versions_processor_and_commit():
    machine._fixed.cache_clear()
    about = machine.provenance("cpu", 2)
    assert about["versions"]["numpy"] == np.__version__
    assert about["threads"] == 2
    assert about["device"] == "cpu"
    assert about["cpu"]
    commit = machine._git("rev-parse", "HEAD")
    if commit is not None:
        assert about["commit"].removesuffix("-modified") == commit


def test_a_change_anywhere_in_the_checkout_marks_the_commit(monkeypatch, tmp_path):
    (tmp_path / "experiments" / "runs").mkdir(parents=True)
    (tmp_path / "tangent").mkdir()
    kernel = tmp_path / "tangent" / "kernel.py"
    kernel.write_text("a = 1\n")
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "experiments" / "runs" / "machine.py"))
    clean = machine._commit()
    assert clean is not None
    assert not clean.endswith("-modified")
    kernel.write_text("a = 2\n")
    assert machine._commit() == f"{clean}-modified"


def test_a_package_below_another_checkout_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_git", lambda *words: str(tmp_path))
    assert machine._commit() is None

    def missing(*words, **more):
        raise FileNotFoundError("git")

    monkeypatch.undo()
    monkeypatch.setattr(subprocess, "run", missing)
    assert machine._commit() is None
