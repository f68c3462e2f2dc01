"""Packed runs: the same results from one file, and nothing lost on the way."""

from __future__ import annotations

import lzma

import numpy as np
import pytest

from experiments.command import cli
from experiments.runs.pack import ResultError, kept, pack, pack_of, run_paths, stamp
from experiments.runs.results import (
    Outcome,
    load_results,
    read_arrays,
    read_result,
    result_path,
    write_result,
)


def run_of(folder, seed, value=0.5):
    run = {"figure": "toy", "seed": seed, "alphas": (1.0, float("inf"))}
    path = result_path(folder, "toy", run, fingerprint=None, dtype="float32")
    outcome = Outcome({"accuracy": value, "odd": float("nan")}, {"loss": [1.0, 0.1 + 0.2]})
    if seed == 0:
        outcome = Outcome(outcome.metrics, arrays={"x": np.arange(3.0)})
    write_result(path, experiment="toy", run=run, outcome=outcome)
    return path


def unpacked(path):
    return lzma.decompress(pack_of(path).read_bytes()).decode()


def test_packed_runs_are_read_as_before(tmp_path):
    paths = [run_of(tmp_path, seed) for seed in range(3)]
    before, documents = load_results(tmp_path), [read_result(p) for p in paths]
    texts = [p.read_text() for p in paths]
    assert pack(paths[0].parent) == 3
    assert not any(p.exists() for p in paths)
    assert run_paths(tmp_path) == sorted(paths)
    assert [read_result(p) for p in paths] == documents
    assert load_results(tmp_path).equals(before)
    np.testing.assert_array_equal(read_arrays(paths[0])["x"], [0.0, 1.0, 2.0])
    assert len(unpacked(paths[0])) < 2 * sum(map(len, texts))
    assert pack(paths[0].parent) == 0


def test_a_newer_file_counts_before_the_line_and_takes_its_place(tmp_path):
    path, other = run_of(tmp_path, 1), run_of(tmp_path, 2)
    pack(path.parent)
    first = stamp(path)
    run_of(tmp_path, 1, value=0.75)
    assert stamp(path) != first
    assert read_result(path)["metrics"]["accuracy"] == 0.75
    assert pack(path.parent) == 1
    assert read_result(path)["metrics"]["accuracy"] == 0.75
    assert read_result(other)["metrics"]["accuracy"] == 0.5


def test_what_is_not_there_is_not_kept(tmp_path):
    path = run_of(tmp_path, 1)
    pack(path.parent)
    assert kept(path)
    missing = path.with_name("other.json")
    assert not kept(missing)
    assert stamp(missing) is None
    with pytest.raises(ResultError, match="cannot be read"):
        read_result(missing)


def test_a_changed_line_is_found(tmp_path):
    path = run_of(tmp_path, 1)
    pack(path.parent)
    text = unpacked(path)
    pack_of(path).write_bytes(
        lzma.compress(text.replace('"accuracy": 0.5', '"accuracy": 0.6').encode())
    )
    with pytest.raises(ResultError, match="was changed since it was written"):
        read_result(path)


@pytest.mark.parametrize("position", [10, -20])
def test_a_damaged_pack_is_named(tmp_path, capsys, position):
    path = run_of(tmp_path, 1)
    pack(path.parent)
    content = bytearray(pack_of(path).read_bytes())
    content[position] ^= 1
    pack_of(path).write_bytes(content)
    with pytest.raises(ResultError, match=r"runs\.jsonl\.xz is damaged"):
        kept(path)
    assert cli.run(["pack", "--out", str(tmp_path)]) == 0  # nothing to take in
    run_of(tmp_path, 2)
    assert cli.run(["pack", "--out", str(tmp_path)]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert run_of(tmp_path, 2).exists()


@pytest.mark.parametrize("text", ["[1]", "7", '"a"', "[" * 10**5, '{"run": 1}', "\x00"])
def test_a_pack_of_other_json_is_named(tmp_path, text):
    path = run_of(tmp_path, 1)
    pack(path.parent)
    pack_of(path).write_bytes(lzma.compress(text.encode()))
    with pytest.raises(ResultError, match=r"runs\.jsonl\.xz is damaged"):
        kept(path)


def test_a_folder_in_the_place_of_a_pack_is_named(tmp_path):
    path = run_of(tmp_path, 1)
    pack_of(path).mkdir()
    path.unlink()
    with pytest.raises(ResultError, match=r"runs\.jsonl\.xz is damaged"):
        kept(path)


@pytest.mark.parametrize(
    "kind", ["folder", "dangling link", "bytes", "cut short", "a list", "nested", "a number"]
)
def test_what_is_no_result_is_named_and_nothing_is_removed(tmp_path, capsys, kind):
    path = run_of(tmp_path, 1)
    odd = path.with_name("odd.json")
    if kind == "folder":
        odd.mkdir()
    elif kind == "dangling link":
        odd.symlink_to(tmp_path / "nowhere")
    else:
        content = {"bytes": b"\xff\xfe", "cut short": b"{", "a list": b"[1]", "a number": b"7\n"}
        odd.write_bytes(content.get(kind, b"[" * 10**5))
    assert cli.run(["pack", "--out", str(tmp_path)]) == 1
    assert f"{odd} cannot be read as a result" in capsys.readouterr().err
    assert path.exists()
    assert not pack_of(path).exists()


def test_a_file_laid_out_otherwise_stays(tmp_path):
    path = run_of(tmp_path, 1)
    path.write_text(path.read_text().replace("\n", "\n "))
    with pytest.raises(ResultError, match="not laid out"):
        pack(path.parent)
    assert path.exists()


def test_the_command_finds_packed_runs_done_and_computes_them_anew_by_force(tmp_path, toy):
    words = ["toy", "--preset", "smoke", "--out", str(tmp_path)]
    assert cli.run(words) == 0
    files = run_paths(tmp_path)
    before = [read_result(p) for p in files]
    assert cli.run(["pack", "--out", str(tmp_path)]) == 0
    assert cli.run(words) == 0
    assert not any(p.exists() for p in files)
    assert [read_result(p) for p in files] == before
    assert cli.run([*words, "--force"]) == 0
    assert all(p.exists() for p in files)
