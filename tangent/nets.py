"""Networks of the paper's experiments, and their kernel-friendly variants.

VGG-11 and ResNet-18 here have no batch normalization: every output is a function of one input
alone, which a tangent kernel needs. Weights are Xavier normal, biases zero (Chizat et al. 2019,
Section 3.2 and the published code).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = [
    "ScaledConv2d",
    "ScaledLinear",
    "TwoLayer",
    "mlp",
    "network",
    "resnet18",
    "two_layer",
    "vgg11",
]

Pooling = Literal["max", "average"]
Head = Literal["flatten", "global-average"]
Parametrization = Literal["standard", "ntk"]

_VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


class ScaledConv2d(nn.Conv2d):
    """Convolution with weight ``scale * weight``: the NTK parametrization keeps weights N(0, 1).

    ``scale`` is gain / sqrt(fan_in). The bias is not scaled.
    """

    def __init__(self, *args, gain: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = gain / math.sqrt(self.weight[0].numel())

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o i j"]:
        """Return the convolution of ``x`` with the scaled weight."""
        return F.conv2d(
            x,
            self.weight * self.scale,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


class ScaledLinear(nn.Linear):
    """Linear layer with weight ``scale * weight`` (NTK parametrization), as `ScaledConv2d`."""

    def __init__(self, *args, gain: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = gain / math.sqrt(self.in_features)

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n o"]:
        """Return the product of ``x`` with the scaled weight."""
        return F.linear(x, self.weight * self.scale, self.bias)


class _ResidualBlock(nn.Module):
    """Two biased 3x3 convolutions and a biased 1x1 shortcut where the shape changes."""

    def __init__(self, conv: Callable[..., nn.Conv2d], c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = conv(c_in, c_out, 3, stride=stride, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(c_out, c_out, 3, padding=1)
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else conv(c_in, c_out, 1, stride=stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(self.conv2(self.relu1(self.conv1(x))) + self.shortcut(x))


class TwoLayer(nn.Module):
    """``scale * sum_j a_j activation(b_j . x)``, the student and teacher of Figures 1 and 2.

    With ``symmetric`` the second half of the units repeats the first with the sign of the output
    weight changed: the output is exactly zero at initialization and both halves are trained
    (Chizat et al. 2019, Section 3.1).
    """

    def __init__(self, n_features: int, m: int, *, scale: float = 1.0, activation=None):
        super().__init__()
        self.scale = scale
        self.hidden = nn.Linear(n_features, m, bias=False)
        self.activation = nn.ReLU() if activation is None else activation
        self.output = nn.Linear(m, 1, bias=False)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
        """Return the network's output for every row of ``x``."""
        return self.output(self.activation(self.hidden(x))) * self.scale


def _layers(parametrization: Parametrization, gain: float):
    """The convolution and linear constructors of a parametrization."""
    _one_of("parametrization", parametrization, ("standard", "ntk"))
    if parametrization == "standard":
        return nn.Conv2d, nn.Linear

    def conv(*args, **kwargs):
        return ScaledConv2d(*args, gain=gain, **kwargs)

    def linear(*args, **kwargs):
        return ScaledLinear(*args, gain=gain, **kwargs)

    return conv, linear


