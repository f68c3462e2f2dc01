"""VGG-11 and ResNet-18 as in the paper's experiments, without batch normalization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from tangent.nets.layers import (
    Parametrization,
    check_sizes,
    constructors,
    initialized,
    one_of,
    own_draws,
)
from tangent.nets.layers import channels as scaled_channels

Pooling = Literal["max", "average"]
Head = Literal["flatten", "global-average"]

_VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


class _ResidualBlock(nn.Module):
    """Two biased 3x3 convolutions and a biased 1x1 shortcut where the shape changes."""

    def __init__(self, conv: Callable[..., nn.Conv2d], c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = conv(c_in, c_out, 3, stride=stride, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = conv(c_out, c_out, 3, padding=1)
        same = stride == 1 and c_in == c_out
        self.stride = stride
        self.shortcut = nn.Identity() if same else conv(c_in, c_out, 1)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        # Subsampled first, which is the same: see tangent.operations.pointwise for why.
        read = x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        return self.relu2(self.conv2(self.relu1(self.conv1(x))) + self.shortcut(read))


@own_draws
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
    check_sizes(num_classes=num_classes, in_channels=in_channels, width=width, gain=gain)
    one_of("pooling", pooling, ("max", "average"))
    one_of("head", head, ("flatten", "global-average"))
    if image_size < 32:
        raise ValueError(
            f"image_size must be at least 32 for vgg11, which halves it five times; got "
            f"{image_size}; resize the images or take an mlp"
        )
    conv, linear = constructors(parametrization, gain)
    pool = nn.MaxPool2d if pooling == "max" else nn.AvgPool2d
    layers: list[nn.Module] = []
    channels, size = in_channels, image_size
    for item in _VGG11:
        if isinstance(item, int):
            out = scaled_channels(width, item)
            layers += [conv(channels, out, 3, padding=1), nn.ReLU()]
            channels = out
        elif head == "flatten" or size > image_size // 4:
            layers.append(pool(2))
            size //= 2
    if head == "global-average":
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(channels, num_classes)]
    else:
        layers += [nn.Flatten(), linear(channels * size * size, num_classes)]
    return initialized(layers, gain, parametrization, generator)


@own_draws
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
    check_sizes(num_classes=num_classes, in_channels=in_channels, width=width, gain=gain)
    if image_size < 32:
        raise ValueError(f"image_size must be at least 32 for resnet18; got {image_size}")
    conv, linear = constructors(parametrization, gain)
    channels = scaled_channels(width, 64)
    layers: list[nn.Module] = [conv(in_channels, channels, 3, padding=1), nn.ReLU()]
    for stage, base in enumerate((64, 128, 256, 512)):
        out = scaled_channels(width, base)
        layers.append(_ResidualBlock(conv, channels, out, stride=1 if stage == 0 else 2))
        layers.append(_ResidualBlock(conv, out, out, stride=1))
        channels = out
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(channels, num_classes)]
    return initialized(layers, gain, parametrization, generator)
