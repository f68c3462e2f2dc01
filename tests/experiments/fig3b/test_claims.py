"""The comparison on all images: rows, claims and their verdicts, and what is drawn."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd
import pytest

from experiments.command.registry import experiment
from experiments.fig3b.claims import claims, rows
from experiments.networks.claims import CLEAR, SMALL_GAP, Row, network_name

fig3b = experiment("fig3b")

_MARK = "a" * 64


def _run(model, width, alpha, train, test, seed=0, **more):
    kind = "" if alpha == 1 else "-lazy"
    return {
        "model": model,
        "width": width,
        "alpha": float(alpha),
        "method": f"{model}{kind}",
        "train_accuracy": train,
        "test_accuracy": test,
        "stability": 1.0,
        "size": 1000,
        "seed": seed,
        "n_train": None,
        "n_test": None,
        "status": "done",
        "cpu_seconds": 3600.0,
        "data_label": "CIFAR-10, JPEG-75",
        "data_fingerprint": _MARK,
        "dataset": "cifar10",
        **more,
    }


def _baseline(method, test, flips="average", n_train=50_000, mark=_MARK):
    return {
        "method": method,
        "size": 7,
        "flips": flips,
        "test_accuracy": test,
        "n_features": 10,
        "n_train": n_train,
        "n_test": 10_000,
        "status": "done",
        "cpu_seconds": 1800.0,
        "data_fingerprint": mark,
    }


@pytest.fixture
def networks():
    return pd.DataFrame(
        [
            _run("vgg11", 0.5, 1, 0.95, 0.85),
            _run("vgg11", 0.5, 1e7, 0.56, 0.55),
            _run("vgg11", 0.25, 1e7, 0.50, 0.50),
        ]
    )


@pytest.fixture
def fixed():
    return pd.DataFrame(
        [_baseline("random-patches-gaussian", 0.80), _baseline("roto-translation", 0.75)]
    )


def _verdicts(networks, fixed):
    return {claim.text: claim for claim in claims(rows(networks, fixed))}


def test_the_papers_order_holds_where_the_numbers_are_in_it(networks, fixed):
    found = _verdicts(networks, fixed)
    assert all(found[text].holds for text in found)
    assert (
        "+5.0 points, +9.3 standard errors"
        in found["standard CNN > random features (best of each)"].found
    )  # 0.05 / sqrt((.85 * .15 + .8 * .2) / 10000)


@pytest.mark.parametrize(
    ("test", "verdict"),
    [
        (0.8115, "holds"),
        (0.8105, "undecided"),
        (0.79, "undecided"),
        (0.7887, "undecided"),
        (0.7883, "does not hold"),
    ],
)
def test_a_difference_counts_from_two_standard_errors_on(networks, fixed, test, verdict):
    networks.loc[0, "test_accuracy"] = test
    text = "standard CNN > random features (best of each)"
    assert CLEAR == 2
    found = _verdicts(networks, fixed)[text]
    assert found.verdict == verdict
    assert found.holds is (verdict == "holds")


@pytest.mark.parametrize(("train", "holds"), [(0.599, True), (0.601, False)])
def test_a_gap_of_more_than_five_points_is_overfitting(networks, fixed, train, holds):
    networks.loc[1, "train_accuracy"] = train
    assert SMALL_GAP == 0.05
    (text,) = [t for t in _verdicts(networks, fixed) if "does not overfit" in t]
    assert _verdicts(networks, fixed)[text].holds is holds


def test_a_lazy_network_that_fits_better_is_said(networks, fixed):
    networks.loc[1, "train_accuracy"] = 0.96
    (text,) = [t for t in _verdicts(networks, fixed) if "reaches less" in t]
    assert _verdicts(networks, fixed)[text].holds is False


def test_what_is_missing_or_diverged_is_not_measured(networks):
    networks.loc[0, ["test_accuracy", "train_accuracy", "status"]] = [None, None, "diverged"]
    found = _verdicts(networks, pd.DataFrame())
    assert found["standard CNN > lazy CNN (best of each)"].holds is None
    assert found["random features > scattering (best of each)"].verdict == "not measured"


def test_one_of_two_seeds_that_diverged_leaves_no_mean():
    frame = pd.DataFrame(
        [_run("vgg11", 1, 1, 0.9, 0.8), _run("vgg11", 1, 1, None, None, 1, status="diverged")]
    )
    (row,) = rows(frame, pd.DataFrame())
    assert (row.test, row.runs) == (None, 2)


def test_seeds_add_their_spread_to_the_standard_error():
    frame = pd.DataFrame([_run("vgg11", 1, 1, 0.9, t, s) for s, t in enumerate((0.7, 0.8))])
    (row,) = rows(frame, pd.DataFrame())
    assert row.test == pytest.approx(0.75)
    assert row.error == pytest.approx(math.sqrt(0.75 * 0.25 / 10_000 + 0.005 / 2))


def test_widening_compares_the_widest_with_the_narrowest(networks, fixed):
    claim = _verdicts(networks, fixed)["widening helps the lazy VGG-11"]
    assert claim.found.startswith("55.0 (VGG-11, width 1/2, α = 10⁷) against 50.0")


@pytest.mark.parametrize(
    ("width", "alpha", "name"),
    [
        (0.25, 1e7, "VGG-11, width 1/4, α = 10⁷"),
        (1.0, 1.0, "VGG-11, width 1, α = 1"),
        (0.3, math.inf, "VGG-11, width 0.3, α = ∞"),
        (8.0, 1e10, "VGG-11, width 8, α = 10¹⁰"),
    ],
)
def test_names_say_width_and_scale(width, alpha, name):
    assert network_name("vgg11", width, alpha) == name


def test_only_baselines_of_the_same_images_stand_beside(networks, tmp_path, monkeypatch):
    from experiments.fig3b import draw_full as full_figure

    frame = pd.DataFrame(
        [
            _baseline("random-patches", 0.70),
            _baseline("random-patches", 0.60, n_train=10_000),
            _baseline("random-patches", 0.65, mark="b" * 64),
        ]
    )
    runs = tmp_path / "baselines" / "runs"
    runs.mkdir(parents=True)
    (runs / "some.json").write_text("{}")
    monkeypatch.setattr("experiments.fig3b.draw_full.load_results", lambda paths: frame)
    found = full_figure.comparison_rows(networks, tmp_path)
    assert [row.test for row in found if row.kind == "patches"] == [0.70]


def test_a_study_of_all_images_is_drawn_with_claims_and_widths(networks, tmp_path):
    networks = networks.assign(path=str(tmp_path / "fig3b" / "runs" / "any.json"))
    paths = fig3b.draw(networks, tmp_path / "fig3b" / "full")
    names = {path.name for path in paths}
    assert {"fig3b.png", "fig3b.md", "fig3b-claims.csv", "fig3b-widening.png"} <= names
    table = (tmp_path / "fig3b" / "full" / "fig3b.md").read_text()
    assert "85.0 ± 0.4" in table
    assert "89.7†" in table


def test_rows_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Row("lazy", "x", "m", 1.0, 1.0, 0.1, 1, None, 0.0, None).test = 0.0


def test_what_optimization_and_what_the_kernel_loses_are_two_claims():
    solved = _run("vgg11", 0.25, math.inf, 0.6, 0.5, method="vgg11-stopped", loss="square")
    runs = [_run("vgg11", 0.25, 1, 0.8, 0.7), _run("vgg11", 0.25, math.inf, 0.45, 0.4), solved]
    made = claims(rows(pd.DataFrame(runs), pd.DataFrame()))
    optimization, kernel = (c for c in made if "lost by" in c.text)
    assert "50.0" in optimization.found
    assert "+10.0 points" in optimization.found
    assert "+20.0 points" in kernel.found
    assert optimization.holds
    assert kernel.holds
    assert not any("solved" in c.text for c in made if "lost by" not in c.text)
