"""What is said of accuracy and stability against alpha, and when it is not said."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from experiments.command.registry import experiment
from experiments.fig3a.claims import ALL_STABLE, SAME, claims, rows
from experiments.networks.claims import CLEAR

ALPHAS = (1.0, 1e3, 1e7, math.inf)


def frame(test=(0.8, 0.6, 0.5, 0.5), train=(0.9, 0.7, 0.52, 0.52), stable=(0.6, 0.9, 1.0, 1.0)):
    numbers = zip(ALPHAS, train, test, stable, strict=True)
    return pd.DataFrame(
        [
            {
                "model": "vgg11",
                "width": 0.25,
                "alpha": alpha,
                "rate": "held-out",
                "seed": 0,
                "train_accuracy": train,
                "test_accuracy": test,
                "train_loss": 0.1,
                "stability": stability,
                "n_train": None,
                "n_test": None,
                "lr": 0.1,
                "stability_edge": 1.0,
                "cpu_seconds": 2.0,
                "epochs": 30,
                "batch_size": 64,
                "loss": "square",
                "gain": 1.0,
                "status": "done",
                "dataset": "cifar10",
                "data_label": "CIFAR-10, JPEG-75",
            }
            for alpha, train, test, stability in numbers
        ]
    )


def verdicts(**columns):
    return [claim.verdict for claim in claims(rows(frame(**columns)))]


def test_all_six_hold_where_they_do():
    made = claims(rows(frame()))
    assert [claim.verdict for claim in made] == ["holds"] * 6
    assert made[0].found.startswith("80.0 (VGG-11, width 1/4, α = 1) against 50.0 (")
    assert made[4].found == "60.0, 90.0, 100.0"
    assert made[5].found == "train 52.00 and 52.00, test 50.00 and 50.00"


@pytest.mark.parametrize(
    ("place", "columns", "verdict"),
    [
        (0, {"test": (0.5, 0.5, 0.5, 0.5)}, "undecided"),
        (0, {"test": (0.4, 0.4, 0.5, 0.5)}, "does not hold"),
        (1, {"test": (0.8, 0.5, 0.52, 0.52)}, "does not hold"),
        (2, {"train": (0.5, 0.7, 0.52, 0.52)}, "does not hold"),
        (3, {"train": (0.9, 0.7, 0.56, 0.56)}, "does not hold"),
        (4, {"stable": (0.6, 0.9, 0.89, 1.0)}, "does not hold"),
        (4, {"stable": (0.6, 0.9, ALL_STABLE - 1e-4, 1.0)}, "does not hold"),
        (5, {"test": (0.8, 0.6, 0.5, 0.5 + 1.1 * SAME)}, "does not hold"),
        (5, {"train": (0.9, 0.7, 0.52, 0.52 - 1.1 * SAME)}, "does not hold"),
    ],
)
def test_each_fails_on_numbers_that_are_just_not_so(place, columns, verdict):
    assert verdicts(**columns)[place] == verdict


@pytest.mark.parametrize(("errors", "verdict"), [(0.9, "holds"), (1.1, "does not hold")])
def test_a_rise_counts_from_two_standard_errors_on(errors, verdict):
    rise = errors * CLEAR * math.sqrt(2 * 0.5 * 0.5 / 10_000)
    assert verdicts(test=(0.8, 0.5, 0.5 + rise, 0.5))[1] == verdict


def test_a_diverged_run_leaves_its_claims_unmeasured():
    nan = math.nan
    found = verdicts(test=(0.8, 0.6, nan, 0.5), train=(0.9, 0.7, nan, 0.5))
    assert found == ["not measured"] * 4 + ["holds", "not measured"]
    assert verdicts(stable=(0.6, 0.9, nan, 1.0))[4] == "not measured"


def test_nothing_is_said_without_the_standard_network_or_a_lazy_one():
    found = rows(frame())
    assert claims(found[1:]) == []
    assert [claim.text for claim in claims(found[:2])] == [
        "VGG-11, width 1/4, α = 1 above the same network at α = 10³",
        "test accuracy never rises with α",
        "VGG-11, width 1/4, α = 10³ reaches less than alpha = 1 on the training images",
        "VGG-11, width 1/4, α = 10³ does not overfit (training minus test at most 5 points)",
        "the share of stable ReLUs rises with α to all of them",
    ]
    assert claims([found[0], found[3]]) == []


@pytest.mark.parametrize(("images", "written"), [(None, True), (2_000, False)])
def test_they_stand_beside_the_figure_of_all_images_only(images, written, tmp_path):
    results = frame().assign(n_train=images)
    names = {path.name for path in experiment("fig3a").draw(results, tmp_path)}
    assert ("fig3a-claims.md" in names) == written
    assert "fig3a.md" in names
    if written:
        text = (tmp_path / "fig3a-claims.md").read_text()
        assert text.count("| holds") == 6
        assert "Section 3.2 on CIFAR-10, JPEG-75" in text
