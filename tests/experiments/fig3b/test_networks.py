"""Figure 3(b) for networks by name: their rows, their keys, and one command for what is new."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from experiments.command import cli
from experiments.command.registry import experiment, preset
from experiments.fig3b import draw as figure
from experiments.fig3b import draw_full
from experiments.runs.pack import run_paths
from experiments.runs.results import load_results, read_result, result_path
from experiments.usage import UsageError

fig3b, fig3a = experiment("fig3b"), experiment("fig3a")
RESULTS = Path(__file__).parents[3] / "results"

NETWORK = """
from torch import nn

def build(input_shape, n_outputs, generator):
    channels = input_shape[0]
    made = nn.Sequential(
        nn.Conv2d(channels, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(64, n_outputs),
    )
    for p in made.parameters():
        nn.init.normal_(p, 0, 0.2, generator=generator)
    return made
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(NETWORK)
    return f"{path}:build"


@pytest.fixture
def pictures(tmp_path):
    """Photographs of two kinds, of several sizes, that nothing of the project has seen."""
    rng = np.random.default_rng(0)
    for i in range(20):
        for kind, direction in (("across", 0), ("along", 1)):
            side = 40 + i
            stripes = 120 + 100 * np.sin(np.indices((side, side + 9))[direction] / 2 + i)
            pixels = stripes[..., None] + rng.normal(0, 12, (side, side + 9, 3))
            path = tmp_path / "pictures" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return tmp_path / "pictures"


def rows_of(*texts, **options):
    settings = fig3b.Settings(methods=(), networks=texts, seeds=(0,), **options)
    return fig3b.runs(settings)


@pytest.mark.parametrize("name", ["fig3b", "fig3a"])
def test_the_runs_that_are_kept_have_the_keys_that_are_asked_for(name):
    """A key that changes is a result that is lost."""
    documents = [read_result(path) for path in run_paths(RESULTS / name)]
    kept = {
        result_path(RESULTS, name, d["run"], fingerprint=d["data"]["fingerprint"], dtype=d["dtype"])
        for d in documents
    }
    assert kept == set(run_paths(RESULTS / name))
    marks = {d["data"]["fingerprint"] for d in documents if d["run"]["dataset"] == "cifar10"}
    module = experiment(name)
    presets = {"fig3b": ("laptop/cifar10", "exact/cifar10"), "fig3a": ("laptop/cifar10",)}
    wanted = [run for p in presets[name] for run in module.runs(module.PRESETS[p])]
    if name == "fig3b":
        some = dataclasses.replace(
            fig3b.PRESETS["full"], networks=("vgg11:0.25:1", "vgg11:0.25:1e7")
        )
        wanted += fig3b.runs(some)
    for run in wanted:
        found = {
            result_path(RESULTS, name, run, fingerprint=mark, dtype="float32") for mark in marks
        }
        assert found & kept, run


def test_a_network_alone_is_at_every_scale_and_solved():
    runs = rows_of("torchvision:resnet18", lazy_alpha=1e5)
    model = "torchvision:resnet18"
    assert [run["method"] for run in runs] == [
        model,
        f"{model}-lazy",
        f"{model}-linear",
        f"{model}-exact",
    ]
    assert [run["alpha"] for run in runs] == [1, 1e5, math.inf, math.inf]
    assert {run["model"] for run in runs} == {model}
    assert not {"width", "gain"} & runs[0].keys()
    assert (runs[3]["loss"], "lr" in runs[3]) == ("square", False)


def test_a_scale_stands_behind_the_name(own):
    runs = rows_of(f"{own}:inf", own, "vgg11:0.5:exact", "mlp:lazy", "designed_cnn:exact")
    assert runs[0] == runs[3]
    assert [run["method"].rpartition("-")[2] for run in runs[5:]] == ["exact", "lazy", "exact"]
    assert (runs[5]["width"], runs[6]["width"], "width" in runs[7]) == (0.5, 1, False)
    assert (
        runs[5]
        == fig3b.runs(fig3b.Settings(methods=("vgg11-exact",), seeds=(0,), vgg11_width=0.5))[0]
    )


def test_an_own_network_is_another_row_once_it_is_edited(own):
    before = rows_of(own)
    path = Path(own.rpartition(":")[0])
    path.write_text(path.read_text() + "\n")
    assert all(a["source"] != b["source"] for a, b in zip(before, rows_of(own), strict=True))


def test_given_weights_are_known_by_their_digest(own, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "w.safetensors"
    safetensors.save_file({"weight": torch.zeros(2)}, path)
    (one,) = rows_of(f"{own}:1", weights=(f"{own}={path}",))
    safetensors.save_file({"weight": torch.ones(2)}, path)
    (two,) = rows_of(f"{own}:1", weights=(f"{own}={path}",))
    assert one["weights"] == two["weights"] == str(path)
    assert one["weights_digest"] != two["weights_digest"]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("mlp", "takes NETWORK=FILE"),
        ("mlp=", "takes NETWORK=FILE"),
        ("mlp=none.safetensors", "there is no such file"),
        ("vgg11=none.safetensors", "no row of 'vgg11'"),
    ],
)
def test_weights_for_nothing_are_an_error(weights, words):
    with pytest.raises(UsageError, match=words):
        rows_of("mlp", weights=(weights,))


