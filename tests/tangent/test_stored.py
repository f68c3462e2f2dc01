from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from tangent.kernel import tangent_kernel
from tangent.stored import stored_tangent_kernel
from tests.tangent.models import example


@pytest.fixture
def case():
    return example("stride, groups and dilation", 7, seed=3)


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace", 0])
@pytest.mark.parametrize("rectangle", [False, True])
def test_the_file_holds_the_kernel(tmp_path, case, outputs, rectangle):
    model, x = case
    x2 = x[2:] if rectangle else None
    stored = stored_tangent_kernel(tmp_path, model, x, x2, outputs=outputs, batch_size=3)
    expected = tangent_kernel(model, x, x2, outputs=outputs)
    assert stored.shape == tuple(expected.shape)
    torch.testing.assert_close(torch.from_numpy(np.array(stored)), expected)
    plain = np.load(tmp_path / "kernel.npy", allow_pickle=False)
    assert np.array_equal(plain, stored)


class Killed(Exception):
    pass


def kill_after(blocks: int):
    calls = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) > blocks:
            raise Killed

    return progress


def test_a_killed_run_resumes_and_ends_with_the_same_bits(tmp_path, case):
    model, x = case
    whole = stored_tangent_kernel(tmp_path / "a", model, x, batch_size=2)
    with pytest.raises(Killed):
        stored_tangent_kernel(tmp_path / "b", model, x, batch_size=2, progress=kill_after(4))
    finished = len((tmp_path / "b" / "journal-0.jsonl").read_text().split())
    assert finished > 0
    seen = []
    resumed = stored_tangent_kernel(
        tmp_path / "b", model, x, progress=lambda done, total: seen.append(done)
    )
    assert seen[0] > 0  # the finished blocks were not computed again
    assert len(seen) < 11
    assert np.array_equal(resumed, whole)


def test_a_damaged_block_and_a_line_cut_short_are_computed_again(tmp_path, case):
    model, x = case
    whole = np.array(stored_tangent_kernel(tmp_path, model, x, batch_size=3))
    array = np.load(tmp_path / "kernel.npy", mmap_mode="r+")
    array[0, 0, 0, 0] += 1
    array.flush()
    del array
    journal = tmp_path / "journal-0.jsonl"
    journal.write_text(journal.read_text()[:-30])
    again = stored_tangent_kernel(tmp_path, model, x)
    assert np.array_equal(again, whole)


def test_a_folder_begun_with_something_else_is_refused(tmp_path, case):
    model, x = case
    stored_tangent_kernel(tmp_path, model, x, batch_size=3)
    with pytest.raises(ValueError, match="other outputs"):
        stored_tangent_kernel(tmp_path, model, x, outputs="trace")
    with pytest.raises(ValueError, match="other x1"):
        stored_tangent_kernel(tmp_path, model, x + 1)
    with pytest.raises(ValueError, match="other batch_size"):
        stored_tangent_kernel(tmp_path, model, x, batch_size=2)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(ValueError, match="other weights"):
        stored_tangent_kernel(tmp_path, model, x)


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, case, monkeypatch):
    model, x = case
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="bytes and 100 are free"):
        stored_tangent_kernel(tmp_path / "new", model, x)
    assert list((tmp_path / "new").iterdir()) == []


def test_the_settings_are_readable(tmp_path, case):
    model, x = case
    stored_tangent_kernel(tmp_path, model, x, batch_size=3, outputs="trace")
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["outputs"] == "trace"
    assert settings["batch_size"] == 3
