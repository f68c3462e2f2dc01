"""The theorems at their smallest size: verdicts that can fail, files that are there."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from experiments.command.registry import experiment
from experiments.theory import models
from experiments.theory.verdicts import verdict_table
from experiments.usage import UsageError
from tests.experiments.fig1.test_fig1 import context, written

theory = experiment("theory")

SMALL = dataclasses.replace(
    theory.PRESETS["smoke"],
    parts=("finite-horizon", "held-out", "square-loss"),
    alphas=(64.0, 512.0),
    ks=(1.0,),
    horizon=1.0,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "_STEPS", 100)  # of the ReLU descents, which have no verdict
        return written(theory, SMALL, tmp_path_factory.mktemp("theory"))


def test_every_verdict_that_is_due_holds_on_smooth_models(results):
    verdicts = verdict_table(results).numbers
    smooth = verdicts[verdicts["verdict"] != "not covered"]
    assert len(smooth) >= 10
    assert set(smooth["verdict"]) == {"holds"}
    assert not smooth["statement"].str.contains("relu").any()
    contrasts = verdicts[verdicts["verdict"] == "not covered"]
    assert contrasts["statement"].str.contains("relu").all()
    assert set(contrasts["theorem"]) == {"2.2", "2.3"}


def test_a_wrong_slope_fails_its_verdict(results, monkeypatch):
    monkeypatch.setattr("experiments.theory.claims.slope", lambda x, y: -0.9)
    verdicts = verdict_table(results).numbers
    slopes = verdicts[verdicts["statement"].str.startswith("slope")]
    assert "FAILS" in set(slopes["verdict"])


def test_every_file_of_the_parts_run_is_written(results, tmp_path):
    names = {path.name for path in theory.draw(results, tmp_path)}
    assert {"theory.md", "theory.csv", "theory-finite-horizon.png"} <= names
    assert "theory-kappa.png" not in names


@pytest.mark.slow
def test_the_smoke_preset_runs_in_all_its_parts(tmp_path):
    results = written(theory, theory.PRESETS["smoke"], tmp_path)
    drawn = theory.draw(results, tmp_path / "drawn")
    assert sum(path.suffix == ".png" for path in drawn) == len(theory.PARTS)
    table = pd.read_csv(next(path for path in drawn if path.name == "theory.csv"))
    assert set(table["theorem"].astype(str)) == {"2.2", "A.1", "2.3", "2.4", "2.5", "kappa"}
    outside = table[table["verdict"] == "not covered"]["theorem"].astype(str)
    assert set(outside) == {"2.2", "2.3", "2.4", "2.5", "kappa"}


def test_float32_is_refused():
    run = theory.runs(SMALL)[0]
    with pytest.raises(UsageError, match="works in float64; got --dtype float32"):
        theory.compute(run, context("float32"))
