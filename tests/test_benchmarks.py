"""What the benchmarks share: how times are taken and what is written beside them."""

from __future__ import annotations

import json

import pytest

from benchmarks import common


def test_a_time_is_the_median_of_the_calls_after_the_first():
    now = iter([0.0, 50.0, 100.0, 101.0, 200.0, 209.0, 300.0, 302.0])
    found = common.seconds_of(lambda: None, 3, clock=lambda: next(now))
    assert found == {"first": 50.0, "median": 2.0, "all": [1.0, 9.0, 2.0]}


def test_wall_and_cpu_are_of_the_same_calls():
    calls = []
    times, result = common.wall_and_cpu(lambda: calls.append(1) or len(calls), 2)
    assert result == 3
    assert set(times) == {"wall", "cpu"}
    assert [len(t["all"]) for t in times.values()] == [2, 2]


def test_stored_repetitions_lose_their_first_call_where_there_are_others():
    assert common.later([9.0, 1.0, 3.0]) == 2.0
    assert common.later([9.0]) == 9.0


@pytest.mark.parametrize(
    ("commit", "words"),
    [("abc", None), ("abc-modified", "belong to no commit"), (None, "no commit is known")],
)
def test_commit_processor_threads_and_load_are_written_and_a_changed_tree_is_said(
    commit, words, monkeypatch, tmp_path, capsys
):
    fixed = {"commit": commit, "cpu": "a processor"}
    monkeypatch.setattr(common, "provenance", lambda device, threads: fixed | {"threads": threads})
    common.write({"machine": common.machine(threads=3)}, tmp_path / "new" / "it.json")
    kept = json.loads((tmp_path / "new" / "it.json").read_text())["machine"]
    assert kept["commit"] == commit
    assert (kept["cpu"], kept["threads"]) == ("a processor", 3)
    assert len(kept["load_average"]) == 3
    error = capsys.readouterr().err
    if words is None:
        assert "warning" not in kept
        assert not error
    else:
        assert words in kept["warning"]
        assert words in error


def test_the_table_takes_medians_shows_first_calls_and_says_what_belongs_to_no_commit(tmp_path):
    from benchmarks.tangent_kernel import table

    def method(*seconds):
        return {"cpu_seconds": list(seconds), "peak_memory_bytes": 2**30, "error": 1e-7}

    record = {"case": "full-16", "results": {"tangent": method(8, 2, 1, 3), "peer": method(30)}}
    path = tmp_path / "tangent_kernel-full-16.json"
    path.write_text(json.dumps(record))
    text = table(tmp_path)
    assert "| full-16 | tangent | 2.00 | 8.00 | 1.00 | 1e-07 |  |" in text
    assert "| full-16 | peer | 30.00 | only call | 1.00 | 1e-07 | 15.0 |" in text
    assert "no commit" not in text
    path.write_text(json.dumps(record | {"machine": {"warning": common.DIRTY}}))
    assert "belong to no commit" in table(tmp_path)
