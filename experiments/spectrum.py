"""Appendix C: singular values of the tangent features of a CNN, on images and on random pixels.

Chizat, Oyallon and Bach 2019, Appendix C: a spread-out spectrum means that gradient descent on
the linearized model is slow, whatever the images; the paper's explanation of its low accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.results import Context, Outcome
from experiments.usage import UsageError, one_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

SUMMARY = "Appendix C: spectrum of the tangent kernel, images against random pixels"

# The published features are float32; their smallest singular values are then rounding.
DTYPE = "float64"

_VARIANTS = ("vgg11", "vgg11-friendly", "resnet18")
_INPUTS = ("images", "random")
# The published code's normalization; other data sets use their own mean and deviation.
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@dataclass(frozen=True)
class Settings:
    """Settings of Appendix C."""

    dataset: str = "digits"
    """digits (comes with scikit-learn) or cifar10"""
    n: int = 64
    """the first training images, and as many of random pixels; the kernel has 10 n rows"""
    variant: str = "vgg11"
    """vgg11, resnet18 or vgg11-friendly (average pooling, global average, NTK parametrization)"""
    width: float = 0.25
    """channels as a multiple of the original's"""
    gain: float = 2.0
    """Xavier gain of the initial weights"""
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
    for name in (settings.variant, *settings.other_variants):
        one_of("variant", name, _VARIANTS)
    if settings.n < 1:
        raise UsageError(f"--n must be at least 1; got {settings.n}")
    if not settings.seeds:
        raise UsageError("--seeds needs one value at least")
    main = (settings.variant, settings.width, settings.gain)
    networks = [main]
    networks += [(settings.variant, settings.width, gain) for gain in settings.other_gains]
    networks += [(settings.variant, width, settings.gain) for width in settings.other_widths]
    networks += [(name, settings.width, 2**0.5) for name in settings.other_variants]
    return [
        {
            "dataset": settings.dataset,
            "n": settings.n,
            "variant": variant,
            "width": width,
            "gain": gain,
            "inputs": inputs,
            "seed": seed,
        }
        for seed in settings.seeds
        for variant, width, gain in dict.fromkeys(networks)
        for inputs in _INPUTS
    ]


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Take the full kernel and its eigenvalues; the decomposition is in float64."""
    import numpy as np
    import torch

    from tangent.kernel import tangent_kernel

    x = _inputs(run, context).to(context.device, getattr(torch, context.dtype))
    model = _network(run, tuple(x.shape[1:])).to(x)
    kernel = tangent_kernel(model, x, outputs="full", accumulate=torch.float64)
    rows = kernel.shape[0] * kernel.shape[1]
    values = torch.linalg.eigvalsh(kernel.reshape(rows, rows)).flip(0).cpu().numpy()
    trace = float(values.sum())
    # Below this the eigenvalues of a kernel computed in this dtype are rounding.
    floor = values[0] * rows * torch.finfo(getattr(torch, context.dtype)).eps
    metrics = {
        "rows": rows,
        "trace": trace,
        "largest": float(values[0]),
        "smallest": float(values[-1]),
        "condition_number": float(values[0] / values[-1]) if values[-1] > floor else None,
        "numerical_rank": int((values > floor).sum()),
        "share_of_top_1": float(values[0] / trace),
        "share_of_top_10": float(values[:10].sum() / trace),
        "largest_over_median": float(values[0] / np.median(values)),
        "effective_rank": float(trace / values[0]),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    return Outcome(metrics, arrays={"singular_values": np.sqrt(np.maximum(values, 0.0))})


def _inputs(run: dict[str, Any], context: Context) -> Tensor:
    """Images or uniform random pixels, normalized alike."""
    import torch

    data = context.load(run["dataset"])
    if run["n"] > len(data.train_images):
        raise UsageError(f"--n must be at most {len(data.train_images)}; got {run['n']}")
    images = torch.from_numpy(data.train_images[: run["n"]]).float() / 255
    if run["dataset"] == "cifar10":
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in _CIFAR10)
    else:
        mean = images.mean((0, 2, 3), keepdim=True)
        deviation = images.std((0, 2, 3), keepdim=True)
    if run["inputs"] == "random":
        generator = torch.Generator().manual_seed(run["seed"] + 1)
        pixels = torch.randint(0, 256, images.shape, generator=generator)
        images = pixels.float() / 255
    return (images - mean) / deviation


def _network(run: dict[str, Any], image_shape: tuple[int, ...]) -> nn.Module:
    import torch

    from tangent.nets import resnet18, vgg11

    options: dict[str, Any] = {
        "in_channels": image_shape[0],
        "image_size": image_shape[1],
        "width": run["width"],
        "gain": run["gain"],
        "generator": torch.Generator().manual_seed(run["seed"]),
    }
    if run["variant"] == "resnet18":
        return resnet18(10, **options)
    if run["variant"] == "vgg11-friendly":
        options |= {"pooling": "average", "head": "global-average", "parametrization": "ntk"}
    return vgg11(10, **options)


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the spectra and the table of their numbers."""
    from experiments import plots
    from experiments.report import write_table
    from experiments.spectrum_figure import spectra, spectrum_table

    paths = write_table(spectrum_table(results), folder, "spectrum")
    with plots.style():
        paths += plots.save_figure(spectra(results), folder, "spectrum")
    return paths
