"""What single precision does to lazy training, with a subtraction and without.

The same SGD run, from the same weights on the same batches, by direct subtraction
alpha (h(w) - h(w0)) and by difference propagation, in several precisions. The oracle is direct
subtraction in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from experiments.usage import UsageError, one_of

SUMMARY = "lazy training in single precision: subtraction and difference propagation against alpha"


METHODS = (
    "direct-float32",
    "direct-tf32",
    "direct-bfloat16",
    "difference-float32",
    "difference-tf32",
    "difference-bfloat16",
)


@dataclass(frozen=True)
class Settings:
    """Settings of the comparison of precisions."""

    dataset: str = "digits"
    """digits (comes with scikit-learn), cifar10, or your own: folder:PATH[@SIDE], a tree of images
    with a folder a class, or npz:PATH"""
    model: Literal["vgg11", "resnet18"] = "vgg11"
    """the network"""
    methods: tuple[str, ...] = ("direct-float32", "difference-float32")
    """direct or difference, and float32, tf32 (on a GPU) or bfloat16; float64 subtraction always
    runs too, as the oracle"""
    alphas: tuple[float, ...] = (1.0, 1e2, 1e4, 1e5, 1e6, 1e7)
    """scales, finite"""
    widths: tuple[float, ...] = (0.125, 0.25)
    """channels as multiples of the original's"""
    gains: tuple[float, ...] = (1.0, 1.3)
    """Xavier gains of the initial weights: Figure 3(a) has 1, Figure 3(b) 1.3"""
    seeds: tuple[int, ...] = (0,)
    """a run each: the seed draws images, initial weights and batches"""
    n_train: int = 512
    """training images"""
    n_test: int = 256
    """test images"""
    loss: Literal["square", "cross_entropy"] = "square"
    """square loss or cross entropy, scaled by 1/alpha^2"""
    lr: float | Literal["auto"] = "auto"
    """learning rate; auto is a tenth of the stability edge, the same for all methods"""
    momentum: float = 0.9
    """heavy-ball momentum"""
    epochs: int = 8
    """passes over the training images"""
    batch_size: int = 128
    """images a step"""


PRESETS = {
    "smoke": Settings(
        alphas=(1.0, 1e7), widths=(0.04,), gains=(1.0,), n_train=40, n_test=20, epochs=2
    ),
    "laptop": Settings(),
    "laptop/cifar10": Settings(dataset="cifar10"),
    "paper": Settings(
        dataset="cifar10",
        methods=METHODS,
        widths=(0.25, 1.0, 4.0),
        seeds=(0, 1, 2),
        n_train=10000,
        n_test=2000,
    ),
}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run a seed, width, gain and alpha; all methods are in one run."""
    for method in settings.methods:
        one_of("method", method, METHODS)
    for alpha in settings.alphas:
        if not 0 < alpha < math.inf:
            raise UsageError(f"--alphas must be positive and finite; got {alpha:g}")
    names = ("dataset", "model", "methods", "n_train", "n_test", "loss", "lr", "momentum")
    shared = {name: getattr(settings, name) for name in (*names, "epochs", "batch_size")}
    found = [
        {**shared, "width": width, "gain": gain, "alpha": alpha, "seed": seed}
        for seed in settings.seeds
        for width in settings.widths
        for gain in settings.gains
        for alpha in settings.alphas
    ]
    if not found or not settings.methods:
        raise UsageError("--alphas, --widths, --gains, --seeds and --methods need a value at least")
    return found
