"""What a run of `experiments.baselines` measures."""

from __future__ import annotations

import importlib
import time
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

import baselines
from experiments.baselines.settings import COMPETITORS, FEW, is_gaussian_machine
from experiments.runs.results import Context, Outcome


def classifier(run: dict[str, Any], image_shape: tuple[int, int, int]) -> BaseEstimator:
    """The classifier of a run, not fitted."""
    method, seed = run["method"], run["seed"]
    common = {"flips": run["flips"], "image_shape": image_shape, "random_state": seed}
    competitor = COMPETITORS[method]
    if competitor.made_by:
        module, _, name = competitor.made_by.partition(":")
        make = getattr(importlib.import_module(module), name)
        return make(run["size"], **competitor.options, **common)
    if competitor.sizes == "depths":
        return _infinite_width(run, image_shape)
    if is_gaussian_machine(method):
        # Widths as measured to do well: selected coordinates want a narrower kernel.
        head: Any = baselines.GaussianKernelHead(
            0.7 if method == "roto-translation" else 1.0,
            n_landmarks=run.get("landmarks"),
            random_state=seed,
        )
    else:
        head = baselines.RidgeHead((0.01, 0.03, 0.1, 0.3))
    if method.startswith("random-patches"):
        return baselines.random_patch_classifier(
            run["size"], head=head, patch_size=run["patch_size"], **common
        )
    if method.startswith("scattering"):
        # What twice the transform costs is little beside two copies of many features.
        stream = run["n_train"] > FEW
        return baselines.scattering_classifier(run["size"], head=head, stream=stream, **common)
    return baselines.roto_translation_classifier(
        run["size"], head=head, colours="yuv" if image_shape[0] == 3 else "rgb", **common
    )


def _infinite_width(run: dict[str, Any], image_shape: tuple[int, int, int]) -> BaseEstimator:
    """The classifier with the kernel of an infinitely wide network on pixels."""
    head = baselines.InfiniteWidthHead(
        "convolutional" if run["method"] == "convolutional-ntk" else "mlp",
        kernel=run["method"].rpartition("-")[2],
        depth=run["size"],
        image_shape=image_shape,
        side=run.get("convolutional_side"),
    )
    return baselines.StreamedClassifier(None, head, flips=run["flips"], image_shape=image_shape)


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Fit one classifier and score it."""
    data = context.load(run["dataset"]).subset(run["n_train"], run["n_test"], seed=run["seed"])
    X, y, X_test, y_test = data.arrays()
    model: Any = classifier(run, data.image_shape)
    sizes = COMPETITORS[run["method"]].sizes
    context.log(f"{run['method']}, {sizes} {run['size']}, {len(X)} images")
    start, start_cpu = time.perf_counter(), time.process_time()
    model.fit(X, y)
    fitted, fitted_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    start = time.perf_counter()
    predicted = model.predict(X_test)
    return Outcome(
        {
            "test_accuracy": float(np.mean(predicted == y_test)),
            # A kernel of an infinitely wide network has no number of features.
            "n_features": None if sizes == "depths" else model.head_.n_features_in_,
            "fit_seconds": fitted,
            "fit_cpu_seconds": fitted_cpu,
            "predict_seconds": time.perf_counter() - start,
            "ridge": float(model.head_.alpha_),
        }
    )
