"""`experiments diagnostics`: from the command to the files, for a named net and one's own."""

from __future__ import annotations

import dataclasses
import sys

import pandas as pd
import pytest
import torch

from experiments import cli, diagnostics
from experiments.data import load_dataset
from experiments.diagnostics_figure import reported
from experiments.results import Context, load_results
from experiments.usage import UsageError
from tangent.diagnostics import report

SMOKE = diagnostics.PRESETS["smoke"]

OWN = """
from torch import nn

def small(input_shape, n_outputs, generator):
    head = nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 10)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), *head)

def nothing(input_shape, n_outputs, generator):
    return 3

def plain():
    return small(None, 10, None)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)  # of the test before
    return "mynets:small"


def test_the_smoke_preset_runs_and_draws(tmp_path):
    words = ["diagnostics", "--preset", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    assert cli.run(words) == 0
    (row,) = load_results(tmp_path).to_dict("records")
    folder = tmp_path / "diagnostics" / "smoke-digits"
    names = {path.name for path in folder.iterdir()}
    assert {"diagnostics.csv", "diagnostics-mlp-seed0.txt", "diagnostics-mlp-seed0.png"} <= names
    (table,) = pd.read_csv(folder / "diagnostics.csv").to_dict("records")
    assert table["kappa"] == pytest.approx(row["kappa"])
    assert table["kinks"] == "relu"


def test_a_report_is_read_back_as_it_was_made(own, tmp_path):
    words = ["diagnostics", "--preset", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    assert cli.run([*words, "--model", own, "--starts", "1"]) == 0
    (path,) = load_results(tmp_path)["path"]
    (run,) = diagnostics.runs(dataclasses.replace(SMOKE, model=own, starts=1))
    context = Context("cpu", "float64", load_dataset, lambda message: None)
    x, y, classes = diagnostics._data(run, context)
    torch.manual_seed(0)
    model = diagnostics._network(run, tuple(x.shape[1:]), classes)
    generator = torch.Generator().manual_seed(0)
    expected = report(model, x, y, steps=SMOKE.steps, starts=1, generator=generator)
    found = reported(tmp_path / path)
    assert found == expected
    (text,) = tmp_path.rglob("*.txt")
    assert text.read_text() == f"{expected}\n"


def test_another_file_is_another_run(own, tmp_path):
    settings = dataclasses.replace(SMOKE, model=own)
    before = diagnostics.runs(settings)
    (tmp_path / "mynets.py").write_text(OWN.replace("Tanh", "ReLU"))
    assert diagnostics.runs(settings) != before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "mpl"}, "did you mean 'mlp'"),
        ({"model": "nowhere:net"}, "no module 'nowhere'"),
        ({"n": 0}, "--n"),
        ({"seeds": ()}, "--seeds"),
    ],
)
def test_wrong_settings_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        diagnostics.runs(dataclasses.replace(SMOKE, **change))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", r"it must return a torch\.nn\.Module; got int"),
        ("missing", "has no function 'missing'"),
        ("plain", r"called with \(input_shape, n_outputs, generator\); its own signature is \(\)"),
    ],
)
def test_what_returns_no_network_is_named(own, name, words):
    (run,) = diagnostics.runs(dataclasses.replace(SMOKE, model=f"mynets:{name}"))
    with pytest.raises(UsageError, match=words):
        diagnostics._network(run, (1, 32, 32), 10)
