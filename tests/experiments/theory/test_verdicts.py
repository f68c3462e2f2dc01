"""Verdicts of the theorems on made-up measurements: where each begins to fail."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from experiments.runs.results import Outcome, load_results, result_path, write_result
from experiments.theory.claims import bound_claim, fitted_exponent, mean_claim, slope
from experiments.theory.verdicts import verdict_table

ALPHAS = (4.0, 16.0, 64.0, 256.0, 1024.0)
TIMES = np.linspace(0, 4, 9)


def power(x, exponent, at_64=1.0):
    """A power law in x, times a constant that leaves the value at 64 as it is."""
    return at_64 * (np.array(x) / 64) ** exponent


def finite_horizon():
    curves = {
        "alpha": ALPHAS,
        "weights": power(ALPHAS, -1),
        "weights_gap": power(ALPHAS, -2),
        "outputs_gap": power(ALPHAS, -1),
        "weights_bound": power(ALPHAS, -1, 1.5),
    }
    return {"part": "finite-horizon", "model": "tanh", "loss": "square"}, curves


def square_loss():
    alphas = (10.0, 100.0, 1000.0)
    curves = {"k": [1.0] * 3, "alpha": alphas, "allowed": [True] * 3}
    for name, bound, exponent in (
        ("outputs_gap", "outputs_bound", -1),
        ("weights", "weights_bound", -1),
        ("weights_gap", "weights_gap_bound", -2),
    ):
        curves |= {name: power(alphas, exponent), bound: power(alphas, exponent, 1.5)}
    return {"part": "square-loss", "model": "quadratic"}, curves


def over_parameterized():
    multiples = (1.0001, 4.0, 16.0)
    curves = {"alpha": power(multiples, 1), "bound": np.exp(-TIMES)}
    curves |= {f"error_{multiple:g}": np.exp(-4 * TIMES) for multiple in multiples}
    for name, bound, exponent in (
        ("weights", "weights_bound", -1),
        ("outputs_gap", "outputs_bound", -1),
        ("weights_gap", "weights_gap_bound", -2),
    ):
        curves |= {name: power(multiples, exponent), bound: power(multiples, exponent, 1.5)}
    run = {"part": "over-parameterized", "model": "quadratic", "condition": 1.0}
    return {**run, "multiples": multiples}, curves


def under_parameterized():
    some = np.ones(len(ALPHAS))
    curves = {
        "alpha": ALPHAS,
        "rate": 2 * some,
        "limit": some,
        "gradient": 0 * some,
        "hessian": some,
    }
    metrics = {"linear_rate": 2.0, "linear_optimum": 1.0, "starts": 8, "escapes": 3}
    metrics |= {"rank_doubled": 16, "rank_near_doubled": 32}
    return {"part": "under-parameterized", "model": "tanh-unit", **metrics}, curves


def kappa():
    widths = (8, 32, 128, 512)
    curves = {"m": widths, "root": power(widths, -0.5), "inverse": power(widths, 0)}
    return {"part": "kappa", "model": "tanh"}, curves


def held_out():
    curves = {"alpha": ALPHAS, "seen": power(ALPHAS, -1), "others": power(ALPHAS, -1)}
    return {"part": "held-out", "model": "tanh"}, curves


def not_necessary():
    curves = {"curvature": (0.0, 10.0, 1e3), "kappa": (1.0, 2.0, 20.0), "gap": (0.01, 0.01, 0.01)}
    return {"part": "not-necessary", "model": "tanh", "alpha": 256.0}, curves


def wide():
    widths = (16, 64, 256)
    curves = {"m": widths, "weights": power(widths, -0.5), "kernel": power(widths, -0.5)}
    return {"part": "wide", "model": "vgg11"}, curves


def mean_field():
    curves = {"m": (8, 32), "inverse": (1e-3, 1e-3), "root": (1e-2, 1e-2), "minimum": (0.1, 0.1)}
    return {"part": "mean-field"}, curves


PARTS = {f.__name__: f for f in (finite_horizon, held_out, square_loss, over_parameterized,
                                 under_parameterized, kappa, not_necessary, wide,
                                 mean_field)}  # fmt: skip


def verdicts(folder, run, curves, seeds=(0, 1)):
    """Statement -> verdict, of the same measurement with several seeds."""
    metrics = {
        k: run[k] for k in run if k.startswith(("linear", "rank", "starts", "escapes", "alpha"))
    }
    settings = {k: v for k, v in run.items() if k not in metrics}
    for seed in seeds:
        one = {**settings, "seed": seed}
        path = result_path(folder, "theory", one, fingerprint=None, dtype="float64")
        curves = {name: np.asarray(values).tolist() for name, values in curves.items()}
        outcome = Outcome(metrics, curves)
        write_result(path, experiment="theory", run=one, outcome=outcome, dtype="float64")
    table = verdict_table(load_results(folder)).numbers
    return dict(zip(table["statement"], table["verdict"], strict=True)), table


def failed(folder, run, curves):
    return {s for s, verdict in verdicts(folder, run, curves)[0].items() if verdict != "holds"}


@pytest.mark.parametrize("part", PARTS)
def test_measurements_as_the_theorem_says_hold(part, tmp_path):
    assert not failed(tmp_path, *PARTS[part]())


@pytest.mark.parametrize("part", PARTS)
def test_one_value_that_is_nan_fails_whichever_alpha_it_stands_at(part, tmp_path):
    run, curves = PARTS[part]()
    axes = {"alpha", "k", "allowed", "m", "curvature"}
    for name in curves.keys() - axes:
        for at in range(len(curves[name])):
            broken = copy.deepcopy(curves)
            broken[name] = np.array(broken[name], dtype=float)
            broken[name][at] = math.nan
            assert failed(tmp_path / f"{name}-{at}", run, broken), (name, at)


@pytest.mark.parametrize("at", range(3))
def test_a_distance_that_is_nan_is_no_distance_below_the_integrators_error(at, tmp_path):
    run, curves = square_loss()
    put(curves, "outputs_gap", at, math.nan)
    assert "slope of the distance in alpha" in failed(tmp_path, run, curves)


def tilt(curves, name, x, by):
    """Change the curve's exponent."""
    curves[name] = np.array(curves[name]) * (np.array(curves[x]) / 64) ** by


