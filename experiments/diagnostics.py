"""Is a network lazy on this data? The report of `tangent.diagnostics`, of a named net or your own.

Not in the paper: its equation (1), read off a network, beside what a short training moves.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.own_models import own_model, source
from experiments.results import Context, Outcome
from experiments.usage import UsageError, one_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

SUMMARY = "Report on a network, named or your own: kappa, spectrum, and from which alpha it is lazy"

DTYPE = "float64"

_NAMED = ("mlp", "vgg11", "resnet18")


@dataclass(frozen=True)
class Settings:
    """Settings of the report on a network."""

    dataset: str = "digits"
    """digits (comes with scikit-learn) or cifar10"""
    model: str = "mlp"
    """mlp, vgg11 or resnet18; or your own as FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, called
    with (input_shape, n_outputs, generator) and returning an nn.Module that takes the images
    (n, channels, height, width) to one output a class"""
    width: float = 0.125
    """of a named network, as a multiple of its own"""
    n: int = 32
    """the first training images; the derivative holds n x classes x parameters numbers"""
    steps: int = 50
    """of the short training"""
    starts: int = 2
    """random starts of the search for the norm of the second derivative"""
    seeds: tuple[int, ...] = (0,)
    """a report each: the seed draws the weights"""


PRESETS = {
    "smoke": Settings(n=4, width=0.02, steps=5),
    "laptop": Settings(seeds=(0, 1, 2)),
    # The paper has no such report: its network on its data, as many images as memory takes.
    "paper": Settings(dataset="cifar10", model="vgg11", width=0.25, n=32, seeds=(0, 1, 2)),
}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run a seed; a network of your own is known by the content of its file, too."""
    if settings.n < 1:
        raise UsageError(f"--n must be at least 1; got {settings.n}")
    if not settings.seeds:
        raise UsageError("--seeds needs one value at least")
    given = dataclasses.asdict(settings)
    seeds = given.pop("seeds")
    if ":" in settings.model:
        del given["width"]
        given["source"] = source(settings.model)
    else:
        one_of("model", settings.model, _NAMED)
    return [{**given, "seed": seed} for seed in seeds]


def _network(run: dict[str, Any], image_shape: tuple[int, ...], classes: int) -> nn.Module:
    import torch

    from tangent.nets import network

    generator = torch.Generator().manual_seed(run["seed"])
    if "source" in run:
        return own_model(run["model"], run["source"])(image_shape, classes, generator)
    return network(run["model"], image_shape, classes, width=run["width"], generator=generator)


def _data(run: dict[str, Any], context: Context) -> tuple[Tensor, Tensor, int]:
    """Images with mean 0 and deviation 1 in every channel, their classes, the number of these."""
    import torch

    data = context.load(run["dataset"])
    if run["n"] > len(data.train_images):
        raise UsageError(f"--n must be at most {len(data.train_images)}; got {run['n']}")
    images = torch.from_numpy(data.train_images[: run["n"]]).double() / 255
    mean = images.mean((0, 2, 3), keepdim=True)
    deviation = images.std((0, 2, 3), keepdim=True)
    y = torch.from_numpy(data.train_labels[: run["n"]])
    return (images - mean) / deviation, y, len(data.class_names)


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Make the report; classes are one-hot targets of the square loss."""
    if context.dtype != "float64":
        raise UsageError(f"diagnostics works in float64; got --dtype {context.dtype}")
    import torch

    from tangent.diagnostics import report

    x, y, classes = _data(run, context)
    model = _network(run, tuple(x.shape[1:]), classes).to(context.device)
    generator = torch.Generator().manual_seed(run["seed"])
    found = report(model, x, y, steps=run["steps"], starts=run["starts"], generator=generator)
    numbers = found.as_dict()
    curves = {"eigenvalues": numbers.pop("eigenvalues"), "kinks": numbers.pop("kinks")}
    moved = numbers.pop("movements")
    for name in moved[0]:
        curves[f"moved_{name}"] = [movement[name] for movement in moved]
    # also a setting
    del numbers["steps"]
    return Outcome(numbers, curves)


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Write every report as text and as a figure, and the table of all."""
    from experiments import diagnostics_figure

    return diagnostics_figure.draw(results, folder)
