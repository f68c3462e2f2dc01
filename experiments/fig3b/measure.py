"""What a run of `experiments.fig3b` measures."""

from __future__ import annotations

import math
import time
from typing import Any

from experiments.fig3b.exact import compute_exact
from experiments.fig3b.stopped import compute_stopped
from experiments.networks import held_out
from experiments.networks.classifiers import classifier, size, stability
from experiments.networks.rows import is_exact, is_stopped
from experiments.runs.results import Context, Outcome


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Fit one classifier and score it on its training and test images."""
    if is_exact(run["method"]):
        return compute_exact(run, context)
    if is_stopped(run["method"]):
        return compute_stopped(run, context)
    data = context.load(run["dataset"]).subset(run["n_train"], run["n_test"], run["seed"])
    X, y, X_test, y_test = data.arrays()
    model = classifier(
        run,
        data.image_shape,
        device=context.device,
        dtype=context.dtype,
        checkpoint=context.checkpoint,
        distributed=context.distributed,
        rows=X,
    )
    trials: dict[str, list[Any]] = {}
    if run.get("lr") == held_out.HELD_OUT:
        lr, trials = held_out.rate_of_run(model, X, y, run, context)
        model.set_params(lr=lr)
    start = time.perf_counter()
    model.fit(X, y)
    metrics = {
        "fit_seconds": time.perf_counter() - start,
        "train_accuracy": float(model.score(X, y)),
        "test_accuracy": float(model.score(X_test, y_test)),
        "size": size(model),
    }
    if hasattr(model, "lr_"):
        batches = math.ceil(len(X) / min(run["batch_size"], len(X)))
        metrics |= {"lr_used": model.lr_, "steps": model.n_iter_ * batches}
    held_out.forget(context)
    layers = stability(model, X_test)
    if layers is None:
        return Outcome(metrics)
    if layers:
        metrics["stability"] = sum(layers.values()) / len(layers)
    curves: dict[str, list[Any]] = {"layers": list(layers), "stability": list(layers.values())}
    curves |= {f"trial_{name}": values for name, values in trials.items()}
    return Outcome(metrics, curves={**curves, "loss": model.history_["loss"].tolist()})
