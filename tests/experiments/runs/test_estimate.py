"""Estimates of runs from finished ones."""

from __future__ import annotations

import json

import pytest

from experiments.runs.costs import Cost, costs_in, kept_costs
from experiments.runs.estimate import Estimate, estimate, minutes, total_of
from experiments.runs.results import Outcome, result_path, write_result

KNOWN = [
    Cost("fig3b", {"method": "vgg11", "n_train": 1000, "epochs": 2, "width": 0.5}, 60.0, 2**30, 3),
    Cost("fig3b", {"method": "scattering", "n_train": 1000}, 5.0, 2**29, 1),
]


def test_a_run_of_the_same_settings_takes_what_the_finished_ones_took():
    run = {"method": "vgg11", "n_train": 1000, "epochs": 2, "width": 0.5, "seed": 9}
    assert estimate("fig3b", run, KNOWN) == Estimate(60.0, 2**30, alike=1)


def test_other_settings_are_scaled_by_their_work():
    run = {"method": "vgg11", "n_train": 5000, "epochs": 4, "width": 1.0}
    assert estimate("fig3b", run, KNOWN) == Estimate(60.0 * 5 * 2 * 4, 2**30, scaled=1)


def test_all_images_count_as_many_as_the_data_set_has():
    run = {"method": "scattering", "n_train": None, "dataset": "cifar10"}
    assert estimate("fig3b", run, KNOWN).cpu_seconds == pytest.approx(5.0 * 50)


def test_what_only_one_of_two_runs_has_does_not_scale():
    networks = {"part": "dual", "n_train": 50_000, "rows": ["A", "B"], "width": 128, "units": 2_048}
    known = [Cost("open-question", networks, 4_000.0, 2**34, 1)]
    gaussians = {"part": "dual", "n_train": 25_000, "rows": ["both Gaussians"], "filters": 1_024}
    found = estimate("open-question", gaussians, known)
    assert found == Estimate(4_000.0 / 2 / 4, 2**34, scaled=1)


def test_a_run_with_the_same_settings_is_nearer_than_one_that_lacks_some():
    known = [
        Cost("toy", {"n_train": 100}, 1.0, 1, 1),
        Cost("toy", {"n_train": 50, "epochs": 3}, 9.0, 1, 1),
    ]
    assert estimate("toy", {"n_train": 100, "epochs": 1}, known).cpu_seconds == 6.0


@pytest.mark.parametrize(("experiment", "method"), [("fig3b", "gaussian"), ("fig3a", "vgg11")])
def test_what_has_no_run_like_it_is_not_known(experiment, method):
    assert estimate(experiment, {"method": method}, KNOWN) == Estimate(unknown=1)


def test_estimates_add_up_and_say_what_they_rest_on():
    whole = Estimate(60, 2**30, alike=1) + Estimate(3540, 2**31, scaled=1) + Estimate(unknown=2)
    assert str(whole) == (
        "about 60 minutes of CPU time, at least 2.0 GiB (1 scaled from other settings, 2 not known)"
    )
    assert str(Estimate(unknown=1)).startswith("not known")


def test_times_are_said_in_what_suits_them():
    assert [minutes(s) for s in (0.1, 18, 59.6, 90, 740, 57_700, 175_000_000)] == [
        "1 second",
        "18 seconds",
        "1.0 minutes",
        "1.5 minutes",
        "12 minutes",
        "16 hours",
        "49,000 hours",
    ]


def test_costs_are_means_over_seeds_of_finished_runs_only(tmp_path):
    for seed, seconds, status in ((0, 1.0, "done"), (1, 3.0, "done"), (2, 50.0, "diverged")):
        run = {"method": "a", "seed": seed}
        path = result_path(tmp_path, "toy", run, fingerprint=None, dtype="float32")
        write_result(
            path,
            experiment="toy",
            run=run,
            outcome=Outcome({}),
            status=status,
            cpu_seconds=seconds,
            peak_memory_bytes=100 + seed,
        )
    path.with_name("cut-short.json").write_text("{")
    (cost,) = costs_in(sorted((tmp_path / "toy" / "runs").glob("*.json")))
    assert cost == Cost("toy", {"method": "a"}, 2.0, 101, 2)


def test_the_package_knows_what_its_presets_take():
    from experiments.command.registry import experiment

    fig3b = experiment("fig3b")
    known = {cost.experiment for cost in kept_costs()}
    assert {"fig1", "fig2", "fig3a", "fig3b", "theory", "tabular"} <= known
    assert json.dumps([cost.run for cost in kept_costs()])
    whole = total_of("fig3b", fig3b.runs(fig3b.PRESETS["laptop/cifar10"]))
    assert (whole.alike, whole.scaled, whole.unknown) == (18, 0, 0)
