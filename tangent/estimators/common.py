"""What the estimators share: devices, seeds, images in rows, networks by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from inspect import Parameter
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from tangent.capture import picking
from tangent.capture.functional import selected_parameters
from tangent.capture.outputs import output_shape
from tangent.machine.copies import copied
from tangent.machine.images import checked_image_shape, image_rows
from tangent.machine.statistics import column_statistics
from tangent.nets import network
from tangent.nets.layers import global_state_kept
from tangent.nets.named import is_elsewhere, network_factory
from tangent.solve.system import allocations_of
from tangent.training.batches import Inputs

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


def token_rows(X: Any, input_shape: tuple[int, ...] | None) -> bool:
    """Whether rows are tokens: integers (not bytes) with an ``input_shape``."""
    if input_shape is None:
        return False
    dtype = getattr(X, "dtype", None)
    dtype = np.asarray(X).dtype if not isinstance(dtype, np.dtype) else dtype
    return dtype.kind in "iu" and dtype != np.uint8


def also_takes(base: type, **own: Any) -> Callable[[Callable], Callable]:
    """Decorate an ``__init__`` that takes what ``base`` takes, and keywords of its own.

    scikit-learn reads the parameters of an estimator from this signature.
    """
    shared = inspect.signature(base.__init__)  # type: ignore[misc]
    keywords = [Parameter(n, Parameter.KEYWORD_ONLY, default=v) for n, v in own.items()]

    def decorator(function: Callable) -> Callable:
        both = shared.replace(parameters=[*shared.parameters.values(), *keywords])
        function.__signature__ = both  # type: ignore[attr-defined]
        return function

    return decorator


def checked_rows(
    estimator: Any, X: Any, *y: Any, dtype: Any, reset: bool = True, **options: Any
) -> Any:
    """Return what `validate_data` makes of X (and y), inputs of any shape flattened to rows.

    Integers with an ``input_shape`` are tokens and stay integers, as int64; ``tokens_`` remembers
    it, and later rows have to be whole numbers, too. ``images_`` remembers the shape of images
    that came with it.
    """
    if reset:
        free = estimator.image_shape is None and estimator.input_shape is None
        estimator.images_ = image_rows(X, None)[1] if free else None
    X = rows_of(X, estimator.input_shape)
    if reset:
        estimator.tokens_ = token_rows(X, estimator.input_shape)
    elif estimator.tokens_ and not token_rows(X, estimator.input_shape):
        values = np.asarray(X, dtype=np.float64)
        if not (values == np.floor(values)).all():
            raise ValueError(
                "X must hold tokens, whole numbers, as in fit; it has fractions or values that "
                "are not finite"
            )
    if estimator.tokens_:
        dtype = np.int64
    return validate_data(estimator, X, *y, dtype=dtype, reset=reset, **options)


def rows_of(X: Any, input_shape: tuple[int, ...] | None) -> Any:
    """Return images, or with ``input_shape`` inputs of any shape, as rows."""
    return image_rows(X, None)[0] if input_shape is None else _flat(X)


def _flat(X: Any) -> Any:
    """Rows of whatever has more than two axes (or one: inputs that are single numbers)."""
    X = X if hasattr(X, "ndim") else np.asarray(X)
    return X.reshape(len(X), -1) if X.ndim != 2 and X.ndim > 0 and hasattr(X, "reshape") else X


def check_takes(model: nn.Module, x: Tensor, tokens: bool) -> None:
    """Raise ValueError where a network does not take rows for what they are."""
    size = x[0].numel()
    rows = {int(x.argmin()) // size, int(x.argmax()) // size} if tokens else {0}
    try:
        for row in rows:  # that of the largest token is the first to be refused
            with allocations_of(
                f"{type(model).__name__} on two inputs", "take a smaller network or smaller inputs"
            ):
                output_shape(model, x[row : row + 1])
    except RuntimeError as error:
        if tokens and not embeds(model):
            raise ValueError(
                "X holds integers, which reach the network as tokens (int64) with input_shape, "
                f"and it has no embedding: {error}; pass X.astype(float) where they are numbers"
            ) from error
        if not tokens and embeds(model):
            raise ValueError(
                f"the network did not take X as numbers: {error}; tokens are integers, with the "
                "shape of one input as input_shape"
            ) from error
        raise
    except IndexError as error:
        if not tokens:
            raise
        raise ValueError(
            f"X must hold tokens that the network's embeddings know; they go from {int(x.min())} "
            f"to {int(x.max())}: {error}"
        ) from error


def embeds(model: nn.Module) -> bool:
    """Whether a network has an embedding, so that its inputs may be tokens."""
    return any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in model.modules())


def chosen_part(model: nn.Module, parameters: Any, output: Any) -> nn.Module:
    """Return the network, of which these parameters alone train, with the output that counts."""
    if parameters is not None:
        chosen = selected_parameters(model, parameters)
        for name, p in model.named_parameters():
            p.requires_grad_(name in chosen)
    return picking(model, output)


def row_shape(
    image_shape: tuple[int, ...] | None,
    n_features: int,
    input_shape: tuple[int, ...] | None = None,
) -> tuple[int, ...]:
    """Return the shape of one input: the one that is given, or a plain vector."""
    if image_shape is not None and input_shape is not None:
        raise ValueError(
            f"image_shape and input_shape say the same; got {image_shape!r} and {input_shape!r}; "
            "leave one of them out"
        )
    if input_shape is not None:
        return _input_shape(input_shape, n_features)
    if image_shape is None:
        return (n_features,)
    return checked_image_shape(image_shape, n_features)


def fitted_shape(estimator: Any, n_features: int) -> tuple[int, ...]:
    """Return the shape of one input: the estimator's, or that of the images it was given."""
    shape = estimator.images_ if estimator.image_shape is None else estimator.image_shape
    return row_shape(shape, n_features, estimator.input_shape)


