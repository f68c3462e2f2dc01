"""Is a network lazy on this data? The report of `tangent.laziness`, of any network by name.

Not in the paper: its equation (1), read off a network by products, beside what short trainings by
difference propagation move.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import networks
from experiments.results import Context, Outcome
from experiments.usage import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

SUMMARY = "Is a network lazy? kappa, spectrum, and what short trainings move, of any network"


@dataclass(frozen=True)
class Settings:
    """Settings of the laziness report."""

    dataset: str = "digits"
    """digits (comes with scikit-learn) or cifar10"""
    model: str = "mlp"
    """vgg11, resnet18, mlp; torchvision:NAME or timm:NAME; or your own as FILE.py:FUNCTION or
    PACKAGE.MODULE:FUNCTION, called with (input_shape, n_outputs, generator)"""
    weights: str | None = None
    """a state dict in safetensors, loaded into the network"""
    width: float = 1.0
    """of a network of tangent.nets, as a multiple of its own"""
    size: int | None = None
    """side that images are resized to (bilinear), for networks that want others"""
    n: int = 200
    """training images, every class in its share"""
    alphas: tuple[float, ...] = ()
    """scales of the short trainings; 1 and the scale from which kappa is small when left out"""
    epochs: int = 5
    """passes of a short training"""
    batch_size: int = 64
    """images a step"""
    products: int = 10
    """products with the kernel for the head of its spectrum, where it is not computed whole"""
    probes: int = 2
    """random products for traces, norms and the kernel's change"""
    seeds: tuple[int, ...] = (0,)
    """a report each: the seed draws images and weights"""


PRESETS = {
    "smoke": Settings(n=20, width=0.05, epochs=1),
    "laptop": Settings(),
    # The paper has no such report: its network on its data.
    "paper": Settings(dataset="cifar10", model="vgg11", n=500, epochs=3),
}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run a seed; a network is known by its file's and its weights' content, too."""
    if not settings.seeds:
        raise UsageError("--seeds needs one value at least")
    for name in ("n", "epochs", "batch_size", "products"):
        if getattr(settings, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
    if not all(alpha > 0 for alpha in settings.alphas):
        raise UsageError(f"--alphas must be positive; got {settings.alphas}")
    given = dataclasses.asdict(settings)
    seeds = given.pop("seeds")
    given |= networks.identity(settings.model, settings.weights)
    return [{**given, "seed": seed} for seed in seeds]


def _data(run: dict[str, Any], context: Context) -> tuple[Tensor, Tensor, int]:
    """Images with mean 0 and deviation 1 in every channel, their classes, the number of these."""
    import torch
    import torch.nn.functional as F

    data = context.load(run["dataset"]).subset(run["n"], 1, run["seed"])
    images = torch.from_numpy(data.train_images).double() / 255
    mean = images.mean((0, 2, 3), keepdim=True)
    deviation = images.std((0, 2, 3), keepdim=True).clamp(min=1e-12)
    images = (images - mean) / deviation
    if run["size"] is not None:
        side = (run["size"], run["size"])
        images = F.interpolate(images, side, mode="bilinear", antialias=True)
    return images, torch.from_numpy(data.train_labels), len(data.class_names)


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Make the report; classes are one-hot targets of the square loss."""
    import torch

    from tangent import laziness

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
    more = ("kappa", "kappa_centred", "lazy_alpha", "stable_lr", "alignment", "alignment_error")
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


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Write every report as text and as a figure, and the table of all."""
    from experiments import laziness_figure

    return laziness_figure.draw(results, folder)
