"""Appendix C: its runs, its measurements, its figure and its table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.command import cli
from experiments.command.registry import experiment
from experiments.data.datasets import load_dataset
from experiments.runs.results import Context, load_results, read_arrays
from experiments.spectrum import measure
from experiments.usage import UsageError
from tangent.kernel.features import tangent_features

spectrum = experiment("spectrum")

SMALL = dataclasses.replace(spectrum.PRESETS["smoke"], other_variants=())


@pytest.fixture
def context():
    return Context("cpu", "float64", load_dataset, lambda message: None)


def test_the_main_network_comes_first_on_images_and_on_random_pixels():
    runs = spectrum.runs(spectrum.Settings(seeds=(0, 1)))
    assert [r["inputs"] for r in runs[:2]] == ["images", "random"]
    assert (runs[0]["variant"], runs[0]["gain"]) == ("vgg11", 2.0)
    assert len(runs) == 2 * 2 * 7


def test_the_same_network_is_run_once():
    runs = spectrum.runs(spectrum.Settings(gain=1.0, other_gains=(1.0,)))
    assert sum(r["gain"] == 1.0 and r["width"] == 0.25 for r in runs) == 2


def test_the_paper_has_4950_rows():
    paper = spectrum.PRESETS["paper"]
    assert (paper.dataset, 10 * paper.n, paper.width, paper.gain) == ("cifar10", 4950, 1.0, 2.0)


def test_a_network_by_any_name_has_its_spectrum(tmp_path, context):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n"
        "def build(input_shape, n_outputs, generator):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(1024, n_outputs, bias=False))\n"
    )
    own = dataclasses.replace(SMALL, variant=f"{path}:build")
    runs = spectrum.runs(own)
    assert len(runs) == 2  # it has neither width nor gain to vary
    assert runs[0]["source"]
    found = spectrum.compute(runs[0], context).arrays["singular_values"]
    # of a linear network: those of its inputs, ten times each
    x = measure._inputs(runs[0], context).double().flatten(1)
    expected = torch.linalg.svdvals(x).repeat_interleave(10)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-6, atol=1e-6)
    path.write_text(path.read_text().replace("bias=False", "bias=True"))
    assert spectrum.runs(own)[0]["source"] != runs[0]["source"]
    words = ["spectrum", "--preset", "smoke", "--variant", f"{path}:build", "--other-variants"]
    assert cli.run([*words, "mlp", "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("inputs", ["images", "random"])
@pytest.mark.parametrize("variant", ["vgg11", "vgg11-friendly", "resnet18"])
def test_the_singular_values_are_those_of_the_features(context, inputs, variant):
    run = {**spectrum.runs(SMALL)[0], "inputs": inputs, "variant": variant, "width": 0.04}
    outcome = spectrum.compute(run, context)
    x = measure._inputs(run, context).double()
    model = measure._network(run, tuple(x.shape[1:])).double()
    phi = tangent_features(model, x).flatten(0, 1)
    expected = torch.linalg.svdvals(phi)
    found = torch.from_numpy(outcome.arrays["singular_values"])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7 * expected[0].item())
    assert outcome.metrics["trace"] == pytest.approx(expected.square().sum().item())


def test_images_and_pixels_are_normalized_alike(context):
    run = {**spectrum.runs(SMALL)[0], "n": 200}
    x = measure._inputs(run, context)
    assert abs(x.mean()) < 1e-5
    assert x.std() == pytest.approx(1, abs=1e-3)
    pixels = measure._inputs({**run, "inputs": "random"}, context)
    assert pixels.std() > 0.5
    assert not torch.equal(pixels, measure._inputs({**run, "inputs": "random", "seed": 5}, context))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"variant": "alexnet"}, "variant"), ({"n": 0}, "--n"), ({"seeds": ()}, "--seeds")],
)
def test_wrong_settings_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        spectrum.runs(dataclasses.replace(SMALL, **change))


def test_the_smoke_preset_runs_and_draws(tmp_path):
    words = ["spectrum", "--preset", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    assert cli.run(words) == 0
    results = load_results(tmp_path)
    assert len(results) == len(spectrum.runs(spectrum.PRESETS["smoke"]))
    for path in results["path"]:
        values = read_arrays(Path(path))["singular_values"]
        assert (np.diff(values) <= 0).all()
    (folder,) = (p for p in (tmp_path / "spectrum").iterdir() if p.name != "runs")
    assert {p.suffix for p in folder.iterdir()} >= {".png", ".csv", ".md"}
