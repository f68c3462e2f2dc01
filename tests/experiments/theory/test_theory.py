"""The theorems at their smallest size: verdicts that can fail, files that are there."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch

from experiments.command.registry import experiment
from experiments.theory import measure as _theory
from experiments.theory.verdicts import verdict_table
from experiments.usage import UsageError
from tangent.laziness.curvature import second_derivative_norm
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
        patch.setattr(_theory, "_STEPS", 100)  # of the ReLU descents, which have no verdict
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


@pytest.mark.parametrize("model", ["tanh-unit", "tanh-population"])
def test_one_unit_ends_at_the_linear_optimum_at_the_linear_rate(model, monkeypatch):
    monkeypatch.setattr(_theory, "_STARTS", 1)
    run = {"seed": 0, "model": model, "alphas": (1024.0,)}
    found = _theory.under_parameterized_path(run, "cpu")
    assert found.curves["rate"][0] == pytest.approx(found.metrics["linear_rate"], rel=0.01)
    assert found.curves["limit"][0] == pytest.approx(found.metrics["linear_optimum"], rel=1e-3)
    assert 2 * found.curves["hessian"][0] == pytest.approx(found.curves["rate"][0], rel=0.01)
    assert (found.metrics["rank_doubled"], found.metrics["rank_near_doubled"]) == (16, 32)
    assert found.metrics["rank_centred"] == found.metrics["rank_near_centred"] == 3


def test_the_population_is_that_of_normal_inputs():
    x, share = _theory._normal_nodes(3)
    assert float(share.sum()) == pytest.approx(1)
    torch.testing.assert_close(x.T @ (share[:, None] * x), torch.eye(3, dtype=torch.float64))
    w = torch.tensor([0.3, -0.5, 0.4], dtype=torch.float64)
    # w.x is normal with variance |w|^2: an integral over one dimension, on a fine grid
    z = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    density = (-z.square() / 2).exp() / (2 * torch.pi) ** 0.5
    expected = torch.trapezoid(torch.tanh(w.norm() * z).square() * density, z)
    found = (share * torch.tanh(x @ w).square()).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_largest_curvature_of_a_unit_is_that_of_the_network():
    activation = torch.tanh
    draws = _theory._Draws.of({"seed": 0}, "cpu")
    x, b, a = draws.normal(4, 2), draws.normal(3, 2), draws.normal(3).sign()
    found = _theory._unit_curvature(x, b, a, activation, draws, starts=30)

    def outputs(w):
        rows = w.view(-1, 3)  # (b_j, a_j)
        return activation(x @ rows[:, :2].T) @ rows[:, 2]

    units = torch.cat([b, a[:, None]], dim=1)
    options = {"starts": 30, "generator": draws.generator}
    alone = max(second_derivative_norm(outputs, unit, **options) for unit in units)
    assert found == pytest.approx(alone, rel=1e-5)
    # the search over all weights at once may end lower, never higher
    assert second_derivative_norm(outputs, units.flatten(), **options) <= found * (1 + 1e-6)


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
