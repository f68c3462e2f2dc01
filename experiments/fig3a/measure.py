"""What a run of `experiments.fig3a` measures."""

from __future__ import annotations

import math
import warnings
from typing import Any

from experiments.networks import held_out
from experiments.networks import named as networks
from experiments.networks.classifiers import is_pool
from experiments.runs.results import Context, Outcome
from experiments.usage import watched
from tangent import LazyClassifier


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Train one network and measure accuracy and stability."""
    data = context.load(run["dataset"]).subset(run["n_train"], run["n_test"], run["seed"])
    X, y, X_test, y_test = data.arrays()
    same = ("alpha", "width", "gain", "loss", "epochs", "lr_decay", "momentum", "batch_size")
    chosen = run["rate"] == held_out.HELD_OUT
    model = LazyClassifier(
        networks.factory_of(run),
        lr="auto" if chosen else run["rate"],
        **{name: run[name] for name in (*same, "augment")},
        image_shape=data.image_shape,
        device=context.device,
        dtype=context.dtype,
        random_state=run["seed"],
        checkpoint=context.checkpoint,
        distributed=context.distributed,
        verbose=watched(),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trials: dict[str, list[Any]] = {}
        if chosen:
            lr, trials = held_out.rate_of_run(model, X, y, run, context)
            model.set_params(lr=lr)
        model.fit(X, y)
    ours = (w for w in caught if not issubclass(w.category, DeprecationWarning | FutureWarning))
    for message in dict.fromkeys(str(warning.message) for warning in ours):
        context.log(message)
    held_out.forget(context)
    gates = model.stability_of_activations(X_test)
    relus = {name: value for name, value in gates.items() if not is_pool(model, name)}
    metrics = {
        "train_accuracy": float(model.score(X, y)),
        "test_accuracy": float(model.score(X_test, y_test)),
        "train_loss": float(model.history_["loss"][-1]),
        "stability": sum(relus.values()) / len(relus) if relus else math.nan,
        "stability_of_last": list(relus.values())[-1] if relus else math.nan,
        "lr": model.lr_,
        "stability_edge": model.stability_edge_,
        "parameters": model.n_parameters_,
    }
    curves = {
        "loss": model.history_["loss"].tolist(),
        "gates": list(gates),
        "stability_of_gates": list(gates.values()),
        **{f"trial_{name}": values for name, values in trials.items()},
    }
    return Outcome(metrics, curves)