def scale(curves, name, at, by):
    """Multiply the value at one place, or all for None."""
    curves[name] = np.array(curves[name], dtype=float)
    curves[name][slice(None) if at is None else at] *= by


def put(curves, name, at, value):
    """Set the value at one place."""
    curves[name] = np.array(curves[name], dtype=float)
    curves[name][at] = value


E4 = float(np.exp(-TIMES[4]))

# part, words of the statement, what is changed, a change that it bears, one that fails it
LIMITS = [
    ("finite_horizon", "slope of sup |w - w0|", tilt, ("weights", "alpha"), 0.019, 0.021),
    ("finite_horizon", "slope of sup |w - wbar|", tilt, ("weights_gap", "alpha"), -0.019, -0.021),
    ("finite_horizon", "slope of sup |alpha h", tilt, ("outputs_gap", "alpha"), 0.019, 0.021),
    ("finite_horizon", "over its bound", scale, ("weights", 0), 1.499, 1.501),
    ("held_out", "on training inputs", tilt, ("seen", "alpha"), 0.019, 0.021),
    ("held_out", "on 500 held-out", tilt, ("others", "alpha"), 0.019, 0.021),
    ("square_loss", "|alpha h - alpha hbar| / E", scale, ("outputs_gap", None), 1.499, 1.501),
    ("square_loss", "|w - w0|", scale, ("weights", 1), 1.499, 1.501),
    ("square_loss", "|w - wbar|", scale, ("weights_gap", 2), 1.499, 1.501),
    ("square_loss", "slope", tilt, ("outputs_gap", "alpha"), 0.019, 0.021),
    ("over_parameterized", "error at every time", put, ("error_4", 4), E4, E4 * 1.000001),
    ("over_parameterized", "slope of sup |w - w0|", tilt, ("weights", "alpha"), 0.049, 0.051),
    ("over_parameterized", "slope of sup |alpha h", tilt, ("outputs_gap", "alpha"), 0.049, 0.051),
    ("over_parameterized", "slope of sup |w - wbar|", tilt, ("weights_gap", "alpha"), 0.049, 0.051),
    ("over_parameterized", "sup |w - w0|, ", scale, ("weights", 0), 1.499, 1.501),
    ("over_parameterized", "sup |alpha h - alpha hbar|, ", scale, ("outputs_gap", 1), 1.499, 1.501),
    ("over_parameterized", "sup |w - wbar| (no", scale, ("weights_gap", 2), 1.499, 1.501),
    ("under_parameterized", "rate of F - F_inf", scale, ("rate", None), 1.019, 1.021),
    ("under_parameterized", "change of the rate", scale, ("rate", -2), 1.019, 1.021),
    ("under_parameterized", "limit of the loss", scale, ("limit", -1), 0.981, 0.979),
    ("under_parameterized", "|grad F|", put, ("gradient", 2), 0.9e-5, 1.1e-5),
    ("under_parameterized", "smallest Hessian", put, ("hessian", 3), 1e-3, -1e-3),
    ("under_parameterized", "rate over twice", scale, ("rate", 2), 1.019, 1.021),
    ("kappa", "alpha(m) = m^-1/2", tilt, ("root", "m"), 0.049, 0.051),
    ("kappa", "alpha(m) = 1/m", tilt, ("inverse", "m"), 0.049, 0.051),
    ("not_necessary", "kappa with the largest", scale, ("kappa", 2), 0.51, 0.49),
    ("not_necessary", "distance to the linearized path over", scale, ("gap", None), 4.9, 5.1),
    ("not_necessary", "change of that distance", scale, ("gap", 1), 1.0009, 1.0011),
    ("wide", "slope of |w - w0|", tilt, ("weights", "m"), 0.249, 0.251),
    ("wide", "slope of |K - K0|", tilt, ("kernel", "m"), 0.249, 0.251),
    ("mean_field", "population loss of 1/m", scale, ("inverse", 0), 9.99, 10.01),
    ("mean_field", "least loss of the linearized", scale, ("minimum", 0), 0.101, 0.099),
    ("mean_field", "loss of 1/sqrt(m) over", scale, ("root", -1), 0.501, 0.499),
]


