"""The laziness report as an experiment: from the command to text, table and figure."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from experiments.command import cli
from experiments.command.registry import experiment
from experiments.runs.results import read_result
from experiments.usage import UsageError

laziness = experiment("laziness")


def test_the_command_writes_text_table_and_figure(tmp_path, capsys):
    words = ["laziness", "--preset", "smoke", "--alphas", "1", "100", "--out", str(tmp_path)]
    assert cli.run(words) == 0
    out = capsys.readouterr().out
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {"laziness.md", "laziness-mlp-seed0.txt", "laziness-mlp-seed0.png"} <= names
    assert "kappa of the centred network" in out
    (path,) = (tmp_path / "laziness" / "runs").glob("*.json")
    document = read_result(path)
    assert document["curves"]["trained_alpha"] == [1.0, 100.0, None]
    near, far = document["curves"]["trained_from_linearized"][1::-1]
    assert near < far
    assert document["metrics"]["parameters"] > 0


def test_an_own_network_in_a_file_is_reported(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n"
        "def build(input_shape, n_outputs, generator):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 8), nn.Tanh(), "
        "nn.Linear(8, n_outputs))\n"
    )
    words = ["laziness", "--preset", "smoke", "--model", f"{path}:build"]
    assert cli.run([*words, "--out", str(tmp_path / "o")]) == 0
    assert "mine.py:build" in capsys.readouterr().out


def test_a_function_of_another_signature_is_named_without_a_traceback(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("def build(n):\n    return None\n")
    words = ["laziness", "--preset", "smoke", "--model", f"{path}:build"]
    assert cli.run([*words, "--out", str(tmp_path / "o")]) == 2
    said = "".join(capsys.readouterr())
    assert "called with (input_shape, n_outputs, generator)" in said
    assert "Traceback" not in said


def test_weights_of_another_network_are_wrong_usage(tmp_path, capsys):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "mine.safetensors"
    safetensors.save_file({"weight": torch.zeros(2)}, path)
    words = ["laziness", "--preset", "smoke", "--weights", str(path)]
    assert cli.run([*words, "--out", str(tmp_path / "o")]) == 2
    said = "".join(capsys.readouterr())
    assert "do not fit --model" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "vgg12"}, "vgg11"),
        ({"n": 0}, "--n must be at least 1"),
        ({"alphas": (-1.0,)}, "--alphas must be positive"),
        ({"seeds": ()}, "--seeds needs one value"),
    ],
)
def test_wrong_settings_are_named(changes, words):
    with pytest.raises(UsageError, match=words):
        laziness.runs(dataclasses.replace(laziness.Settings(), **changes))
