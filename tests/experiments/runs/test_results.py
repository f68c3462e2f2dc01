"""Result files: their path, their content, and what happens to damaged ones."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from experiments.files import OutputError, write_file
from experiments.runs.results import (
    Outcome,
    ResultError,
    _signed,
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
        path,
        experiment="fig3b",
        run=RUN,
        outcome=outcome,
        seconds=1.5,
        data={"label": "digits", "fingerprint": "f"},
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
    with pytest.raises(ResultError, match="has format 99; this version reads 2"):
        read_result(written)


def rewritten(path, **changes):
    """The file with other entries and the digest of what it holds then, as an editor would."""
    document = {**json.loads(path.read_text()), **changes}
    del document["sha256"]
    path.write_text(_signed({k: v for k, v in document.items() if v is not ...}))


def test_every_changed_digit_is_noticed(written):
    text = written.read_text()
    digits = [i for i, letter in enumerate(text) if letter.isdigit()]
    assert len(digits) > 80
    for i in digits:
        written.write_text(text[:i] + str((int(text[i]) + 1) % 10) + text[i + 1 :])
        with pytest.raises(ResultError, match=written.name):
            read_result(written)
    written.write_text(text)
    assert read_result(written)["metrics"]["steps"] == 7


def test_every_changed_letter_is_noticed(written):
    text = written.read_text()
    for i in range(0, len(text.rstrip()), 3):
        written.write_text(text[:i] + ("x" if text[i] != "x" else "y") + text[i + 1 :])
        with pytest.raises(ResultError, match=written.name):
            read_result(written)


def test_lines_that_end_as_on_windows_change_nothing(written):
    written.write_bytes(written.read_bytes().replace(b"\n", b"\r\n"))
    assert read_result(written)["metrics"]["steps"] == 7


@pytest.mark.parametrize(
    "change",
    [
        {"run": {**RUN, "alpha": "1"}},
        {"run": {**RUN, "alpha": "inf", "method": "mlp"}},
        {"run": {**RUN, "alpha": "inf", "seed": 4}},
        {"data": {"label": "digits", "fingerprint": "g"}},
        {"data": None},
        {"dtype": "float64"},
        {"experiment": "fig3a"},
    ],
)
def test_a_name_that_is_not_that_of_the_content_is_refused(written, change):
    rewritten(written)
    assert read_result(written)["metrics"]["steps"] == 7  # unless something is changed
    rewritten(written, **change)
    with pytest.raises(ResultError, match="holds another run than its name says"):
        read_result(written)


def test_a_renamed_result_is_refused(written):
    other = written.with_name(written.name.replace("vgg11", "mlp"))
    written.rename(other)
    with pytest.raises(ResultError, match=r"mlp.*holds another run than its name says, that of"):
        read_result(other)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metrics": None}, "its metrics is of another kind"),
        ({"metrics": {"test_accuracy": {}}}, "its test_accuracy is of another kind"),
        ({"curves": [1, 2]}, "its curves is of another kind"),
        ({"curves": {"loss": 3}}, "its loss is of another kind"),
        ({"arrays": ...}, "it lacks arrays"),
        ({"arrays": 5}, "its arrays is of another kind"),
        ({"data": "digits"}, "its data is of another kind"),
        ({"run": None}, "its run is of another kind"),
        ({"status": "well"}, "its status is of another kind"),
        ({"dtype": ...}, "it lacks dtype"),
    ],
)
def test_entries_of_another_kind_are_refused_by_name(written, change, reason):
    rewritten(written, **change)
    with pytest.raises(ResultError, match=rf"{written.name}.*{reason}"):
        read_result(written)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5, '{"run": NaN}', "1" * 10**4])
def test_json_that_no_program_wrote_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ResultError, match=r"a\.json"):
        read_result(tmp_path / "a.json")


def test_a_result_without_its_checksum_is_read_only_in_the_format_that_had_none(written):
    document = json.loads(written.read_text())
    del document["sha256"]
    written.write_text(json.dumps(document))
    with pytest.raises(ResultError, match="lacks sha256"):
        read_result(written)
    written.write_text(json.dumps({**document, "format": 1}))
    assert read_result(written)["metrics"]["steps"] == 7
    written.write_text(json.dumps({**document, "format": 1, "dtype": "float64"}))
    with pytest.raises(ResultError, match="holds another run than its name says"):
        read_result(written)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04 no archive", pickle.dumps([1])])
def test_arrays_that_are_none_are_refused_by_name(written, content):
    rewritten(written, arrays=hashlib.sha256(content).hexdigest())
    written.with_suffix(".npz").write_bytes(content)
    with pytest.raises(ResultError, match=r"\.npz holds no arrays"):
        read_arrays(written)


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
