"""What a run of `experiments.spectrum` measures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.networks import named as networks
from experiments.networks.classifiers import channel_statistics
from experiments.runs.results import Context, Outcome
from experiments.spectrum.settings import VARIANTS
from experiments.usage import UsageError, watched
from tangent.kernel.matrix import tangent_kernel
from tangent.nets import resnet18, vgg11

# The published code's normalization; other data sets use their own mean and deviation.
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Take the full kernel and its eigenvalues; the decomposition is in float64."""
    x = _inputs(run, context).to(context.device, getattr(torch, context.dtype))
    classes = len(context.load(run["dataset"]).class_names)
    model = _network(run, tuple(x.shape[1:]), classes).to(x)
    kernel = tangent_kernel(model, x, outputs="full", accumulate=torch.float64, progress=watched())
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
    data = context.load(run["dataset"])
    if run["n"] > len(data.train_images):
        raise UsageError(f"--n must be at most {len(data.train_images)}; got {run['n']}")
    images = torch.from_numpy(data.train_images[: run["n"]]).float() / 255
    if run["dataset"] == "cifar10":
        mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in _CIFAR10)
    else:
        mean, deviation = channel_statistics(images)
    if run["inputs"] == "random":
        generator = torch.Generator().manual_seed(run["seed"] + 1)
        pixels = torch.randint(0, 256, images.shape, generator=generator)
        images = pixels.float() / 255
    return (images - mean) / deviation


def _network(run: dict[str, Any], image_shape: tuple[int, ...], classes: int = 10) -> nn.Module:
    """The network: ours at the run's width and gain, or another by its name."""
    if run["variant"] not in VARIANTS:
        make = networks.factory(run["variant"], width=run["width"], source=run.get("source"))
        return make(image_shape, classes, torch.Generator().manual_seed(run["seed"])).eval()
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
