"""The theorems at their smallest size: verdicts that can fail, files that are there."""

from __future__ import annotations

import dataclasses
import json

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
    smooth = verdicts[verdicts["verdict"] != "not covered"]
    assert len(smooth) >= 10
    assert set(smooth["verdict"]) == {"holds"}
    assert not smooth["statement"].str.contains("relu").any()
    contrasts = verdicts[verdicts["verdict"] == "not covered"]
    assert contrasts["statement"].str.contains("relu").all()
    assert set(contrasts["theorem"]) == {"2.2", "2.3"}


def test_a_wrong_slope_fails_its_verdict(results, monkeypatch):
    monkeypatch.setattr("experiments.theory_verdicts.slope", lambda x, y: -0.9)
    verdicts = verdict_table(results).numbers
    slopes = verdicts[verdicts["statement"].str.startswith("slope")]
    assert "FAILS" in set(slopes["verdict"])


def test_every_file_of_the_parts_run_is_written(results, tmp_path):
    names = {path.name for path in theory.draw(results, tmp_path)}
    assert {"theory.md", "theory.csv", "theory-finite-horizon.svg"} <= names
    assert "theory-kappa.svg" not in names


def test_a_limit_that_is_no_minimum_fails_theorem_2_5(tmp_path):
    small = dataclasses.replace(SMALL, parts=("under-parameterized",), alphas=(64.0, 1024.0))
    results = written(theory, small, tmp_path)
    fine = verdict_table(results).numbers.set_index("statement")["verdict"]
    (about,) = [s for s in fine.index if s.startswith("smallest Hessian") and "relu" not in s]
    assert fine[about] == "holds"
    for path in tmp_path.rglob("*.json"):
        document = json.loads(path.read_text())
        document["curves"]["hessian"][-1] = -1e-3
        path.write_text(json.dumps(document))
    assert verdict_table(results).numbers.set_index("statement")["verdict"][about] == "FAILS"


@pytest.mark.slow
def test_the_smoke_preset_runs_in_all_its_parts(tmp_path):
    results = written(theory, theory.PRESETS["smoke"], tmp_path)
    drawn = theory.draw(results, tmp_path / "drawn")
    assert sum(path.suffix == ".png" for path in drawn) == len(theory.PARTS)
    table = pd.read_csv(next(path for path in drawn if path.name == "theory.csv"))
    assert set(table["theorem"].astype(str)) == {"2.2", "2.3", "2.4", "2.5", "kappa"}
    outside = table[table["verdict"] == "not covered"]["theorem"].astype(str)
    assert set(outside) == {"2.2", "2.3", "2.4", "2.5", "kappa"}


def test_slope_is_the_exponent():
    x = np.array([1.0, 10.0, 100.0])
    assert slope(x, 3 * x**-1.5) == pytest.approx(-1.5)
    assert np.isnan(slope(x, [0.0, 0.0, 1.0]))


def test_float32_is_refused():
    run = theory.runs(SMALL)[0]
    with pytest.raises(UsageError, match="works in float64; got --dtype float32"):
        theory.compute(run, context("float32"))
