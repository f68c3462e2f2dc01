"""What a run of `experiments.laziness` measures."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.networks import named as networks
from experiments.networks.classifiers import channel_statistics
from experiments.runs.results import Context, Outcome
from tangent import laziness


def _data(run: dict[str, Any], context: Context) -> tuple[Tensor, Tensor, int]:
    """Images with mean 0 and deviation 1 in every channel, their classes, the number of these."""
    data = context.load(run["dataset"]).subset(run["n"], 1, run["seed"])
    images = torch.from_numpy(data.train_images).double() / 255
    mean, deviation = channel_statistics(images)
    images = (images - mean) / deviation
    if run["size"] is not None:
        side = (run["size"], run["size"])
        images = F.interpolate(images, side, mode="bilinear", antialias=True)
    return images, torch.from_numpy(data.train_labels), len(data.class_names)


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Make the report; classes are one-hot targets of the square loss."""
    x, y, classes = _data(run, context)
    make = networks.factory(run["model"], width=run["width"], source=run.get("source"))
    generator = torch.Generator().manual_seed(run["seed"])
    model = make(tuple(x.shape[1:]), classes, generator)
    if run["weights"] is not None:
        model = networks.with_weights(model, run["weights"], run["model"])
    dtype = getattr(torch, context.dtype)
    found = laziness(
        model.to(context.device, dtype),
        x.to(dtype),
        y,
        alphas=run["alphas"] or None,
        epochs=run["epochs"],
        batch_size=run["batch_size"],
        products=run["products"],
        probes=run["probes"],
        random_state=run["seed"],
    )
    context.log(str(found))
    return _outcome(found)


def _outcome(found: Any) -> Outcome:
    """Numbers as metrics; the spectrum and the trainings as curves."""
    spectrum, second = found.spectrum, found.second
    names = ("inputs", "outputs", "parameters", "distance", "target", "first", "first_error")
    more = (
        "kappa",
        "kappa_centred",
        "lazy_alpha",
        "stability_edge",
        "alignment",
        "alignment_error",
    )
    metrics: dict[str, Any] = {name: getattr(found, name) for name in (*names, *more)}
    metrics |= {
        "second": second.value,
        "second_spread": second.spread,
        "second_inputs": found.second_inputs,
        "trace": spectrum.trace,
        "trace_error": spectrum.trace_error,
        "effective_rank": spectrum.effective_rank,
        "exact_spectrum": spectrum.exact,
        "verdict": found.verdict,
        "text": str(found),
    }
    curves: dict[str, list[Any]] = {
        "eigenvalues": spectrum.values.tolist(),
        "eigenvalue_errors": spectrum.errors.tolist(),
        "gates": list(found.gates),
    }
    for name in ("alpha", "loss", "weights", "kernel", "kernel_error", "from_linearized"):
        # infinities are kept as null: of alpha it is the linearized network, of loss divergence
        curves[f"trained_{name}"] = [getattr(trained, name) for trained in found.trainings]
    curves["trained_stability"] = [list(t.stability.values()) for t in found.trainings]
    return Outcome(metrics, curves)
