"""What the benchmarks share: how times are taken and what is written beside them."""

from __future__ import annotations

import ast
import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from benchmarks import common

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


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


def test_the_last_of_several_records_is_the_one_that_is_warned_of(tmp_path, capsys):
    old, new = ({"machine": {"warning": word}} for word in ("old", "new"))
    common.write([old, new], tmp_path / "it.json", shown="shown")
    assert capsys.readouterr() == ('"shown"\n', "warning: new\n")
    assert json.loads((tmp_path / "it.json").read_text()) == [old, new]


def writes_files(tree: ast.Module) -> bool:
    """Whether a benchmark takes a place for its figures."""
    return any(isinstance(n, ast.Constant) and n.value == "--out" for n in ast.walk(tree))


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_whatever_a_benchmark_writes_says_commit_processor_threads_and_load(path):
    tree = ast.parse(path.read_text())
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call)
              and isinstance(n.func, ast.Name)}  # fmt: skip
    assert not writes_files(tree) or {"machine", "write"} <= called
    dumped = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "write_text"]
    own = {"common": 1, "scale": 1, "tangent_kernel": 1}  # what all write by; Markdown
    assert len(dumped) == own.get(path.stem, 0)


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_whatever_a_benchmark_takes_from_a_module_is_there(path):
    if path.stem == "kernel_of_zoo":
        pytest.importorskip("timm")
        pytest.importorskip("transformers")
    benchmark = importlib.import_module(f"benchmarks.{path.stem}")
    own = ("benchmarks", "tangent", "baselines", "experiments", "common")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in own:
            source = importlib.import_module(str(node.module))  # those within functions, too
            assert all(hasattr(source, name.name) for name in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = getattr(benchmark, node.value.id, None)
            if isinstance(module, ModuleType):
                assert hasattr(module, node.attr), f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("part", ["exact", "conditioning"])
def test_a_benchmark_of_the_solvers_runs_on_few_rows(part, tmp_path, monkeypatch):
    from benchmarks import solve

    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    words = ["--n", "16", "--n-spectrum", "16", "--max-iterations", "3", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["solve.py", part, *words])
    solve.main()
    found = json.loads((tmp_path / f"solve-{part}.json").read_text())
    assert found["command"] == f"python -m benchmarks.solve {part} " + " ".join(words)
    assert found["results"]
    assert {"commit", "threads", "load_average"} <= found["machine"].keys()


def test_a_benchmark_run_writes_its_machine(tmp_path, monkeypatch):
    from benchmarks import random_features

    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    words = ["--images", "2", "--filters", "4", "--repeats", "1", "--out", str(tmp_path / "a.json")]
    monkeypatch.setattr("sys.argv", ["random_features.py", *words])
    random_features.main()
    found = json.loads((tmp_path / "a.json").read_text())
    assert {"commit", "cpu", "threads", "load_average", "statistic"} <= found["machine"].keys()
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["cpu_seconds"]["median"] == found["cpu_seconds"]["all"][0]


def test_both_sides_of_a_comparison_of_kernels_get_the_same_threads(tmp_path, monkeypatch):
    from benchmarks import tangent_kernel

    seen = []

    def run(command, env, **more):
        seen.append((command[command.index("--threads") + 1], env["OMP_NUM_THREADS"]))
        return SimpleNamespace(returncode=0, stdout="{}")

    monkeypatch.setattr(tangent_kernel.subprocess, "run", run)
    for method in ("tangent", "neural-tangents, structured"):
        tangent_kernel.alone("full-16", method, 1, 2, tmp_path)
    assert seen == [("2", "2")] * 2


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
