"""Figure 3(a): its runs, its measurements, its table and its figures."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.command import cli, registry
from experiments.command.registry import experiment
from experiments.drawing.axes import alpha_axis
from experiments.fig3a import against_alpha, against_rate
from experiments.runs.results import load_results, read_result
from experiments.usage import UsageError
from tangent import mlp

fig3a = experiment("fig3a")


def frame(settings, **columns):
    rng = np.random.default_rng(0)
    rows = []
    for run in fig3a.runs(settings):
        rows.append(
            {
                **run,
                "train_accuracy": rng.uniform(0.5, 0.9),
                "test_accuracy": rng.uniform(0.2, 0.5),
                "train_loss": rng.uniform(0.05, 0.1),
                "stability": 0.9,
                "lr": 0.1,
                "stability_edge": 1.0,
                "cpu_seconds": 2.0,
                "status": "done",
                "data_label": "digits",
            }
        )
    return pd.DataFrame(rows).assign(**columns)


def my_network(input_shape, n_outputs, generator):
    flat = torch.nn.Flatten()
    return torch.nn.Sequential(
        flat, *mlp(math.prod(input_shape), n_outputs, hidden=(6,), generator=generator)
    )


def test_there_is_a_run_for_every_seed_alpha_and_rate():
    runs = fig3a.runs(fig3a.Settings(seeds=(0, 3), alphas=(1.0, math.inf), lrs=("auto", 1.0)))
    assert [(r["seed"], r["alpha"], r["rate"]) for r in runs] == [
        (s, a, r) for s in (0, 3) for a in (1.0, math.inf) for r in ("auto", 1.0)
    ]


def test_tuning_tries_the_papers_grid():
    runs = fig3a.runs(fig3a.Settings(seeds=(0,), alphas=(1.0,), tune=True))
    assert [r["rate"] for r in runs] == pytest.approx([1e-3, 1e-2, 0.1, 1, 10, 100, 1000])


def test_the_papers_scales_are_all_there():
    assert fig3a.PRESETS["paper"].alphas == (*(10.0**k for k in range(8)), math.inf)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"alphas": (0.0,)}, "positive"), ({"seeds": ()}, "one value"), ({"model": "vgg"}, "vgg11")],
)
def test_wrong_settings_say_what_is_wrong(change, message):
    with pytest.raises(UsageError, match=message):
        fig3a.runs(fig3a.Settings(**change))


def test_the_smoke_preset_runs_from_the_command_to_the_figure(tmp_path, capsys):
    words = ["fig3a", "--preset", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    assert cli.run([*words, "--alphas", "1.0", "inf"]) == 0
    shown = capsys.readouterr().out
    assert "stable %" in shown
    results = load_results(tmp_path)
    linear = results[np.isinf(results["alpha"])].iloc[0]
    assert linear["stability"] == 1.0
    assert results["stability"].min() < 1.0
    kept = read_result(next(iter(tmp_path.rglob("runs/*.json"))))
    assert len(kept["curves"]["loss"]) == 2
    assert len(kept["curves"]["gates"]) == 13  # eight ReLUs and five poolings
    (folder,) = (p for p in (tmp_path / "fig3a").iterdir() if p.name != "runs")
    assert {p.suffix for p in folder.iterdir()} >= {".png", ".csv", ".md"}


def test_a_users_model_is_imported_by_name(tmp_path, undrawn):
    undrawn(fig3a)
    words = ["fig3a", "--preset", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    model = "tests.experiments.fig3a.test_fig3a:my_network"
    assert cli.run([*words, "--alphas", "1.0", "--model", model]) == 0
    assert load_results(tmp_path)["parameters"].iloc[0] == 1024 * 6 + 6 + 6 * 10 + 10


def test_an_interrupted_training_goes_on_from_its_checkpoint(
    tmp_path, monkeypatch, capsys, undrawn
):
    undrawn(fig3a)
    from tangent.training.checkpoint import Checkpoint
    from tangent.training.run import Run

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    words = ["fig3a", "--preset", "smoke", "--device", "cpu", "--alphas", "100.0"]
    words += ["--model", "tests.experiments.fig3a.test_fig3a:my_network", "--epochs", "4", "--out"]
    assert cli.run([*words, str(whole)]) == 0
    steps, step = [], Run.step

    def interrupted(run):
        if len(steps) == 3:
            raise KeyboardInterrupt
        steps.append(run.done)
        step(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "step", interrupted)
        patch.setattr(Checkpoint, "due", lambda checkpoint: True)
        assert cli.run([*words, str(broken)]) == 130
    assert len(list(broken.rglob("*.ckpt"))) == 1
    assert cli.run([*words, str(broken)]) == 0
    assert "going on from" in capsys.readouterr().err
    assert not list(broken.rglob("*.ckpt"))
    one, other = (read_result(next(p.rglob("runs/*.json"))) for p in (whole, broken))
    assert one["curves"] == other["curves"]
    assert one["metrics"] == other["metrics"]


def test_a_checkpoint_that_cannot_be_used_is_named_and_the_run_starts_anew(
    tmp_path, capsys, undrawn
):
    undrawn(fig3a)
    words = ["fig3a", "--preset", "smoke", "--device", "cpu", "--alphas", "100.0"]
    words += ["--model", "tests.experiments.fig3a.test_fig3a:my_network", "--out", str(tmp_path)]
    assert cli.run(words) == 0
    (result,) = tmp_path.rglob("runs/*.json")
    before = read_result(result)["metrics"]
    result.unlink()
    result.with_suffix(".ckpt").write_bytes(b"damaged")
    assert cli.run(words) == 0
    assert "the run starts anew" in capsys.readouterr().err
    assert read_result(result)["metrics"] == before


OWN = """
import math
from torch import nn

