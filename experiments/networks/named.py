"""One way to name a network, in every command.

``vgg11``, ``resnet18``, ``mlp``
    A network of `tangent.nets`, at a width.
``designed_cnn``
    That of `tangent.nets.designed_cnn`, where there are images to build it from.
``torchvision:NAME``, ``timm:NAME``
    A network of these libraries (timm is an optional one), with weights drawn by the seed.
``FILE.py:FUNCTION``, ``PACKAGE.MODULE:FUNCTION``
    A function of one's own, called with (input_shape, n_outputs, generator).

A run knows an own network by the content of its file, and given weights by their digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.networks import own as own_models
from experiments.usage import UsageError, one_of

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["DESIGNED", "NAMES", "factory", "factory_of", "identity", "with_weights"]

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
        When there is no network of that name, or a file is missing.
    """
    found: dict[str, str] = {}
    library, colon, name = model.partition(":")
    if not colon:
        one_of("model", model, (*NAMES, DESIGNED) if designed else NAMES)
    elif library in LIBRARIES:
        _check_library(library, name)
    else:
        found["source"] = own_models.source(model)
    if weights is not None:
        found["weights_digest"] = _digest(weights)
    return found


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
    library, colon, name = model.partition(":")
    if colon and library not in LIBRARIES:
        return own_models.own_model(model, source)

    def make(input_shape: tuple[int, ...], n_outputs: int, generator: torch.Generator) -> nn.Module:
        import torch

        from tangent.nets import network

        with torch.random.fork_rng(devices=[]):
            if colon:
                return _of_library(library, name, input_shape, n_outputs, generator)
            return network(model, input_shape, n_outputs, width=width, generator=generator)

    return make


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
        When the library is not there, or names or shapes differ.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UsageError("--weights needs safetensors: pip install safetensors") from error
    try:
        module.load_state_dict(load_file(Path(weights).expanduser()))
    except Exception as error:  # of the file, or of names and shapes
        raise UsageError(f"--weights {weights} do not fit --model {model}: {error}") from error
    return module


def _check_library(library: str, name: str) -> None:
    if library == "torchvision":
        from torchvision.models import list_models
    else:
        try:
            from timm import list_models
        except ImportError as error:
            raise UsageError(f"--model timm:{name} needs timm: pip install timm") from error
    one_of(f"{library} model", name, tuple(list_models()))


def _of_library(
    library: str,
    name: str,
    input_shape: tuple[int, ...],
    n_outputs: int,
    generator: torch.Generator,
) -> nn.Module:
    """A network of a library, its weights drawn from the generator's seed and no other."""
    import torch

    channels = input_shape[0] if len(input_shape) == 3 else 3
    if library == "torchvision" and channels != 3:
        raise UsageError(
            f"--model torchvision:{name} takes images of 3 channels; the data has {channels}; "
            f"take a function of your own, or timm:, which makes the first layer anew"
        )
    torch.manual_seed(generator.initial_seed())
    if library == "torchvision":
        from torchvision.models import get_model

        extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        return get_model(name, weights=None, num_classes=n_outputs, **extra)
    import timm

    return timm.create_model(name, pretrained=False, num_classes=n_outputs, in_chans=channels)
