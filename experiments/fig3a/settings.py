"""Figure 3(a): accuracy and stability of activations against the scale alpha.

Chizat, Oyallon and Bach 2019, Section 3.2: VGG-11 on CIFAR-10, square loss over alpha^2, from
alpha = 1, where the network learns features, to alpha = 1e7 and to the linearized model itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from experiments.networks import held_out
from experiments.networks import named as networks
from experiments.usage import UsageError

SUMMARY = "Figure 3(a): accuracy and stability of activations against alpha, from 1 to infinity"


_GRID = tuple(10.0**k for k in range(-3, 4))


@dataclass(frozen=True)
class Settings:
    """Settings of Figure 3(a)."""

    dataset: str = "digits"
    """digits and other sets of scikit-learn (wine, iris, breast_cancer: tables, for mlp), cifar10,
    or your own: folder:PATH[@SIDE], a tree of images with a folder a class, or npz:PATH"""
    model: str = "vgg11"
    """vgg11, resnet18, mlp; torchvision:NAME or timm:NAME; or your own as FILE.py:FUNCTION or
    PACKAGE.MODULE:FUNCTION: the function is called with (input_shape, n_outputs, generator) and
    returns a torch module; edited, its file makes other runs"""
    alphas: tuple[float, ...] = (1.0, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, math.inf)
    """scales; inf is the linearized model"""
    seeds: tuple[int, ...] = (0, 1)
    """a run each: the seed draws images, initial weights and batches"""
    n_train: int | None = 1000
    """training images, every class in its share; None takes all"""
    n_test: int | None = 500
    """test images"""
    width: float = 0.25
    """channels as a multiple of the original's"""
    gain: float = 1.0
    """Xavier gain of the initial weights"""
    loss: Literal["square", "cross_entropy"] = "square"
    """square loss or cross entropy, scaled by 1/alpha^2"""
    lrs: tuple[float | Literal["auto", "held-out"], ...] = ("auto",)
    """learning rates; auto is a tenth of the stability edge, held-out the best of rate_fractions
    of the edge on a held-out tenth of the training images. With several, the figure shows for
    every alpha the one of least training loss, and a second figure shows them all
    (--lrs auto 1.0 compares the stable rate with the published one)"""
    tune: bool = False
    """try the paper's grid of rates, 10^k for k = -3 ... 3, instead of lrs"""
    epochs: int = 20
    """passes over the training images"""
    rate_fractions: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
    """rates that held-out tries, as multiples of the stability edge"""
    trial_images: int = 15_000
    """training images of a trial"""
    trial_epochs: int = 2
    """passes of a trial"""
    lr_decay: float = 0.0
    """beta in lr / (1 + beta t), t in epochs"""
    momentum: float = 0.9
    """heavy-ball momentum"""
    batch_size: int = 32
    """images a step"""
    augment: bool = False
    """random crops and flips"""


PRESETS = {
    "smoke": Settings(
        alphas=(1.0, 1e3, math.inf), seeds=(0,), n_train=60, n_test=40, width=0.04, epochs=2
    ),
    "laptop": Settings(),
    "laptop/cifar10": Settings(dataset="cifar10", n_train=2000, n_test=1000, epochs=10),
    # All images on two cores, every rate by one rule that sees no test image.
    "full": Settings(
        dataset="cifar10",
        alphas=(1.0, 1e7, 1e2, 10.0, 1e3, 1e4, math.inf, 1e5, 1e6),
        seeds=(0,),
        n_train=None,
        n_test=None,
        lrs=("held-out",),
        epochs=30,
        lr_decay=0.1,
        batch_size=64,
        augment=True,
    ),
    # Section 3.2; decay, batch and augmentation as in the published code.
    "paper": Settings(
        dataset="cifar10",
        seeds=(0,),
        n_train=None,
        n_test=None,
        width=1.0,
        lrs=(1.0,),
        epochs=70,
        lr_decay=1 / 3,
        batch_size=128,
        augment=True,
    ),
}


def distributed(run: dict[str, Any]) -> bool:
    """Whether the processes of ``torchrun`` compute a run together: all runs train a network."""
    return True


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run a seed, an alpha and a rate; the first seed of all alphas comes first."""
    own = networks.identity(settings.model)
    for alpha in settings.alphas:
        if not alpha > 0:
            raise UsageError(f"--alphas must be positive, inf included; got {alpha:g}")
    lrs = _GRID if settings.tune else settings.lrs
    if not (settings.alphas and settings.seeds and lrs):
        raise UsageError("--alphas, --seeds and --lrs need one value at least")
    names = ("dataset", "model", "n_train", "n_test", "width", "gain", "loss", "epochs")
    others = ("lr_decay", "momentum", "batch_size", "augment")
    shared = {name: getattr(settings, name) for name in (*names, *others)}
    shared |= own
    trials = held_out.trial_settings(settings)
    return [
        {
            **shared,
            "alpha": alpha,
            "rate": lr,
            **(trials if lr == held_out.HELD_OUT else {}),
            "seed": seed,
        }
        for seed in settings.seeds
        for alpha in settings.alphas
        for lr in lrs
    ]