def build(input_shape, n_outputs, generator):
    first = nn.Linear(math.prod(input_shape), 4)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(4, n_outputs))
"""


def test_an_edited_network_is_another_run(tmp_path, capsys, undrawn):
    undrawn(fig3a)
    (tmp_path / "mine.py").write_text(OWN)
    words = ["fig3a", "--preset", "smoke", "--out", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--alphas", "1.0", "--epochs", "1", "--model", f"{tmp_path / 'mine.py'}:build"]
    assert cli.run(words) == 0
    assert cli.run(words) == 0
    assert "0 runs computed, 1 were finished before" in capsys.readouterr().err
    (tmp_path / "mine.py").write_text(OWN.replace("nn.Flatten()", "nn.Tanh(), nn.Flatten()"))
    assert cli.run(words) == 0
    assert "1 runs computed, 0 were finished before" in capsys.readouterr().err
    accuracies = load_results(tmp_path / "out")["train_loss"]
    assert len(set(accuracies)) == 2


def test_the_best_rate_is_that_of_least_training_loss_and_diverged_ones_lose():
    settings = fig3a.Settings(seeds=(0, 1), alphas=(1.0, 10.0), lrs=(0.1, 1.0, 10.0))
    results = frame(settings)
    results["train_loss"] = results["rate"].map({0.1: 0.08, 1.0: 0.05, 10.0: 0.01})
    results.loc[results["rate"] == 10.0, "train_loss"] = np.nan
    best = against_alpha.best_rates(results)
    assert set(best["rate"]) == {1.0}
    assert len(best) == 4


def test_infinity_stands_behind_the_finite_scales():
    from experiments.drawing import plots

    _, ax = plots.figure()
    positions = alpha_axis(ax, [1.0, math.inf, 100.0])
    assert positions == {1.0: 0.0, 100.0: 2.0, math.inf: 3.5}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["$10^{0}$", "$10^{2}$", "$\\infty$"]


def test_the_table_shows_mean_and_range_and_diverged_runs(tmp_path):
    results = frame(fig3a.Settings(seeds=(0, 1), alphas=(1.0, 1e7)))
    results.loc[0, ["train_accuracy", "test_accuracy", "train_loss"]] = np.nan
    results.loc[0, "status"] = "diverged"
    table = against_alpha.alpha_table(results)
    assert "1 of 2 diverged" in table.shown["test %"].iloc[0]
    assert table.numbers["diverged"].tolist() == [1, 0]
    assert len(fig3a.draw(results, tmp_path)) == 3


def test_several_rates_get_a_figure_of_their_own(tmp_path):
    results = frame(fig3a.Settings(lrs=("auto", 1.0)))
    paths = fig3a.draw(results, tmp_path)
    assert {p.stem for p in paths} == {"fig3a", "fig3a-rates"}


def test_rates_are_shown_against_the_edge_and_diverged_ones_are_counted():
    results = frame(fig3a.Settings(alphas=(1e7,), seeds=(0, 1), lrs=("auto", 5.0)))
    unstable = results["rate"] == 5.0
    lost = ["train_accuracy", "test_accuracy", "train_loss", "lr", "stability_edge"]
    results.loc[unstable, lost] = np.nan
    results.loc[unstable, "status"] = "diverged"
    table = against_rate.rates_table(results)
    assert table.shown["lr / edge"].tolist() == ["0.1", "5"]
    assert table.shown["lr"].tolist() == ["0.1 (auto)", "5"]
    assert table.shown["test %"].iloc[1].endswith("diverged")
    assert table.numbers["diverged"].tolist() == [0, 2]


def test_an_alpha_whose_rates_all_diverged_stands_at_the_edge_of_the_others():
    results = frame(fig3a.Settings(alphas=(0.1, 1e7), seeds=(0,), lrs=(0.5, 5.0)))
    lost = ["train_accuracy", "test_accuracy", "train_loss", "lr", "stability_edge"]
    results.loc[results["alpha"] == 0.1, lost] = np.nan
    results.loc[results["alpha"] == 0.1, "status"] = "diverged"
    table = against_rate.rates_table(results)
    assert table.shown["lr / edge"].tolist() == ["0.5", "5", "0.5", "5"]
    for ax in against_rate.against_rate(results).axes:
        crosses = [x for line in ax.lines if line.get_marker() == "x" for x in line.get_xdata()]
        assert crosses == [0.5, 5.0]


def test_a_rate_that_diverged_stands_above_the_panel_and_nothing_is_joined():
    results = frame(fig3a.Settings(alphas=(1e7,), seeds=(0, 1), lrs=("auto", 5.0)))
    unstable = results["rate"] == 5.0
    results.loc[unstable, ["test_accuracy", "train_loss", "lr"]] = np.nan
    results.loc[unstable, "status"] = "diverged"
    for ax in against_rate.against_rate(results).axes:
        (cross,) = [line for line in ax.lines if line.get_marker() == "x" and len(line.get_xdata())]
        assert cross.get_transform() == ax.get_xaxis_transform()
        assert cross.get_ydata()[0] > 1
        assert not cross.get_clip_on()
        joined = [line for line in ax.lines if line.get_marker() in "os" and line.get_ls() == "-"]
        assert not joined


def test_a_line_joins_scales_a_decade_apart_and_no_others():
    assert against_alpha._joined([0.0, 1.0, 2.0]) == [[0, 1, 2]]
    assert against_alpha._joined([0.0, 7.0, 8.5]) == [[0], [1], [2]]
    results = frame(fig3a.Settings(seeds=(0,), alphas=(1.0, 1e7)))
    (ax,) = against_alpha.against_alpha(results).axes
    assert not [
        line for line in ax.lines if len(line.get_xdata()) > 1 and line.get_marker() in "os^"
    ]
    assert not ax.collections  # no band and no bars of one seed


def test_poolings_do_not_count_into_the_stability(monkeypatch):
    gates = {"1": 0.5, "2": 0.25, "4": 0.7}
    kinds = {"1": torch.nn.ReLU(), "2": torch.nn.MaxPool2d(2), "4": torch.nn.ReLU()}

    class Trained:
        history_ = {"loss": np.array([0.1])}  # noqa: RUF012
        lr_ = stability_edge_ = 1.0
        n_parameters_ = 1
        module_ = type("M", (), {"network": torch.nn.ModuleDict(kinds)})()

        def __init__(self, *arguments, **options):
            pass

        def fit(self, X, y):
            return self

        def score(self, X, y):
            return 0.5

        def stability_of_activations(self, X):
            return gates

    monkeypatch.setattr("experiments.fig3a.measure.LazyClassifier", Trained)
    run = fig3a.runs(registry.preset(fig3a, "smoke"))[0]
    data = type("D", (), {"image_shape": (1, 2, 2), "arrays": lambda s: (0, 0, 0, 0)})()
    data.subset = lambda *sizes: data
    context = type("C", (), {"load": staticmethod(lambda name: data), "device": "cpu",
                             "dtype": "float32", "checkpoint": None,
                             "distributed": False})()  # fmt: skip
    found = fig3a.compute(run, context).metrics
    assert found["stability"] == pytest.approx(0.6)
    assert found["stability_of_last"] == 0.7


def test_the_grid_of_rates_runs_from_the_command_to_its_figure(tmp_path, capsys):
    words = ["fig3a", "--preset", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    more = ["--tune", "--alphas", "1.0", "--model", "tests.experiments.fig3a.test_fig3a:my_network"]
    assert cli.run([*words, *more]) == 0
    results = load_results(tmp_path)
    assert sorted(results["rate"]) == [10.0**k for k in range(-3, 4)]
    assert {p.stem for p in tmp_path.rglob("*.png")} == {"fig3a", "fig3a-rates"}
    capsys.readouterr()


def test_presets_are_settings_the_command_line_knows():
    for name in ("smoke", "laptop", "paper"):
        assert fig3a.runs(registry.preset(fig3a, name))
    assert registry.preset(fig3a, "laptop", "cifar10").n_train == 2000
