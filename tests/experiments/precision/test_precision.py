"""The comparison of precisions: what it measures, its table and its figure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from experiments.command import cli
from experiments.command.registry import experiment
from experiments.data.datasets import digits
from experiments.precision import measure
from experiments.precision.draw import precision_table
from experiments.precision.training import Problem
from experiments.runs.results import Context, load_results, read_result
from experiments.usage import UsageError

precision = experiment("precision")

SMALL = precision.Settings(
    alphas=(1e7,), widths=(0.04,), gains=(1.0,), n_train=40, n_test=20, epochs=2, batch_size=10
)


@pytest.fixture(scope="module")
def context():
    data = digits()
    return Context("cpu", "float32", lambda name: data, lambda message: None)


@pytest.fixture(scope="module")
def measured(context):
    (run,) = precision.runs(SMALL)
    return precision.compute(run, context)


def test_a_run_a_seed_width_gain_and_alpha():
    runs = precision.runs(precision.Settings(alphas=(1.0, 1e7), seeds=(0, 1)))
    assert len(runs) == 2 * 2 * 2 * 2
    assert len({(r["seed"], r["width"], r["gain"], r["alpha"]) for r in runs}) == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alphas": (math.inf,)}, "finite"),
        ({"methods": ("direct-float16",)}, "direct-float32"),
        ({"methods": ()}, "value at least"),
    ],
)
def test_wrong_settings_say_what_is_wrong(change, message):
    with pytest.raises(UsageError, match=message):
        precision.runs(precision.Settings(**change))


def test_subtraction_in_float32_loses_the_oracle_and_difference_propagation_keeps_it(measured):
    found = measured.metrics
    assert found["difference_float32_distance"] < 1e-3
    assert found["direct_float32_distance"] > 0.1
    assert found["direct_float32_update_ratio"] < 1 < found["oracle_update_ratio"]
    assert found["direct_float32_moved"] < 0.2 < found["oracle_moved"]
    assert found["difference_float32_moved"] == pytest.approx(found["oracle_moved"], abs=0.02)
    assert found["difference_float32_loss"] == pytest.approx(found["oracle_loss"], rel=1e-4)


def test_all_methods_start_from_the_same_loss(measured):
    curves = measured.curves
    assert {len(c) for c in curves.values()} == {2}
    assert curves["difference_float32"][0] == pytest.approx(curves["oracle"][0], rel=1e-4)


def test_the_methods_start_from_the_same_weights_and_leave_them(context):
    (run,) = precision.runs(SMALL)
    problem = Problem(run, context)
    before = [p.clone() for p in problem.network.parameters()]
    first, again = (problem.trained("difference-float32") for _ in range(2))
    assert first.losses == again.losses
    assert all(torch.equal(a, b) for a, b in zip(before, problem.network.parameters(), strict=True))
    assert {p.dtype for p in problem.network.parameters()} == {torch.float32}


def test_bfloat16_trains_by_difference_propagation(context):
    (run,) = precision.runs(SMALL)
    problem = Problem(run, context)
    coarse, oracle = (problem.trained(m) for m in ("difference-bfloat16", "direct-float64"))
    assert coarse.distance(oracle) < 0.5


def test_a_diverged_method_is_marked_and_the_others_are_kept(context):
    (run,) = precision.runs(SMALL)
    found = precision.compute({**run, "lr": 1e12, "epochs": 30}, context).metrics
    assert math.isinf(found["oracle_loss"])
    assert math.isnan(found["difference_float32_distance"])


def test_tf32_needs_a_gpu_and_leaves_the_switches_as_they_were():
    before = torch.backends.cudnn.allow_tf32
    with pytest.raises(UsageError, match="mode of GPUs"), measure._tf32(True, "cpu"):
        pass
    with measure._tf32(False, "cpu"):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 is before


def test_the_smoke_preset_runs_from_the_command_to_the_figure(tmp_path, capsys):
    words = ["precision", "--preset", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    assert cli.run(words) == 0
    assert "update / half spacing" in capsys.readouterr().out
    results = load_results(tmp_path)
    assert sorted(results["alpha"]) == [1.0, 1e7]
    assert read_result(next(iter(tmp_path.rglob("runs/*.json"))))["status"] == "done"
    (folder,) = (p for p in (tmp_path / "precision").iterdir() if p.name != "runs")
    assert {p.suffix for p in folder.iterdir()} >= {".png", ".csv", ".md"}
    table = precision_table(results)
    assert len(table.shown) == 2
    assert np.isfinite(table.numbers["direct_float32_distance"]).all()
