"""One way to name a network, in every command.

That of `tangent.nets.named`, and ``designed_cnn`` where there are images to build it from.

A run knows an own network by the content of its file, and given weights by their digest.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.usage import UsageError, one_of

if TYPE_CHECKING:
    import torch
    from torch import nn

NAMES = ("vgg11", "resnet18", "mlp")
LIBRARIES = ("torchvision", "timm")
DESIGNED = "designed_cnn"


def identity(model: str, weights: str | None = None, *, designed: bool = False) -> dict[str, str]:
    """What a run has to know of a network beside its name.

    Parameters
    ----------
    model : str
    weights : str, optional
        Path of a state dict in safetensors.
    designed : bool
        Whether ``designed_cnn`` is one of the names.

    Returns
    -------
    dict
        ``source``, checksum of an own network's file; ``weights_digest``, of the weights' file.

    Raises
    ------
    UsageError
        When there is no network of that name, a function has another signature, or a file is
        missing or no state dict.
    """
    found: dict[str, str] = {}
    library, colon, _ = model.partition(":")
    if not colon:
        one_of("model", model, (*NAMES, DESIGNED) if designed else NAMES)
    else:
        _elsewhere(model)
        if library not in LIBRARIES:
            from tangent.nets.own import source

            found["source"] = source(model)
    if weights is not None:
        found["weights_digest"] = _digest(weights)
        _check_readable(weights)
    return found


@contextmanager
def _request() -> Iterator[None]:
    """Turn what is wrong with the name of a network into what is wrong with the command."""
    from tangent.nets.own import NetworkNameError

    try:
        yield
    except NetworkNameError as error:
        raise UsageError(f"--{error}") from error


def _elsewhere(model: str, source: str | None = None) -> Callable[..., nn.Module]:
    """The function of a library or of one's own that makes the network."""
    from tangent.nets.named import network_factory
    from tangent.nets.own import own_network

    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    with _request():
        if source is not None:
            return own_network(model, source)
        try:
            return network_factory(model)
        except ModuleNotFoundError as error:  # of the library
            raise UsageError(f"--{error}") from error


def _digest(weights: str) -> str:
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UsageError(f"--weights {weights}: there is no such file")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def factory(
    model: str, *, width: float = 1.0, source: str | None = None
) -> Callable[[tuple[int, ...], int, torch.Generator], nn.Module]:
    """Return the function (input_shape, n_outputs, generator) that makes the network.

    Parameters
    ----------
    model : str
    width : float
        Of a network of `tangent.nets`.
    source : str, optional
        Of `identity`; an own network whose file has changed since is an error.
    """
    if ":" not in model:
        return partial(_of_ours, model, width)
    build = _elsewhere(model, source)
    seeded = model.partition(":")[0] in LIBRARIES

    def make(input_shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> nn.Module:
        import torch

        from tangent.solve.system import allocations_of

        what, way_out = f"--model {model}: the function", "make the network smaller"
        with torch.random.fork_rng(devices=[]), _request(), allocations_of(what, way_out):
            if seeded:
                torch.manual_seed(generator.initial_seed())
            return build(input_shape, n_outputs, generator)

    return make


def _of_ours(
    model: str,
    width: float,
    input_shape: tuple[int, ...],
    n_outputs: int,
    generator: torch.Generator,
) -> nn.Module:
    import torch

    from tangent.nets import network

    with torch.random.fork_rng(devices=[]):
        return network(model, input_shape, n_outputs, width=width, generator=generator)


def factory_of(
    run: dict[str, Any], images: Callable[[], torch.Tensor] | None = None
) -> str | Callable[[tuple[int, ...], int, torch.Generator], nn.Module]:
    """Return what an estimator's ``model`` is in a run: a name, or a factory.

    Parameters
    ----------
    run : dict
        With ``model`` and what `identity` found; ``weights`` where there are any.
    images : callable, optional
        Returns the normalized training images that ``designed_cnn`` is built from.
    """
    model, weights = run["model"], run.get("weights")
    if model in NAMES and weights is None:
        return model
    if weights is not None and _digest(weights) != run["weights_digest"]:
        raise UsageError(f"--weights {weights} have changed since the command began; start anew")
    width = run.get("width", 1.0)
    build = None if model == DESIGNED else factory(model, width=width, source=run.get("source"))

    def make(input_shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> nn.Module:
        if build is not None:
            module = build(input_shape, n_outputs, generator)
        else:
            from tangent.nets import designed_cnn

            assert images is not None
            module = designed_cnn(images(), n_outputs, generator=generator)
        return module if weights is None else with_weights(module, weights, model)

    return make


def with_weights(module: nn.Module, weights: str, model: str) -> nn.Module:
    """Load a state dict in safetensors into the network, and return it.

    Raises
    ------
    UsageError
        When names or shapes differ.
    """
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(Path(weights).expanduser()))
    except Exception as error:  # of the file, or of names and shapes
        raise UsageError(f"--weights {weights} do not fit --model {model}: {error}") from error
    return module


def _check_readable(weights: str) -> None:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise UsageError("--weights needs safetensors: pip install safetensors") from error
    try:
        with safe_open(Path(weights).expanduser(), framework="pt"):
            pass
    except Exception as error:  # of the file
        raise UsageError(f"--weights {weights} cannot be read as safetensors: {error}") from error