@torch.no_grad()
def _initialize(
    model: nn.Module, gain: float, parametrization: Parametrization, generator
) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if parametrization == "ntk":
                module.weight.normal_(generator=generator)
            else:
                nn.init.xavier_normal_(module.weight, gain, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
    return model


def _one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def _check_sizes(**sizes: float) -> None:
    for name, value in sizes.items():
        if not value > 0 or math.isinf(value):
            raise ValueError(f"{name} must be positive and finite; got {value!r}")


def _channels(width: float, base: int) -> int:
    return max(1, round(base * width))


def vgg11(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    gain: float = 1.0,
    pooling: Pooling = "max",
    head: Head = "flatten",
    parametrization: Parametrization = "standard",
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """VGG-11 without batch normalization, with one linear layer as head.

    Parameters
    ----------
    num_classes : int
        Outputs.
    in_channels, image_size : int
        Shape of an input, ``(in_channels, image_size, image_size)``; the size is at least 32.
    width : float
        Multiplies the number of channels of every convolution (the paper's k).
    gain : float
        Gain of the Xavier normal weights (with ``parametrization="ntk"``, of the layer's scale).
    pooling : {"max", "average"}
        The paper's network has max pooling; average pooling suits kernels better.
    head : {"flatten", "global-average"}
        ``"global-average"`` leaves out the last two poolings and averages over the positions
        that remain (8x8 at 32x32 has the last three left out).
    parametrization : {"standard", "ntk"}
    generator : torch.Generator, optional
        A CPU generator; the same seed gives the same weights on every device.

    Returns
    -------
    nn.Sequential
        9,225,610 parameters at width 1 and 589,900,810 at width 8, for 10 classes.

    Raises
    ------
    ValueError
        If an option is unknown, a size is not positive, or ``image_size < 32``.

    Notes
    -----
    Source: Chizat et al. 2019, Figure 3. The published configuration has a sixth pooling whose
    output is empty on 32x32 images; it is left out.
    """
    _check_sizes(num_classes=num_classes, in_channels=in_channels, width=width, gain=gain)
    _one_of("pooling", pooling, ("max", "average"))
    _one_of("head", head, ("flatten", "global-average"))
    if image_size < 32:
        raise ValueError(
            f"image_size must be at least 32 for vgg11, which halves it five times; got "
            f"{image_size}; resize the images or take an mlp"
        )
    conv, linear = _layers(parametrization, gain)
    pool = nn.MaxPool2d if pooling == "max" else nn.AvgPool2d
    layers: list[nn.Module] = []
    channels, size = in_channels, image_size
    for item in _VGG11:
        if isinstance(item, int):
            out = _channels(width, item)
            layers += [conv(channels, out, 3, padding=1), nn.ReLU()]
            channels = out
        elif head == "flatten" or size > image_size // 4:
            layers.append(pool(2))
            size //= 2
    if head == "global-average":
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(channels, num_classes)]
    else:
        layers += [nn.Flatten(), linear(channels * size * size, num_classes)]
    model = nn.Sequential(*layers)
    _initialize(model, gain, parametrization, generator)
    return model


def resnet18(
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    width: float = 1.0,
    gain: float = 1.0,
    parametrization: Parametrization = "standard",
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """ResNet-18 for small images, without batch normalization, convolutions biased.

    Parameters
    ----------
    num_classes, in_channels, image_size, width, gain, parametrization, generator
        As in `vgg11`. The last average runs over all positions (4x4 on 32x32 images).

    Returns
    -------
    nn.Sequential
        11,169,162 parameters at width 1 and 546,799,242 at width 7, for 10 classes.

    Notes
    -----
    Source: Chizat et al. 2019, Figure 3(b) and the published code: the shortcut is a biased 1x1
    convolution where the shape changes.
    """
    _check_sizes(num_classes=num_classes, in_channels=in_channels, width=width, gain=gain)
    if image_size < 32:
        raise ValueError(f"image_size must be at least 32 for resnet18; got {image_size}")
    conv, linear = _layers(parametrization, gain)
    channels = _channels(width, 64)
    layers: list[nn.Module] = [conv(in_channels, channels, 3, padding=1), nn.ReLU()]
    for stage, base in enumerate((64, 128, 256, 512)):
        out = _channels(width, base)
        layers.append(_ResidualBlock(conv, channels, out, stride=1 if stage == 0 else 2))
        layers.append(_ResidualBlock(conv, out, out, stride=1))
        channels = out
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(channels, num_classes)]
    model = nn.Sequential(*layers)
    _initialize(model, gain, parametrization, generator)
    return model


def mlp(
    n_features: int,
    num_classes: int = 10,
    *,
    hidden: Sequence[int] = (512, 512),
    width: float = 1.0,
    gain: float = math.sqrt(2.0),
    activation: Callable[[], nn.Module] = nn.ReLU,
    parametrization: Parametrization = "standard",
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Multilayer perceptron for rows of numbers.

    Parameters
    ----------
    n_features, num_classes : int
    hidden : sequence of int
        Units of each hidden layer, before ``width`` multiplies them.
    width, gain, parametrization, generator
        As in `vgg11`; the gain of sqrt(2) keeps the size of ReLU activations.
    activation : callable
        Makes one activation module, ``nn.ReLU`` or ``nn.Tanh`` for example.
    """
    _check_sizes(n_features=n_features, num_classes=num_classes, width=width, gain=gain)
    _, linear = _layers(parametrization, gain)
    layers: list[nn.Module] = []
    units = n_features
    for base in hidden:
        out = _channels(width, base)
        layers += [linear(units, out), activation()]
        units = out
    layers.append(linear(units, num_classes))
    model = nn.Sequential(*layers)
    _initialize(model, gain, parametrization, generator)
    return model


@torch.no_grad()
def two_layer(
    n_features: int,
    m: int,
    *,
    tau: float = 1.0,
    scale: float = 1.0,
    symmetric: bool = True,
    activation: nn.Module | None = None,
    dtype: torch.dtype = torch.float64,
    generator: torch.Generator | None = None,
) -> TwoLayer:
    """Two-layer network of Figures 1 and 2 with weights ``tau * N(0, 1)``.

    Parameters
    ----------
    n_features, m : int
        Inputs d and hidden units m (even if ``symmetric``).
    tau : float
        Multiplies both layers; the output scales as tau**2.
    scale : float
        The factor alpha(m) before the sum: 1/m or 1/sqrt(m), for example.
    symmetric : bool
        Doubles half of the units with opposite output weights, so that the output is zero.
    activation : nn.Module, optional
        ReLU by default.

    Notes
    -----
    Source: Chizat et al. 2019, Section 3.1. float64 by default: float32 bends Figure 1(c) at
    large tau.
    """
    _check_sizes(n_features=n_features, m=m, tau=tau, scale=scale)
    if symmetric and m % 2:
        raise ValueError(f"m must be even when symmetric=True; got {m}")
    model = TwoLayer(n_features, m, scale=scale, activation=activation).to(dtype)
    model.hidden.weight.normal_(generator=generator).mul_(tau)
    model.output.weight.normal_(generator=generator).mul_(tau)
    if symmetric:
        model.hidden.weight[m // 2 :] = model.hidden.weight[: m // 2]
        model.output.weight[:, m // 2 :] = -model.output.weight[:, : m // 2]
    return model


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
    _one_of("model", name, ("vgg11", "resnet18", "mlp"))
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