def _input_shape(input_shape: tuple[int, ...], n_features: int) -> tuple[int, ...]:
    shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
    if any(not isinstance(s, int | np.integer) or s < 1 for s in shape):
        raise ValueError(f"input_shape must be of positive integers; got {input_shape!r}")
    if math.prod(shape) != n_features:
        raise ValueError(
            f"input_shape {shape} has {math.prod(shape)} values but a row of X has {n_features}; "
            "pass the shape of one input, without the number of inputs"
        )
    return tuple(int(s) for s in shape)


def normalization(X: np.ndarray, shape: tuple[int, ...], normalize: bool) -> tuple:
    """Return mean and scale, by channel of images or by feature, broadcastable over a batch."""
    by = (shape[0], 1, 1) if len(shape) == 3 else shape
    if not normalize or X.dtype == np.int64:
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

    Tokens (int64) are taken as they are. Rows in float64 are centred in float64, whatever the
    ``dtype`` of the batches.
    """
    wide = dtype == torch.float64 or X.dtype == np.float64
    work = torch.float64 if wide else torch.float32
    X = np.ascontiguousarray(X)
    # torch does not take read-only memory: a memory map is copied, an array is shared.
    x = torch.from_numpy(X if X.flags.writeable else X.copy()).reshape(len(X), *shape).to(device)

    def statistic(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device, work)

    if X.dtype == np.int64:
        dtype = torch.int64
    return Inputs(x, statistic(mean), statistic(scale), dtype)


def built_network(model: Model, shape: tuple[int, ...], k: int, **options: Any) -> nn.Module:
    """The one network of `built_networks`, whose ``width``, ``gain`` and ``generator`` it takes."""
    (built,) = built_networks(model, 1, shape, k, **options)
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
    """Return so many networks of an estimator's ``model``: a name, a factory or a module.

    A factory is called as ``model(input_shape, n_outputs, generator)``, and so is what a name of
    `tangent.nets.network` with a colon stands for; a module is copied, and has one initialization
    only: ``count``, ``width`` and ``gain`` do not concern it.
    """
    if isinstance(model, nn.Module):
        count = 1
    if is_elsewhere(model):
        model = network_factory(model)
    with global_state_kept(generator):
        if isinstance(model, str):
            options: dict[str, Any] = {"width": width, "gain": gain, "generator": generator}
            return [network(model, shape, k, **options) for _ in range(count)]
        return [_built(model, shape, k, generator) for _ in range(count)]


def _built(
    model: nn.Module | Callable[..., nn.Module],
    shape: tuple[int, ...],
    k: int,
    generator: torch.Generator,
) -> nn.Module:
    if isinstance(model, nn.Module):
        return copied(model)
    if callable(model):
        with allocations_of("model: the factory", "make the network smaller"):
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
