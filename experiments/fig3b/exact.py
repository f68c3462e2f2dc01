"""The exact rows of Figure 3(b): the linearized network solved, not crawled.

SGD on the badly conditioned linearized network stops far from its solution. Here the same network
at the same initial weights is solved under the square loss by one eigendecomposition of its
tangent kernel, and its accuracy is followed along the whole gradient flow: what separates the SGD
row from the best time of the flow is optimization, what then remains is the kernel.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from experiments.networks import named as networks
from experiments.networks.classifiers import normalized
from experiments.runs.results import Context, Outcome
from tangent.estimators.common import built_network, parameter_count, torch_generator
from tangent.kernel.matrix import tangent_kernel
from tangent.solve.flow import training_path
from tangent.solve.spectrum import Spectrum, spectrum

_FULL_ROWS = 6000  # images times classes of the largest full kernel
_TIMES = 49


def compute_exact(run: dict[str, Any], context: Context) -> Outcome:
    """Solve the linearized network of ``run``; no choice looks at the test images.

    Metrics: ``train_accuracy`` and ``test_accuracy`` at the best time on the validation images,
    ``ridge_*`` at the ridge of least leave-one-out error, ``interpolant_*`` at infinite time,
    ``best_test_accuracy`` of the flow with hindsight (not a method: an upper limit), condition
    number and seconds. Curves: time and accuracies along the flow.
    """
    data = context.load(run["dataset"]).subset(run["n_train"], run["n_test"], run["seed"])
    X, labels, X_test, test_labels = data.arrays()
    classes = int(labels.max()) + 1
    start = time.perf_counter()
    kernels = _kernels(run, X, X_test, data.image_shape, classes, context)
    kernel_seconds = time.perf_counter() - start
    y = torch.eye(classes, dtype=torch.float64)[torch.from_numpy(labels)]

    decomposed = spectrum(kernels.train)
    scale = 2 / y.numel()  # one-hot targets, mean over images and classes: LazyClassifier's loss
    times = _times(decomposed.eigenvalues, scale)
    train, test = _flow(decomposed, y, times, scale, kernels.test)
    best = _validated(kernels.train, y, labels, times, scale, run["validation"])
    accuracy = {
        "train": accuracies(train, labels),
        "test": accuracies(test, test_labels),
    }
    ridge = _ridge(decomposed, y, kernels.test)
    metrics = {
        "train_accuracy": accuracy["train"][best],
        "test_accuracy": accuracy["test"][best],
        "time": times[best],
        "ridge_train_accuracy": accuracies(ridge[0][None], labels)[0],
        "ridge_test_accuracy": accuracies(ridge[1][None], test_labels)[0],
        "interpolant_train_accuracy": accuracy["train"][-1],
        "interpolant_test_accuracy": accuracy["test"][-1],
        "best_test_accuracy": max(accuracy["test"]),
        "condition_number": decomposed.condition_number,
        "top_eigenvalue": float(decomposed.eigenvalues[0]),
        "kernel": kernels.outputs,
        "kernel_seconds": kernel_seconds,
        "solve_seconds": time.perf_counter() - start - kernel_seconds,
        "size": kernels.size,
    }
    curves = {
        "time": times,
        "train_accuracy": accuracy["train"],
        "test_accuracy": accuracy["test"],
    }
    return Outcome(metrics, curves=curves)


@dataclass(frozen=True)
class _Kernels:
    train: torch.Tensor
    test: torch.Tensor
    outputs: str
    size: int


def _kernels(
    run: dict[str, Any],
    X: np.ndarray,
    X_test: np.ndarray,
    shape: tuple[int, int, int],
    classes: int,
    context: Context,
) -> _Kernels:
    """Kernels of the network of the SGD row: same weights, same normalization."""
    network, inputs = initial_network(run, X, shape, classes, context)
    outputs = run["outputs"]
    if outputs == "auto":
        outputs = "full" if len(X) * classes <= _FULL_ROWS else "trace"
    x, x_test = inputs(X), inputs(X_test)
    options: dict[str, Any] = {"outputs": outputs, "accumulate": torch.float64}
    train, test = (
        tangent_kernel(network, x, **options),
        tangent_kernel(network, x_test, x, **options),
    )
    assert isinstance(train, torch.Tensor)
    assert isinstance(test, torch.Tensor)
    divisor = classes if outputs == "trace" else 1
    return _Kernels(train.cpu() / divisor, test.cpu() / divisor, outputs, parameter_count(network))


def initial_network(
    run: dict[str, Any],
    X: np.ndarray,
    shape: tuple[int, int, int],
    classes: int,
    context: Context,
) -> tuple[nn.Module, Callable[[np.ndarray], torch.Tensor]]:
    """The network of the trained row at its initial weights, and images as it sees them."""
    dtype = "float64" if context.dtype == "float64" else "float32"

    def inputs(rows: np.ndarray, device: str = context.device) -> torch.Tensor:
        return normalized(X, shape, rows, device=device, dtype=dtype)

    network = built_network(
        networks.factory_of(run, lambda: inputs(X, "cpu")),
        shape,
        classes,
        width=run.get("width", 1.0),
        gain=run.get("gain"),
        generator=torch_generator(run["seed"]),
    )
    return network.to(context.device, getattr(torch, dtype)).eval(), inputs


def _times(eigenvalues: torch.Tensor, scale: float) -> list[float]:
    """Times from before the first direction is learned to after the last, and infinity."""
    first = 1 / (scale * float(eigenvalues[0]))
    return [*(first * np.logspace(-1, 8, _TIMES - 1)).tolist(), math.inf]


def _flow(
    decomposed: Spectrum,
    y: torch.Tensor,
    times: Sequence[float],
    scale: float,
    cross: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    path = training_path(decomposed, y, times, cross_kernel=cross, scale=scale)
    assert path.test_predictions is not None
    return path.train_predictions, path.test_predictions


def _validated(
    kernel: torch.Tensor,
    y: torch.Tensor,
    labels: np.ndarray,
    times: Sequence[float],
    scale: float,
    share: float,
) -> int:
    """Index of the time of best accuracy on images held out of the fit; the first of equals."""
    # Images come shuffled, every class in its share.
    kept = len(y) - max(1, round(share * len(y)))
    if kernel.ndim == 2:
        fitted, cross = kernel[:kept, :kept], kernel[kept:, :kept]
    else:
        fitted, cross = kernel[:kept, :, :kept], kernel[kept:, :, :kept]
    # The flow's time is that of the mean loss: its scale on fewer images is larger.
    _, held = _flow(spectrum(fitted), y[:kept], times, scale * len(y) / kept, cross)
    return int(torch.tensor(accuracies(held, labels[kept:])).argmax())


def _ridge(
    decomposed: Spectrum, y: torch.Tensor, cross: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    unit = float(decomposed.eigenvalues.mean())
    path = decomposed.ridge(y, torch.logspace(-5, 2, 22, dtype=torch.float64) * unit)
    coefficients = path.coefficients[path.best]
    predicted = decomposed.system.cross(cross) @ decomposed.system.columns(coefficients)
    return path.train_predictions[path.best], predicted.reshape(len(cross), -1)


def accuracies(predictions: torch.Tensor, labels: np.ndarray) -> list[float]:
    """Share of the n right predictions, of shape (..., n, k)."""
    return (predictions.argmax(-1) == torch.from_numpy(labels)).double().mean(-1).tolist()
