"""The exact rows of Figure 3(b) against the network trained by tiny steps."""

from __future__ import annotations

import json
import math

import pytest

from experiments.fig3b.exact import compute_exact
from experiments.fig3b.settings import Settings, runs
from experiments.runs.results import Context, jsonable
from tests.experiments.fig3b.images import Images


@pytest.fixture
def context():
    return Context(device="cpu", dtype="float64", load=lambda name: Images(), log=print)


def run(**options):
    sizes = {"n_train": 40, "n_test": 20, "vgg11_width": 0.03, "vgg11_gain": 1.3}
    (made,) = runs(Settings(methods=("vgg11-exact",), seeds=(0,), **sizes))
    return made | options


@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_flow_fits_the_training_images_in_the_end(outputs, context):
    outcome = compute_exact(run(outputs=outputs), context)
    metrics, curves = outcome.metrics, outcome.curves
    assert metrics["kernel"] == outputs
    assert metrics["interpolant_train_accuracy"] == 1
    assert curves["time"] == sorted(curves["time"])
    assert math.isinf(curves["time"][-1])
    assert len(curves["test_accuracy"]) == len(curves["time"])
    assert metrics["test_accuracy"] <= metrics["best_test_accuracy"] == max(curves["test_accuracy"])
    json.dumps(jsonable({**metrics, **curves}))


def test_run_is_json_and_auto_takes_the_full_kernel_where_it_is_small(context):
    made = run()
    json.dumps(jsonable(made))
    assert compute_exact(made, context).metrics["kernel"] == "full"


def test_stopping_time_does_not_depend_on_the_test_images(context):
    class Shuffled(Images):
        def arrays(self):
            X, y, X_test, y_test = super().arrays()
            return X, y, X_test[::-1], 1 - y_test

    other = Context(device="cpu", dtype="float64", load=lambda name: Shuffled(), log=print)
    assert (
        compute_exact(run(), context).metrics["time"]
        == (compute_exact(run(), other).metrics["time"])
    )


def test_figure_of_the_flow_places_sgd_on_its_axis(tmp_path):
    from experiments.command.cli import run as command
    from experiments.fig3b import draw_exact as exact_figure
    from experiments.runs import runner
    from experiments.runs.results import load_results

    small = "--n-train 40 --n-test 20 --vgg11-width 0.03 --lazy-epochs 3 --seeds 0"
    methods = "--methods vgg11-linear vgg11-exact"
    arguments = f"fig3b --preset exact {methods} {small} --device cpu --out {tmp_path}"
    assert command(arguments.split()) == 0
    (study,) = runner.studies(tmp_path, "fig3b")
    assert {"fig3b-flow.png", "fig3b-exact.md"} <= {p.name for p in study.folder.iterdir()}
    results = load_results(study.paths)
    sgd = results[results["method"] == "vgg11-linear"].iloc[0]
    assert sgd["steps"] == 3 * 2  # 40 images in batches of 32
    (ax,) = exact_figure.flow(results).axes
    exact = results[results["method"] == "vgg11-exact"].iloc[0]
    mean_rate = exact["top_eigenvalue"] * 2 / (40 * 10)  # of the leading direction, mean loss
    expected = sgd["steps"] * sgd["lr_used"] / (1 - sgd["momentum"]) * mean_rate
    marks = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "^"]
    assert marks == pytest.approx([expected, expected])
