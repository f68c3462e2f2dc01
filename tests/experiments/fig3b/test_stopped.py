"""The stopped rows of Figure 3(b) against the whole kernel's least squares."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from experiments.fig3b import stopped
from experiments.fig3b.exact import initial_network
from experiments.fig3b.settings import Settings, runs
from experiments.fig3b.stopped import compute_stopped
from experiments.runs.results import Context, jsonable
from tangent import tangent_features
from tests.experiments.fig3b.images import Images


@pytest.fixture
def context():
    return Context(device="cpu", dtype="float64", load=lambda name: Images(), log=print)


def run(**options):
    sizes = {"n_train": 40, "n_test": 20, "vgg11_width": 0.03, "vgg11_gain": 1.3}
    (made,) = runs(Settings(methods=("vgg11-stopped",), seeds=(0,), **sizes))
    return made | options


def test_a_step_is_the_best_fit_along_the_gradient_of_the_linearized_network(context):
    found = compute_stopped(run(max_steps=1), context)
    X, labels, X_test, test_labels = Images().arrays()
    network, inputs = initial_network(run(), X, (1, 32, 32), 2, context)
    J = tangent_features(network, inputs(X[:36])).reshape(72, -1)
    J_test = tangent_features(network, inputs(X_test)).reshape(40, -1)
    y = torch.eye(2, dtype=torch.float64)[torch.from_numpy(labels[:36])]
    y = (y - y.mean(0)).reshape(-1)
    gradient = J.T @ y
    image = J @ gradient
    w = gradient * (y @ image) / (image @ image)
    residual = float((y - J @ w).norm() / y.norm())
    assert found.curves["residual"] == pytest.approx([residual])
    right = (J_test @ w).reshape(20, 2).argmax(1).numpy() == test_labels
    assert found.metrics["test_accuracy"] == right.mean()
    assert found.metrics["fitted_images"] == 36


def test_steps_end_where_held_out_images_gain_nothing_for_so_long(context):
    found = compute_stopped(run(patience=3), context)
    metrics, held_out = found.metrics, found.curves["held_out"]
    assert metrics["final_steps"] == len(held_out) == metrics["steps"] + 3
    assert metrics["held_out_accuracy"] == max(held_out) == held_out[metrics["steps"] - 1]
    assert max(held_out[: metrics["steps"] - 1], default=0) < max(held_out)
    json.dumps(jsonable({**metrics, **found.curves}))


def test_the_choice_does_not_look_at_test_images(context):
    class Shuffled(Images):
        def arrays(self):
            X, y, X_test, y_test = super().arrays()
            return X, y, X_test[::-1] * 2, 1 - y_test

    other = dataclasses.replace(context, load=lambda name: Shuffled())
    one, two = (compute_stopped(run(patience=3), c) for c in (context, other))
    assert one.metrics["steps"] == two.metrics["steps"]
    assert one.curves["train"] == two.curves["train"]


def test_an_interrupted_run_goes_on_to_the_same_end(context, tmp_path, monkeypatch):
    whole = compute_stopped(run(max_steps=6), context)
    kept = dataclasses.replace(context, checkpoint=tmp_path / "run.ckpt")
    monkeypatch.setattr(stopped.Checkpoint, "due", lambda self: True)

    def killed(message):
        if message.startswith("step 4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_stopped(run(max_steps=6), dataclasses.replace(kept, log=killed))
    said = []
    again = compute_stopped(run(max_steps=6), dataclasses.replace(kept, log=said.append))
    assert [line.partition(":")[0] for line in said] == ["step 4", "step 5", "step 6"]
    assert again.curves == whole.curves
    assert compute_stopped(run(max_steps=6), kept).curves == whole.curves


def test_figure_has_the_steps_and_the_trained_networks_as_levels(tmp_path):
    from experiments.command.cli import run as command
    from experiments.fig3b.draw_stopped import along_steps
    from experiments.runs import runner
    from experiments.runs.results import load_results

    small = "--n-train 40 --n-test 20 --vgg11-width 0.03 --lazy-epochs 1 --max-steps 4 --seeds 0"
    methods = "--methods vgg11-linear vgg11-stopped"
    arguments = f"fig3b --preset exact {methods} {small} --device cpu --out {tmp_path}"
    assert command(arguments.split()) == 0
    (study,) = runner.studies(tmp_path, "fig3b")
    assert "fig3b-steps.png" in {p.name for p in study.folder.iterdir()}
    results = load_results(study.paths)
    solved = results[results["method"] == "vgg11-stopped"].iloc[0]
    trained = results[results["method"] == "vgg11-linear"].iloc[0]
    (ax,) = along_steps(results).axes
    lines = [line for line in ax.lines if list(line.get_xdata()) == [1, 2, 3, 4]]
    assert len(lines) == 3
    assert lines[2].get_ydata()[-1] == pytest.approx(100 * solved["final_test_accuracy"])
    (level,) = (line for line in ax.lines if list(line.get_xdata()) == [0, 1])
    assert level.get_ydata()[0] == pytest.approx(100 * trained["test_accuracy"])
