"""Networks by name."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from tangent.nets.convolutional import resnet18, vgg11
from tangent.nets.dense import mlp
from tangent.nets.layers import one_of

__all__ = ["network"]


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
    name : {"vgg11", "resnet18", "mlp"}
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
    """
    if name == "designed_cnn":
        raise ValueError(
            "model 'designed_cnn' is built from images: call tangent.nets.designed_cnn(images), "
            "or give its name to TangentKernelClassifier or TangentKernelRegressor"
        )
    one_of("model", name, ("vgg11", "resnet18", "mlp"))
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
