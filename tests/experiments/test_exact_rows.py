"""The exact rows of Figure 3(b) against the network trained by tiny steps."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from experiments.exact_rows import compute_exact, exact_run
from experiments.results import Context, jsonable


class _Images:
    """Forty noisy images of two classes, as `experiments.data.ImageData` gives them."""

    image_shape = (1, 32, 32)

    def subset(self, n_train, n_test, seed):
        return self

    def arrays(self):
        rng = np.random.default_rng(0)
        y = np.arange(60) % 2
        X = rng.random((60, 1024), dtype=np.float32)
        X[y == 1, :200] += 0.4
        return X[:40], y[:40], X[40:], y[40:]


@pytest.fixture
def context():
    return Context(device="cpu", dtype="float64", load=lambda name: _Images(), log=print)


def run(**options):
    settings = {"n_train": 40, "n_test": 20, "width": 0.03, "gain": 1.3, "seed": 0}
    return exact_run("digits", "vgg11-exact", **{**settings, **options})


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
    class Shuffled(_Images):
        def arrays(self):
            X, y, X_test, y_test = super().arrays()
            return X, y, X_test[::-1], 1 - y_test

    other = Context(device="cpu", dtype="float64", load=lambda name: Shuffled(), log=print)
    assert (
        compute_exact(run(), context).metrics["time"]
        == (compute_exact(run(), other).metrics["time"])
    )
