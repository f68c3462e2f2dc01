"""Result files: their path, their content, and what happens to damaged ones."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from experiments.files import OutputError, write_file
from experiments.results import (
    Outcome,
    ResultError,
    jsonable,
    load_results,
    read_arrays,
    read_result,
    result_path,
    write_result,
)

RUN = {"dataset": "digits", "method": "vgg11-linear", "alpha": math.inf, "seed": 3, "sizes": (1, 2)}


def path_of(run, folder=Path("out"), fingerprint="f", dtype="float32", experiment="fig3b"):
    return result_path(folder, experiment, run, fingerprint=fingerprint, dtype=dtype)


@pytest.fixture
def written(tmp_path):
    path = path_of(RUN, tmp_path)
    outcome = Outcome(
        {"test_accuracy": np.float32(0.5), "loss": math.nan, "worst": math.inf, "steps": 7},
        curves={"loss": [1.0, math.inf, 0.25]},
        arrays={"w": np.arange(5.0)},
    )
    write_result(
        path, experiment="fig3b", run=RUN, outcome=outcome, seconds=1.5, data={"label": "digits"}
    )
    return path


def test_a_path_follows_from_all_that_determines_the_result():
    paths = {
        path_of(RUN),
        path_of({**RUN, "alpha": 1e7}),
        path_of({**RUN, "sizes": (1, 3)}),
        path_of(RUN, fingerprint="g"),
        path_of(RUN, fingerprint=None),
        path_of(RUN, dtype="float64"),
        path_of(RUN, experiment="fig3a"),
    }
    assert len(paths) == 7
    shuffled = dict(reversed(RUN.items()))
    assert path_of({**shuffled, "sizes": [1, 2]}) == path_of(RUN)
    assert path_of(RUN).name.startswith("digits-vgg11-linear-alphainf-seed3-")


def test_a_result_is_read_as_it_was_written(written):
    document = read_result(written)
    assert document["run"] == {**RUN, "sizes": [1, 2]}
    assert document["metrics"] == {
        "test_accuracy": 0.5,
        "loss": None,
        "worst": None,
        "steps": 7,
    }
    assert document["curves"] == {"loss": [1.0, None, 0.25]}
    np.testing.assert_array_equal(read_arrays(written)["w"], np.arange(5.0))


def test_a_result_file_is_strict_json(written):
    def refuse(word):
        raise AssertionError(word)

    json.loads(written.read_text(), parse_constant=refuse)


def test_results_are_a_table_with_a_row_a_run(written, tmp_path):
    frame = load_results(tmp_path)
    assert len(frame) == 1
    row = frame.iloc[0]
    assert row["alpha"] == math.inf
    assert row["test_accuracy"] == 0.5
    assert row["seconds"] == 1.5
    assert row["data_label"] == "digits"
    assert row["sizes"] == (1, 2)
    assert row["path"] == str(written)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_result_cut_short_is_refused_by_name(written, keep):
    text = written.read_text().rstrip()
    written.write_text(text[: int(keep * len(text))])
    with pytest.raises(ResultError, match=written.name):
        read_result(written)


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"format": 1, "run": 3}', "\x00"])
def test_json_that_is_no_result_is_refused_by_name(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ResultError, match=r"a\.json"):
        read_result(path)


def test_a_later_format_is_refused(written):
    document = json.loads(written.read_text())
    written.write_text(json.dumps({**document, "format": 99}))
    with pytest.raises(ResultError, match="has format 99; this version reads 1"):
        read_result(written)


def test_arrays_that_are_missing_or_changed_are_refused_by_name(written):
    beside = written.with_suffix(".npz")
    content = bytearray(beside.read_bytes())
    content[40] ^= 1
    beside.write_bytes(content)
    with pytest.raises(ResultError, match=r"\.npz is damaged: its checksum"):
        read_arrays(written)
    beside.unlink()
    with pytest.raises(ResultError, match=r"\.npz cannot be read"):
        read_arrays(written)


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="a result holds numbers, strings, lists and mappings"):
        jsonable({"a": object()})


class FullDisk:
    """Stands for `os.fsync` on a full disk: the suite may run as root, which quotas and
    permissions do not stop, and fills no disk."""

    def __init__(self, code: int):
        self.code = code

    def __call__(self, handle):
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch, code):
    monkeypatch.setattr("experiments.files.os.fsync", FullDisk(code))
    path = path_of(RUN, tmp_path)
    with pytest.raises(OutputError, match=r"cannot write .*json: .*; make room or give another"):
        write_result(path, experiment="fig3b", run=RUN, outcome=Outcome({"a": 1}))
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    write_file(tmp_path / "a", b"old")
    monkeypatch.setattr("experiments.files.os.fsync", FullDisk(errno.ENOSPC))
    with pytest.raises(OutputError):
        write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