def test_one_command_makes_the_figure_for_a_network_and_images_never_seen(
    own, pictures, tmp_path, capsys
):
    out = tmp_path / "out"
    words = ["fig3b", "own", "--dataset", f"folder:{pictures}", "--networks", own]
    words += ["designed_cnn:inf", "designed_cnn:exact", "--n-filters", "16", "--device", "cpu"]
    assert cli.run([*words, "--out", str(out), "--threads", "1"]) == 0
    found = load_results(out).set_index("method")
    of_the_network = [f"{own}{kind}" for kind in ("", "-lazy", "-linear", "-exact")]
    designed = ["designed_cnn-linear", "designed_cnn-exact"]
    fixed = ["random-features", "scattering", "gaussian"]
    assert set(found.index) == {*of_the_network, *designed, *fixed}
    assert (found["status"] == "done").all()
    assert found.loc[f"{own}-exact", "test_accuracy"] > 0.9
    assert found.loc["designed_cnn-exact", "size"] > 1000
    shown = capsys.readouterr().out
    for name in ("α = 1", "α = 10⁷", "linearized (α = ∞)", "linearized, solved"):
        assert f"mine.py:build, {name}" in shown
    assert "designed CNN, linearized, solved" in shown
    assert "scattering" in shown
    names = {path.name for path in out.rglob("fig3b*")}
    assert {"fig3b.png", "fig3b.csv", "fig3b-exact.md", "fig3b-flow.png"} <= names
    assert cli.run([*words, "--out", str(out), "--threads", "1"]) == 0
    assert "0 runs computed, 9 were finished before" in capsys.readouterr().err


def test_given_weights_are_where_training_starts(own, pictures, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    torch = pytest.importorskip("torch")
    from experiments.networks import named

    made = named.factory(own)((3, 32, 32), 2, torch.Generator().manual_seed(7))
    path = tmp_path / "w.safetensors"
    safetensors.save_file(made.state_dict(), path)
    words = ["fig3b", "own", "--dataset", f"folder:{pictures}", "--networks", f"{own}:exact"]
    words += ["--methods", "--seeds", "0", "1", "--device", "cpu", "--out", str(tmp_path / "out")]
    assert cli.run([*words, "--weights", f"{own}={path}"]) == 0
    found = load_results(tmp_path / "out")
    # the same weights whatever the seed: the same kernel but for the order of the images
    assert found["top_eigenvalue"].max() == pytest.approx(found["top_eigenvalue"].min(), rel=1e-5)


def _frame(runs, **columns):
    measured = {
        "test_accuracy": 0.5,
        "train_accuracy": 0.6,
        "stability": 1.0,
        "size": 10.0,
        "cpu_seconds": 1.0,
        "peak_memory_bytes": 2**20,
        "memory_before_bytes": 0,
        "status": "done",
        "data_label": "CIFAR-10, JPEG-75",
        "data_fingerprint": "0123456789abcdef",
    }
    return pd.DataFrame([{**run, **measured} for run in runs]).assign(**columns)


def test_two_widths_of_a_network_are_two_rows_of_the_table():
    runs = rows_of("vgg11:0.25:1e7", "vgg11:0.5:1e7", "torchvision:resnet18:1")
    table = figure.accuracy_table(_frame(runs))
    assert table.shown["method"].tolist() == [
        "VGG-11, α = 10⁷, width 0.25",
        "VGG-11, α = 10⁷, width 0.5",
        "torchvision:resnet18, α = 1",
    ]


def test_networks_without_a_width_have_rows_beside_all_of_cifar10(tmp_path):
    settings = dataclasses.replace(
        preset(fig3b, "full"), networks=("vgg11:0.25:1", "torchvision:resnet18")
    )
    found = _frame(fig3b.runs(settings))
    rows = draw_full.comparison_rows(found, tmp_path)
    assert [row.name for row in rows] == [
        "VGG-11, width 1/4, α = 1",
        "torchvision:resnet18, α = 1",
        "torchvision:resnet18, α = 10⁷",
        "torchvision:resnet18, α = ∞",
        "torchvision:resnet18, linearized, solved",
    ]
    assert [row.kind for row in rows] == ["standard", "standard", "lazy", "lazy", "solved"]
