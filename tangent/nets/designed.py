"""A linearized CNN that can compete: a frozen first layer made from unlabelled images.

Chizat et al. 2019, Section 3.3, leave open whether other architectures make linearized CNNs
competitive. What this one changes: its first layer are whitened random patches, frozen; its
channels are whitened before the layer that is linearized; its output is the mean over an image
and its mirror image; and the shares of its layers in the tangent kernel are set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tangent.machine.patches import patch_filters
from tangent.nets.frozen import Patches, WhitenedPatches
from tangent.nets.layers import check_sizes, own_draws
from tangent.nets.shares import ShareConv2d, ShareLinear, conv_features, dense_shares

_MEASURED = 256  # images that channels are whitened on, and shares are measured on
_CONTRAST = 0.16  # of the pixels' deviation: 10/255 for CIFAR-10


class DenseBranch(nn.Module):
    """A linearized two-layer ReLU network on frozen features of images.

    Parameters
    ----------
    features : nn.Module
        From images to vectors; without parameters.
    p, num_classes, units : int
        Sizes of a vector, the output and the hidden layer.
    generator : torch.Generator, optional
    """

    def __init__(
        self,
        features: nn.Module,
        p: int,
        num_classes: int,
        units: int = 2048,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.features = features
        self.hidden = ShareLinear(p, units)
        self.relu = nn.ReLU()
        self.head = ShareLinear(units, num_classes)
        _he(self.hidden, generator)
        _he(self.head, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch's outputs."""
        return self.head(self.relu(self.hidden(self.features(x))))