@pytest.mark.parametrize(("part", "words", "change", "where", "borne", "refused"), LIMITS)
def test_every_tolerance_is_where_it_is_said_to_be(
    part, words, change, where, borne, refused, tmp_path
):
    for by, verdict in ((borne, "holds"), (refused, "FAILS")):
        run, curves = PARTS[part]()
        change(curves, *where, by)
        found, _ = verdicts(tmp_path / verdict, run, curves)
        assert [v for statement, v in found.items() if _about(statement, words)] == [verdict]


def _about(statement, words):
    slopes = words.startswith(("slope", "alpha(m)", "on "))
    return words in statement and slopes == statement.startswith("slope")


def test_every_claim_with_a_tolerance_is_in_the_table_above(tmp_path):
    tried = {part: [words for p, words, *_ in LIMITS if p == part] for part in PARTS}
    for part, make in PARTS.items():
        found, _ = verdicts(tmp_path / part, *make())
        plain = [s for s in found if not s.startswith(("starts from", "rank of"))]
        missed = [s for s in plain if not any(_about(s, words) for words in tried[part])]
        assert not missed


def test_no_start_that_escapes_fails_and_equal_ranks_fail(tmp_path):
    run, curves = under_parameterized()
    (about,) = failed(tmp_path / "a", {**run, "escapes": 0}, curves)
    assert about.startswith("starts from which")
    (about,) = failed(tmp_path / "b", {**run, "rank_near_doubled": 16}, curves)
    assert about.startswith("rank of Dh")


def test_the_tolerance_of_kappa_does_not_grow_with_its_noise(tmp_path):
    run, curves = kappa()
    m = np.array(curves["m"]) / 64
    for seed, by in enumerate((-0.2, 0.5, -0.1, 0.04)):  # mean 0.06, standard error 0.16
        one = {**curves, "root": np.array(curves["root"]) * m**by}
        found, _ = verdicts(tmp_path, run, one, seeds=(seed,))
    assert found["slope of kappa in m, alpha(m) = m^-1/2"] == "FAILS"


def test_the_slack_of_every_bound_is_a_number_and_that_of_2_4_is_said_in_words(tmp_path):
    run, curves = over_parameterized()
    for name in ("outputs_bound", "weights_gap_bound"):
        curves[name] = 1e4 * curves[name]
    _, table = verdicts(tmp_path, run, curves)
    bounds = table[table["statement"].str.contains("over its bound")].set_index("statement")
    assert len(bounds) == 4
    outputs = bounds.loc["sup |alpha h - alpha hbar|, condition number 1, over its bound"]
    assert outputs["slack_least"] == pytest.approx(1.5e4)
    assert outputs["slack_most"] == pytest.approx(1.5e4)
    assert outputs["bound over measured"] == "2e+04 to 2e+04"
    notes = " ".join(verdict_table(load_results(tmp_path)).notes)
    assert "2e+04 to 2e+04 times what was measured" in notes
    assert "the slopes are the test" in notes


def test_slack_counts_resolved_numbers_and_verdicts_count_all():
    claim = bound_claim("2.3", "x", [0.5, 1e-12], [1.0, 1.0], resolved=1e-8)
    assert claim.slack == (2.0, 2.0)
    assert bound_claim("2.3", "x", [0.5, math.nan], [1.0, 1.0], resolved=1e-8).holds is False
    assert bound_claim("2.3", "x", [], []).holds is False


def test_slope_is_the_exponent_of_all_points_or_nan():
    x = np.array([1.0, 10.0, 100.0])
    assert slope(x, 3 * x**-1.5) == pytest.approx(-1.5)
    for bad in (math.nan, 0.0, -1.0, math.inf):
        assert np.isnan(slope(x, [1.0, 0.1, bad]))
    assert np.isnan(slope([1.0], [1.0]))
    assert fitted_exponent(x, [5.0, 1.0, 0.1], start=10) == pytest.approx(-1)
    assert np.isnan(fitted_exponent(x, [math.nan, 1.0, 0.1], start=10))


def test_no_seeds_and_a_nan_seed_fail():
    assert mean_claim("2.2", "x", [], 1.0, 0.1).holds is False
    assert mean_claim("2.2", "x", [1.0, math.nan], 1.0, 0.1).holds is False
