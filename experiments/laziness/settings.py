"""Is a network lazy on this data? The report of `tangent.laziness`, of any network by name.

Not in the paper: its equation (1), read off a network by products, beside what short trainings by
difference propagation move.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from experiments.networks import named as networks
from experiments.usage import UsageError

SUMMARY = "Is a network lazy? kappa, spectrum, and what short trainings move, of any network"


@dataclass(frozen=True)
class Settings:
    """Settings of the laziness report."""

    dataset: str = "digits"
    """digits and other sets of scikit-learn (wine, iris, breast_cancer: tables, for mlp), cifar10,
    or your own: folder:PATH[@SIDE], a tree of images with a folder a class, or npz:PATH"""
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
