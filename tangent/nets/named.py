"""One way to name a network, for estimators and for every command.

``vgg11``, ``resnet18``, ``mlp``
    A network of `tangent.nets`, at a width.
``torchvision:NAME``, ``timm:NAME``
    A network of these libraries, which are imported where one is named; no weights are loaded.
``FILE.py:FUNCTION``, ``PACKAGE.MODULE:FUNCTION``
    A function of one's own, called with (input_shape, n_outputs, generator).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import nn

from tangent.nets.convolutional import resnet18, vgg11
from tangent.nets.dense import mlp
from tangent.nets.layers import global_state_kept
from tangent.nets.libraries import LIBRARIES, library_network
from tangent.nets.own import NetworkNameError, own_network

NAMES = ("vgg11", "resnet18", "mlp")


def is_elsewhere(model: object) -> TypeGuard[str]:
    """Whether ``model`` names a network of a library or of one's own, with a colon."""
    return isinstance(model, str) and ":" in model


def network_factory(name: str) -> Callable[..., nn.Module]:
    """Return the function (input_shape, n_outputs, generator) that a name with a colon stands for.

    A library draws weights from torch's global generator.

    Parameters
    ----------
    name : str
        ``torchvision:NAME``, ``timm:NAME``, ``FILE.py:FUNCTION``, ``PACKAGE.MODULE:FUNCTION``.

    Raises
    ------
    ValueError
        When there is no such network, or the function has another signature.
    ModuleNotFoundError
        When the library is not installed.
    """
    library, _, rest = name.partition(":")
    return library_network(library, rest) if library in LIBRARIES else own_network(name)


def network(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: float = 1.0,
    gain: float | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Build the network called ``name`` for inputs of ``input_shape``.

    Parameters
    ----------
    name : str
        "vgg11", "resnet18", "mlp", or one of `network_factory`, which ``width`` and ``gain`` do
        not concern.
    input_shape : tuple of int
        ``(channels, size, size)`` for the convolutional ones, anything for ``"mlp"``.
    num_classes : int
    width : float
    gain : float, optional
        The network's own default if None.
    generator : torch.Generator, optional

    Raises
    ------
    ValueError
        If the name is unknown (with the names there are) or the shape does not fit.
    ModuleNotFoundError
        If the library of the name is not installed.
    """
    if name == "designed_cnn":
        raise ValueError(
            "model 'designed_cnn' is built from images: call tangent.nets.designed_cnn(images), "
            "or give its name to TangentKernelClassifier or TangentKernelRegressor"
        )
    if is_elsewhere(name):
        make = network_factory(name)
        if generator is None:
            return make(input_shape, num_classes, generator)
        with global_state_kept(generator):
            made = make(input_shape, num_classes, generator)
        torch.rand((), generator=generator)  # the next network is another one
        return made
    if name not in NAMES:
        raise NetworkNameError(
            f"model must be one of {', '.join(map(repr, NAMES))}, or torchvision:NAME, timm:NAME, "
            f"FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION; got {name!r}"
        )
    options: dict[str, Any] = {} if gain is None else {"gain": gain}
    if name == "mlp":
        perceptron = mlp(
            math.prod(input_shape), num_classes, width=width, generator=generator, **options
        )
        return perceptron if len(input_shape) == 1 else nn.Sequential(nn.Flatten(), *perceptron)
    if len(input_shape) != 3 or input_shape[1] != input_shape[2]:
        raise ValueError(
            f"model {name!r} takes square images (channels, size, size); got input_shape "
            f"{tuple(input_shape)}; set image_shape, or take model='mlp'"
        )
    build = vgg11 if name == "vgg11" else resnet18
    return build(
        num_classes,
        in_channels=input_shape[0],
        image_size=input_shape[1],
        width=width,
        generator=generator,
        **options,
    )
