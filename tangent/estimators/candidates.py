"""The networks among which ``model="auto"`` chooses by leaving one out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tangent.nets import mlp, vgg11


class SinCos(nn.Module):
    """``sin(x) + cos(x)``.

    Under Gaussian weights the mean of ``activation(w.x) activation(w.y)`` is the Gaussian kernel
    (Rahimi & Recht 2007): the tangent kernel of one such hidden layer is a Gaussian kernel times
    a polynomial of degree one in x.y, of a bandwidth that the gain sets.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return ``sin(x) + cos(x)`` elementwise."""
        return torch.sin(x) + torch.cos(x)


_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sincos": SinCos}


@dataclass(frozen=True)
class Perceptron:
    """Factory of perceptrons in the NTK parametrization, for the ``model`` of an estimator.

    Parameters
    ----------
    activation : {"relu", "tanh", "gelu", "sincos"}
    depth : int
        Hidden layers.
    units : int
        In each of them.
    gain : float
        Weights of a layer have standard deviation ``gain / sqrt(fan_in)``.
    """

    activation: str = "relu"
    depth: int = 2
    units: int = 512
    gain: float = math.sqrt(2)

    def __call__(
        self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator
    ) -> nn.Module:
        """Return a network for inputs of ``shape``."""
        perceptron = mlp(
            math.prod(shape),
            n_outputs,
            hidden=(self.units,) * self.depth,
            gain=self.gain,
            activation=_ACTIVATIONS[self.activation],
            parametrization="ntk",
            generator=generator,
        )
        return perceptron if len(shape) == 1 else nn.Sequential(nn.Flatten(), *perceptron)


@dataclass(frozen=True)
class _AveragingVGG11:
    """VGG-11 with average pooling: the better kernel (Chizat et al. 2019 have max pooling)."""

    width: float

    def __call__(
        self, shape: tuple[int, ...], n_outputs: int, generator: torch.Generator
    ) -> nn.Module:
        return vgg11(
            n_outputs,
            in_channels=shape[0],
            image_size=shape[1],
            width=self.width,
            gain=math.sqrt(2),
            pooling="average",
            head="global-average",
            parametrization="ntk",
            generator=generator,
        )


def candidates(shape: tuple[int, ...], width: float) -> list[Perceptron | _AveragingVGG11]:
    """Return the factories that "auto" stands for.

    Perceptrons for rows of numbers and small images; VGG-11 with average pooling for square
    images of 32 pixels and more.
    """
    if len(shape) == 3 and shape[1] == shape[2] >= 32:
        return [_AveragingVGG11(width)]
    units = max(1, round(512 * width))
    return [
        Perceptron("sincos", 1, units, 0.15),
        Perceptron("sincos", 1, units, 0.3),
        Perceptron("sincos", 1, units, 0.6),
        Perceptron("sincos", 1, units, 1.0),
        Perceptron("gelu", 2, units),
        Perceptron("tanh", 2, units, 1.0),
    ]