class DesignedCNN(nn.Module):
    """A frozen part and a linearized part; made by `designed_cnn`.

    Attributes
    ----------
    frozen : nn.Module
        From images to maps, without parameters.
    linearized : nn.Sequential
        3x3 convolution, ReLU, average pooling, flattening, linear layer.
    branches : nn.ModuleList
        Of `DenseBranch`, whose outputs are added.
    mirror : bool
        Whether the output is the mean over an image and its mirror image.
    """

    def __init__(
        self,
        frozen: nn.Module,
        linearized: nn.Sequential,
        branches: Sequence[nn.Module] = (),
        mirror: bool = True,
    ):
        super().__init__()
        self.frozen = frozen
        self.linearized = linearized
        self.branches = nn.ModuleList(branches)
        self.mirror = mirror

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs."""
        out = self._once(x)
        return (out + self._once(x.flip(3))) * 0.5 if self.mirror else out

    def _once(self, x: Tensor) -> Tensor:
        out = self.linearized(self.frozen(x))
        for branch in self.branches:
            out = out + branch(x)
        return out

    @torch.no_grad()
    def views(self, x: Float[Tensor, "n c h w"], frozen: nn.Module) -> Tensor:
        """A frozen module's values of the images and of their mirror images, (views, n, ...)."""
        values = [torch.cat([frozen(part) for part in x.split(64)])]
        if self.mirror:
            values.append(torch.cat([frozen(part.flip(3)) for part in x.split(64)]))
        return torch.stack(values)

    def layers(self) -> tuple[ShareConv2d, nn.AvgPool2d, ShareLinear]:
        """Convolution, pooling and linear layer of the linearized part."""
        conv, _, pool, _, head = self.linearized
        return conv, pool, head  # type: ignore[return-value]

    def features(
        self, maps: Float[Tensor, "views n c h w"], output: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Tangent features of the linearized part: of its convolution and of its linear layer."""
        return conv_features(*self.layers(), maps, output)


@own_draws
def designed_cnn(
    images: Float[Tensor, "n c h w"],
    num_classes: int = 10,
    *,
    filters: int = 512,
    channels: int | None = None,
    width: int = 64,
    shares: tuple[float, float] = (1.0, 0.25),
    branches: Sequence[nn.Module] = (),
    branch_share: float = 0.3,
    units: int = 2048,
    mirror: bool = True,
    patch_size: int = 6,
    contrast: float | None = None,
    eps: float = 0.0,
    generator: torch.Generator | None = None,
) -> DesignedCNN:
    """The network for linearizing, built and whitened from unlabelled images.

    Frozen: contrast-normalized patches meet whitened random patches of the images, a two-sided
    ReLU, average pooling 3 with stride 2, and a 1x1 convolution that whitens the channels.
    Linearized: 3x3 convolution, ReLU, average pooling 7 with stride 3, linear layer; He normal
    weights, zero biases.

    Parameters
    ----------
    images : Tensor of shape (n, c, h, w)
        Square, at least 20 pixels a side; never their labels.
    num_classes : int
    filters : int
        Patches; twice as many channels.
    channels : int, optional
        Whitened channels; 64, and 96 from 4,000 images on, by default.
    width : int
        Channels of the linearized convolution.
    shares : (float, float)
        Mean centred squared norm of the tangent features of convolution and linear layer, over
        256 of the images and the mean over the outputs. What the network computes does not change.
    branches : sequence of nn.Module
        Frozen features, from images to vectors without parameters: each gets a two-layer branch
        (`PooledPatches` is one such).
    branch_share : float
        As ``shares``, of each branch as a whole.
    units : int
        Hidden units of a branch.
    mirror : bool
        Mean over an image and its mirror image, mirrored before the first layer.
    patch_size : int
    contrast : float, optional
        Standard deviation within a patch that counts as noise; 0.16 of the images' deviation.
    eps : float
        Of `WhitenedPatches`.
    generator : torch.Generator, optional
        A CPU generator: draws patches first, weights second.

    Returns
    -------
    DesignedCNN
        In the dtype of the images; its parameters are those of the linearized part.

    Raises
    ------
    ValueError
        If a size is not positive or the images are too small.

    Notes
    -----
    37,505 parameters for one output, 64 channels and width 64. An image costs
    ``2 * 729 * 109 * filters`` operations for the patches and 25 million for the rest, twice with
    mirror images.
    """
    check_sizes(num_classes=num_classes, filters=filters, width=width, units=units)
    if images.ndim != 4 or images.shape[2] != images.shape[3] or images.shape[2] < patch_size + 14:
        raise ValueError(
            f"images must be square, of shape (n, c, side, side) with a side of at least "
            f"{patch_size + 14}; got {tuple(images.shape)}; resize them"
        )
    if channels is None:
        channels = 64 if len(images) < 4000 else 96
    channels = min(channels, 2 * filters)
    noise = _CONTRAST * float(images.std()) if contrast is None else contrast
    size = (patch_size, patch_size)
    found = patch_filters(images, filters, size=size, contrast=noise, generator=generator)
    some = images[:_MEASURED]
    frozen = WhitenedPatches(Patches(found, (3, 2)), some, channels, eps=eps, mirror=mirror)
    side = frozen(images[:1]).shape[3]
    cells = (side - 7) // 3 + 1
    conv = ShareConv2d(channels, width, 3, padding=1)
    head = ShareLinear(width * cells**2, num_classes)
    _he(conv, generator)
    _he(head, generator)
    linearized = nn.Sequential(conv, nn.ReLU(), nn.AvgPool2d(7, 3), nn.Flatten(), head)
    made = [DenseBranch(b, b(images[:1]).shape[1], num_classes, units, generator) for b in branches]
    model = DesignedCNN(frozen, linearized, made, mirror).to(images)
    _set_shares(model, some, shares, branch_share)
    return model


def with_images(model: Any, images: Tensor) -> Any:
    """The factory of `designed_cnn` for these images in place of its name; else ``model``."""
    if not (isinstance(model, str) and model == "designed_cnn"):
        return model
    if images.ndim != 4:
        raise ValueError(
            "model='designed_cnn' takes images; got rows of numbers: set image_shape, or take "
            "model='auto'"
        )

    def factory(shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> nn.Module:
        return designed_cnn(images, num_classes, generator=generator)

    return factory


def _he(layer: nn.Conv2d | nn.Linear, generator: torch.Generator | None) -> None:
    with torch.no_grad():
        fan = math.prod(layer.weight.shape[1:])
        layer.weight.normal_(0, math.sqrt(2 / fan), generator=generator)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def _set_shares(
    model: DesignedCNN, images: Tensor, shares: tuple[float, float], branch_share: float
) -> None:
    """Scale every layer so that its share of the centred kernel has the trace asked for."""
    conv, _, head = model.layers()
    outputs = range(head.out_features)
    maps = model.views(images, model.frozen)
    traces = torch.tensor(
        [[_centred(f @ f.T) for f in model.features(maps, a)] for a in outputs]
    ).mean(0)
    for layer, share, trace in zip((conv, head), shares, traces.tolist(), strict=True):
        layer.rescale(math.sqrt(share / trace))
    for branch in model.branches:
        assert isinstance(branch, DenseBranch)
        rows = model.views(images, branch.features)
        trace = 0.0
        for a in outputs:
            first, last = dense_shares(branch.hidden, branch.head, rows, output=a)
            trace += _centred(first + last) / len(outputs)
        for layer in (branch.hidden, branch.head):
            layer.rescale(math.sqrt(branch_share / trace))


def _centred(kernel: Float[Tensor, "n n"]) -> float:
    """Mean diagonal of the kernel of features less their mean."""
    return float(kernel.diagonal().mean() - kernel.mean())
