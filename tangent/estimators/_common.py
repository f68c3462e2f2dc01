"""What the estimators share: devices, seeds, images in rows, networks by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor, nn

from tangent.batches import Inputs
from tangent.nets import network
from tangent.statistics import column_statistics

__all__ = [
    "INPUT_DTYPES",
    "built_network",
    "built_networks",
    "finite_outputs",
    "flat_rows",
    "normalization",
    "normalized_inputs",
    "parameter_count",
    "row_shape",
    "torch_device",
    "torch_dtype",
    "torch_generator",
]

INPUT_DTYPES = [np.float32, np.float64, np.uint8]
Model = str | nn.Module | Callable[..., nn.Module]


def torch_device(device: str | torch.device) -> torch.device:
    """Return the device called ``device``; "auto" is a GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto' or a torch device; got {device!r}") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} is not available on this machine; take 'cpu'")
    return found


def torch_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the floating dtype called ``dtype``."""
    allowed = ("float32", "float64", "bfloat16")
    name = str(dtype).removeprefix("torch.")
    if name not in allowed:
        raise ValueError(f"dtype must be one of {', '.join(map(repr, allowed))}; got {dtype!r}")
    return getattr(torch, name)


def torch_generator(random_state: int | np.random.RandomState | None) -> torch.Generator:
    """Return a CPU generator seeded from a scikit-learn ``random_state``."""
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return torch.Generator().manual_seed(int(seed))


def flat_rows(X: Any) -> Any:
    """Flatten images (n, c, h, w) to rows; anything else is left as it is."""
    if getattr(X, "ndim", 2) == 4 and hasattr(X, "reshape"):
        return X.reshape(len(X), -1)
    return X


def row_shape(image_shape: tuple[int, ...] | None, n_features: int) -> tuple[int, ...]:
    """Return the shape of one input: ``image_shape``, or a plain vector when it is None."""
    if image_shape is None:
        return (n_features,)
    shape = tuple(image_shape)
    if len(shape) != 3 or any(not isinstance(s, int | np.integer) or s < 1 for s in shape):
        raise ValueError(
            f"image_shape must be (channels, height, width), positive integers; got {image_shape!r}"
        )
    if math.prod(shape) != n_features:
        raise ValueError(
            f"image_shape {shape} has {math.prod(shape)} values but a row of X has {n_features}; "
            f"pass the shape of your images, or None for plain vectors"
        )
    return tuple(int(s) for s in shape)


def normalization(X: np.ndarray, shape: tuple[int, ...], normalize: bool) -> tuple:
    """Return mean and scale, by channel of images or by feature, broadcastable over a batch."""
    by = (shape[0], 1, 1) if len(shape) == 3 else shape
    if not normalize:
        return np.zeros(by), np.ones(by)
    channels = shape[0] if len(shape) == 3 else None
    mean, scale = column_statistics(X.reshape(len(X), -1), np.ones(len(X)), channels)
    return mean.reshape(by), scale.reshape(by)


def normalized_inputs(
    X: np.ndarray,
    shape: tuple[int, ...],
    mean: np.ndarray,
    scale: np.ndarray,
    device: torch.device,
    dtype: torch.dtype,
) -> Inputs:
    """Return the rows of ``X`` as inputs of ``shape`` on the device, normalized batch by batch.

    Rows in float64 are centred in float64, whatever the ``dtype`` of the batches.
    """
    wide = dtype == torch.float64 or X.dtype == np.float64
    work = torch.float64 if wide else torch.float32
    X = np.ascontiguousarray(X)
    # torch does not take read-only memory: a memory map is copied, an array is shared.
    x = torch.from_numpy(X if X.flags.writeable else X.copy()).reshape(len(X), *shape).to(device)

    def statistic(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device, work)

    return Inputs(x, statistic(mean), statistic(scale), dtype)


def built_network(
    model: Model,
    shape: tuple[int, ...],
    k: int,
    *,
    width: float,
    gain: float | None,
    generator: torch.Generator,
) -> nn.Module:
    """Return the network of an estimator's ``model``: a name, a factory or a module.

    A factory is called as ``model(input_shape, n_outputs, generator)``; a module is copied, and
    ``width`` and ``gain`` do not concern either.
    """
    (built,) = built_networks(model, 1, shape, k, width=width, gain=gain, generator=generator)
    return built


def built_networks(
    model: Model,
    count: int,
    shape: tuple[int, ...],
    k: int,
    *,
    width: float,
    gain: float | None,
    generator: torch.Generator,
) -> list[nn.Module]:
    """Return so many networks, built as `built_network` does, one after the other."""
    with _global_state_kept(generator):
        return [
            _built(model, shape, k, width=width, gain=gain, generator=generator)
            for _ in range(count)
        ]


@contextmanager
def _global_state_kept(generator: torch.Generator) -> Iterator[None]:
    """Leave torch's global generator as it is, and seed it within from ``generator``.

    Layers draw their default weights from it, to be overwritten or not: the same ``random_state``
    then gives the same weights also where a factory does not use its generator.
    """
    before = torch.default_generator.get_state()
    drawn = torch.Generator()
    drawn.set_state(generator.get_state())
    # on the CPU whatever device the caller builds on ("meta", to count the memory)
    seed = int(torch.randint(2**62, (), generator=drawn, device="cpu"))
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def _built(
    model: Model,
    shape: tuple[int, ...],
    k: int,
    *,
    width: float,
    gain: float | None,
    generator: torch.Generator,
) -> nn.Module:
    if isinstance(model, str):
        return network(model, shape, k, width=width, gain=gain, generator=generator)
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    if callable(model):
        built = model(shape, k, generator)
        if isinstance(built, nn.Module):
            return built
        raise TypeError(f"the model factory must return an nn.Module; got {type(built).__name__}")
    raise TypeError(
        f"model must be a name, an nn.Module or a factory (input_shape, n_outputs, generator) -> "
        f"nn.Module; got {type(model).__name__}"
    )


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())


def finite_outputs(outputs: np.ndarray, X: object) -> np.ndarray:
    """``outputs`` of the rows ``X``, refused where the network's arithmetic has left its range.

    Raises
    ------
    ValueError
        When an output is not finite; the largest of NaNs would be a class like any other.
    """
    if not np.isfinite(outputs).all():
        top = np.abs(np.asarray(X, dtype=np.float64)).max()
        raise ValueError(
            f"X must be in the units of the training rows: its values reach {top:.3g}, and the "
            "network's outputs at them are not finite; rescale these rows, or take dtype='float64'"
        )
    return outputs
