"""Appendix C: singular values of the tangent features of a CNN, on images and on random pixels.

Chizat, Oyallon and Bach 2019, Appendix C: a spread-out spectrum means that gradient descent on
the linearized model is slow, whatever the images; the paper's explanation of its low accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.networks import named as networks
from experiments.usage import UsageError, one_of

SUMMARY = "Appendix C: spectrum of the tangent kernel, images against random pixels"


# The published features are float32; their smallest singular values are then rounding.
DTYPE = "float64"


VARIANTS = ("vgg11", "vgg11-friendly", "resnet18")


_INPUTS = ("images", "random")


@dataclass(frozen=True)
class Settings:
    """Settings of Appendix C."""

    dataset: str = "digits"
    """digits (comes with scikit-learn), cifar10, or your own: folder:PATH[@SIDE], a tree of images
    with a folder a class, or npz:PATH"""
    n: int = 64
    """the first training images, and as many of random pixels; the kernel has 10 n rows"""
    variant: str = "vgg11"
    """vgg11, resnet18 or vgg11-friendly (average pooling, global average, NTK parametrization);
    mlp; torchvision:NAME or timm:NAME; or your own as FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION,
    called with (input_shape, n_outputs, generator)"""
    width: float = 0.25
    """channels as a multiple of the original's"""
    gain: float = 2.0
    """Xavier gain of the initial weights of vgg11 and resnet18; others are as they are made"""
    seeds: tuple[int, ...] = (0,)
    """a run each: the seed draws initial weights and random pixels"""
    other_gains: tuple[float, ...] = (1.0, 1.4142135623730951)
    """further gains, for contrast"""
    other_widths: tuple[float, ...] = (0.125, 0.5)
    """further widths, for contrast"""
    other_variants: tuple[str, ...] = ("vgg11-friendly", "resnet18")
    """further networks, for contrast, at gain sqrt(2)"""


PRESETS = {
    "smoke": Settings(n=3, width=0.04, other_widths=(0.06,), other_gains=(1.0,)),
    "laptop": Settings(),
    "laptop/cifar10": Settings(dataset="cifar10", n=120),
    # 495 images as published: batches of 11, of which 45 were kept.
    "paper": Settings(
        dataset="cifar10", n=495, width=1.0, other_gains=(1.0,), other_widths=(0.25,)
    ),
}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run a seed, network and kind of inputs; the main network comes first."""
    named = dict.fromkeys((settings.variant, *settings.other_variants))
    known = {name: _identity(name) for name in named}
    if settings.n < 1:
        raise UsageError(f"--n must be at least 1; got {settings.n}")
    if not settings.seeds:
        raise UsageError("--seeds needs one value at least")
    rows = [(settings.variant, settings.width, settings.gain)]
    rows += [(settings.variant, settings.width, gain) for gain in settings.other_gains]
    rows += [(settings.variant, width, settings.gain) for width in settings.other_widths]
    rows += [(name, settings.width, 2**0.5) for name in settings.other_variants]
    return [
        {
            "dataset": settings.dataset,
            "n": settings.n,
            "variant": variant,
            "width": width,
            "gain": gain,
            "inputs": inputs,
            "seed": seed,
            **known[variant],
        }
        for seed in settings.seeds
        for variant, width, gain in dict.fromkeys(map(_as_made, rows))
        for inputs in _INPUTS
    ]


def _identity(name: str) -> dict[str, str]:
    """What a run has to know of a network beside its name."""
    if name in VARIANTS:
        return {}
    if ":" not in name:
        one_of("variant", name, (*VARIANTS, "mlp"))
    return networks.identity(name)


def _as_made(row: tuple[str, float, float]) -> tuple[str, float, float]:
    """A network with its width and gain, 1 where these are not ours to choose."""
    name, width, gain = row
    return name, 1.0 if ":" in name else width, gain if name in VARIANTS else 1.0
