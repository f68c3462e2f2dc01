"""The experiment of baselines, from command to figure."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from experiments.baselines.draw import accuracy_figure, accuracy_table, published_points
from experiments.baselines.measure import classifier
from experiments.baselines.settings import COMPETITORS, Competitor
from experiments.command import cli
from experiments.command.registry import experiment
from experiments.runs.results import load_results
from experiments.usage import UsageError

baselines = experiment("baselines")


@pytest.mark.parametrize("name", baselines.PRESETS)
def test_a_preset_gives_one_run_a_method_size_number_and_seed(name):
    settings = dataclasses.replace(baselines.PRESETS[name], seeds=(0, 1))
    runs = baselines.runs(settings)
    sizes = sum(len(getattr(settings, COMPETITORS[m].sizes)) for m in settings.methods)
    rows = len(settings.rows) or sizes * len(settings.n_train)
    assert len(runs) == rows * 2
    assert len({str(sorted(run.items())) for run in runs}) == len(runs)


def test_rows_that_are_asked_for_one_by_one_are_the_same_runs_as_those_of_a_product():
    rows = ("random-patches:64:1200", "scattering-ridge:2:300:average")
    first, second = baselines.runs(baselines.Settings(rows=rows))
    product = baselines.runs(baselines.Settings())
    assert first in product
    assert {**second, "flips": "none"} in product
    assert second["flips"] == "average"


def test_a_run_holds_only_the_settings_that_its_method_uses():
    settings = baselines.Settings(n_train=(100, 20_000), landmarks=500)
    for run in baselines.runs(settings):
        assert ("patch_size" in run) == run["method"].startswith("random-patches")
        machine = run["method"] in (
            "random-patches-gaussian",
            "scattering-gaussian",
            "roto-translation",
        )
        assert ("landmarks" in run) == (machine and run["n_train"] == 20_000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ("scatering-ridge",)}, "scattering-ridge"),
        ({"flips": "up"}, "flips"),
        ({"filters": (0,)}, "--filters must be numbers above 0"),
        ({"rows": ("random-patches:64",)}, "METHOD:SIZE:IMAGES"),
        ({"rows": ("random-patches:64:0",)}, "numbers above 0"),
        ({"rows": ("random-patch:64:300",)}, "random-patches"),
        ({"rows": ("random-patches:64:300:up",)}, "flips"),
        ({"n_train": ()}, "--n-train must be numbers above 0"),
    ],
)
def test_wrong_settings_are_usage_errors(change, message):
    with pytest.raises(UsageError, match=message):
        baselines.runs(dataclasses.replace(baselines.Settings(), **change))


def test_the_command_computes_every_method_and_draws(tmp_path, capsys):
    code = cli.run(["baselines", "--preset", "smoke", "--out", str(tmp_path)])
    assert code == 0
    results = load_results(tmp_path)
    assert set(results["method"]) == set(baselines.METHODS)
    kernels = results["method"].isin(["relu-ntk", "relu-nngp", "convolutional-ntk"])
    assert (results["n_features"].isna() == kernels).all()
    assert results["test_accuracy"].between(0.3, 1).all()
    assert (results["fit_seconds"] > 0).all()
    for kind in ("csv", "md", "png"):
        assert list(tmp_path.rglob(f"baselines.{kind}")), kind
    assert "random patches, ridge" in capsys.readouterr().out


def test_an_entry_of_the_table_is_all_that_a_method_made_elsewhere_takes(monkeypatch):
    mine = Competitor("components", "mine", "*", made_by="baselines:arc_cosine_classifier")
    monkeypatch.setitem(COMPETITORS, "mine", mine)
    run = {"method": "mine", "size": 5, "flips": "average", "seed": 3}
    model = classifier(run, (1, 8, 8))
    assert (model.flips, model.image_shape) == ("average", (1, 8, 8))
    random = model.features.named_steps["features"]
    assert (random.n_components, random.random_state) == (5, 3)
    results = made_up("digits").replace({"method": {"random-patches": "mine"}})
    assert "mine" in accuracy_table(results).shown["method"].iloc[0]
    markers = [line.get_marker() for line in accuracy_figure(results).axes[1].lines]
    assert "*" in markers


def made_up(dataset="cifar10"):
    rows = []
    for method, sizes in (("random-patches", (16, 64)), ("scattering-gaussian", (2,))):
        for size in sizes:
            for n_train in (100, 1000):
                rows.append(
                    {
                        "dataset": dataset,
                        "method": method,
                        "size": size,
                        "n_train": n_train,
                        "flips": "none",
                        "seed": 0,
                        "n_features": 18 * size,
                        "test_accuracy": 0.5 + n_train / 1e4 + size / 1e3,
                        "cpu_seconds": 2.0,
                        "fit_cpu_seconds": 3.0,
                        "peak_memory_bytes": 2.0**30,
                        "data_label": "CIFAR-10, JPEG-75",
                    }
                )
    return pd.DataFrame(rows)


def test_published_points_stand_in_the_table_on_cifar10_only_and_are_marked():
    table = accuracy_table(made_up())
    sources = table.numbers["source"]
    assert (sources != "measured").sum() == len(published_points())
    assert sources[sources != "measured"].str.contains("†").any()
    assert any("recalled" in note for note in table.notes)
    digits = accuracy_table(made_up("digits"))
    assert (digits.numbers["source"] == "measured").all()


def test_the_figure_shows_every_method_against_features_and_against_images():
    left, right = accuracy_figure(made_up()).axes
    few, patches, _, scattering = left.lines
    assert few.get_alpha() < patches.get_alpha() == 1
    np.testing.assert_allclose(patches.get_xydata(), [[18 * 16, 61.6], [18 * 64, 66.4]])
    np.testing.assert_allclose(scattering.get_xydata(), [[36, 60.2]])
    assert left.get_title() == "1,000 training images (faint: 100)"
    against_images = [line for line in right.lines if len(line.get_xdata()) == 2]
    assert len(against_images) == 2
    assert sum(len(line.get_xdata()) == 1 for line in right.lines) == len(published_points())


def test_runs_with_and_without_mirror_images_are_lines_apart():
    results = made_up("digits")
    both = pd.concat([results, results.assign(flips="average", test_accuracy=0.9)])
    left, right = accuracy_figure(both.reset_index(drop=True)).axes
    assert len(left.lines) == 2 * 2 * 2
    assert [line.get_fillstyle() for line in right.lines] == ["full", "full", "none", "none"]
    assert right.lines[2].get_ydata() == pytest.approx(90)


def test_a_kernel_without_features_is_drawn_against_images_only():
    results = made_up("digits").assign(method="relu-ntk", n_features=float("nan"))
    left, right = accuracy_figure(results).axes
    assert not left.lines
    assert len(right.lines) == 1
    assert set(accuracy_table(results).shown["features"]) == {"–"}
