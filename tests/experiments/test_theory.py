"""The theorems at their smallest size: verdicts that can fail, files that are there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from experiments import theory
from experiments.theory_verdicts import slope, verdict_table
from experiments.usage import UsageError
from tests.experiments.test_fig1 import context, written

SMALL = dataclasses.replace(
    theory.PRESETS["smoke"],
    parts=("finite-horizon", "square-loss"),
    alphas=(64.0, 512.0),
    ks=(1.0,),
    horizon=1.0,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return written(theory, SMALL, tmp_path_factory.mktemp("theory"))


def test_every_verdict_that_is_due_holds_on_smooth_models(results):
    verdicts = verdict_table(results).numbers
    smooth = verdicts[verdicts["verdict"] != "contrast"]
    assert len(smooth) >= 10
    assert set(smooth["verdict"]) == {"holds"}
    contrasts = verdicts[verdicts["verdict"] == "contrast"]["statement"]
    assert contrasts.str.contains("relu").all()


def test_a_wrong_slope_fails_its_verdict(results, monkeypatch):
    monkeypatch.setattr("experiments.theory_verdicts.slope", lambda x, y: -0.9)
    verdicts = verdict_table(results).numbers
    slopes = verdicts[verdicts["statement"].str.startswith("slope")]
    assert "FAILS" in set(slopes["verdict"])


def test_every_file_of_the_parts_run_is_written(results, tmp_path):
    names = {path.name for path in theory.draw(results, tmp_path)}
    assert {"theory.md", "theory.csv", "theory-finite-horizon.svg"} <= names
    assert "theory-kappa.svg" not in names


@pytest.mark.slow
def test_the_smoke_preset_runs_in_all_its_parts(tmp_path):
    results = written(theory, theory.PRESETS["smoke"], tmp_path)
    drawn = theory.draw(results, tmp_path / "drawn")
    assert sum(path.suffix == ".png" for path in drawn) == len(theory.PARTS)
    table = pd.read_csv(next(path for path in drawn if path.name == "theory.csv"))
    assert set(table["theorem"].astype(str)) == {"2.2", "2.3", "2.4", "2.5", "kappa"}


def test_slope_is_the_exponent():
    x = np.array([1.0, 10.0, 100.0])
    assert slope(x, 3 * x**-1.5) == pytest.approx(-1.5)
    assert np.isnan(slope(x, [0.0, 0.0, 1.0]))


def test_float32_is_refused():
    run = theory.runs(SMALL)[0]
    with pytest.raises(UsageError, match="works in float64; got --dtype float32"):
        theory.compute(run, context("float32"))
