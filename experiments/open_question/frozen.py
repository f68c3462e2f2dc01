"""The frozen representations that the rows of the open question share, made once a draw of images.

Everything is fitted on the training images of the draw, without their labels. ``views`` are an
image and its mirror image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tangent.machine.patches import PatchFilters, patch_filters
from tangent.nets.frozen import WhitenedPatches
from tangent.nets.patches import pooled_responses

_CONTRAST = 10 / 255
_BIAS = 0.5
_BATCH = 50
_MEASURED = 256


class Clock:
    """CPU seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """Do the work and add what it took."""
        start = time.process_time()
        result = work()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start
        return result


@dataclass(frozen=True)
class Views:
    """Representations of some images, with the views first."""

    maps: Float[Tensor, "views n d side side"]
    """Whitened channels."""
    pooled: Float[Tensor, "views n p"] | None = None
    """Patch responses averaged over a 3x3 grid, as they come."""
    scattering: Float[Tensor, "views n q"] | None = None
    """Scattering coefficients in logarithms, standardized on the training images."""


@dataclass
class Frozen:
    """The frozen layers of one draw of training images; made by `frozen`."""

    filters: PatchFilters
    whitening: WhitenedPatches
    pooling: tuple[int, int]
    mirror: bool
    scattering: Any
    clock: Clock = field(default_factory=Clock)

    @torch.no_grad()
    def views(self, images: Float[Tensor, "n c h w"]) -> Views:
        """The representations of images."""
        both = [images, images.flip(3)] if self.mirror else [images]
        parts = [self.clock("patches", lambda x=x: self._patches(x)) for x in both]
        coefficients = None
        if self.scattering is not None:
            coefficients = torch.stack(
                [self.clock("scattering", lambda x=x: self._scattering(x)) for x in both]
            )
        return Views(
            torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts]), coefficients
        )

    def _patches(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps, pooled = [], []
        side = (images.shape[2] - self.filters.size[0] + 1) // 3
        for x in images.split(_BATCH):
            fine, coarse = _responses(x, self.filters, (self.pooling, (side, side)))
            w = self.whitening
            maps.append(torch.nn.functional.conv2d(fine, w.weight, w.bias))
            pooled.append(coarse.flatten(1))
        return torch.cat(maps), torch.cat(pooled)

    def _scattering(self, images: Tensor) -> Tensor:
        rows = np.ascontiguousarray(images.flatten(1).numpy())
        return torch.from_numpy(self.scattering.transform(rows))


def _responses(x: Tensor, filters: PatchFilters, poolings: tuple) -> list[Tensor]:
    return pooled_responses(x, filters.weight, filters.size, filters.offset, _BIAS, poolings)


class _Responses(torch.nn.Module):
    """Averaged responses, for whitening to measure."""

    def __init__(self, filters: PatchFilters, pooling: tuple[int, int]):
        super().__init__()
        self.filters, self.pooling = filters, pooling

    def forward(self, x: Tensor) -> Tensor:
        return _responses(x, self.filters, (self.pooling,))[0]


def frozen(
    images: Float[Tensor, "n c h w"],
    *,
    first_layer: str = "patches",
    filters: int,
    channels: int,
    pooling: tuple[int, int] = (3, 2),
    whiten: bool = True,
    mirror: bool = True,
    scattering: bool = True,
    seed: int = 0,
) -> Frozen:
    """Fit the frozen layers on training images.

    Parameters
    ----------
    images : Tensor of shape (n, c, h, w)
    first_layer : {"patches", "random"}
        Whitened patches of the images, or Gaussian filters on pixels as they are: no image is
        looked at.
    filters : int
    channels : int
        Kept by whitening, the first principal components.
    pooling : (int, int)
        Side and stride of the average pooling behind the first layer.
    whiten : bool
        Without, channels are rotated to their principal components and share one scale.
    mirror : bool
    scattering : bool
        Whether scattering (J = 2) is made too.
    seed : int
    """
    clock = Clock()
    generator = torch.Generator().manual_seed(seed)
    if first_layer == "patches":
        made = clock(
            "patches",
            lambda: patch_filters(images, filters, contrast=_CONTRAST, generator=generator),
        )
    else:
        made = _random_filters(images, filters, generator)
    some = images[:_MEASURED]
    module = _Responses(made, pooling)
    # eps so large that every component is divided by the same number.
    whitening = clock(
        "whitening",
        lambda: WhitenedPatches(
            module, some, min(channels, 2 * filters), eps=0.0 if whiten else 1e6, mirror=mirror
        ),
    )
    if not whiten:
        _to_unit_scale(whitening, some)
    transform = None
    if scattering:
        from baselines import ScatteringFeatures

        transform = ScatteringFeatures(2, image_shape=tuple(images.shape[1:]))
        rows = np.ascontiguousarray(images.flatten(1).numpy())
        clock("scattering", lambda: transform.fit(rows))
    return Frozen(made, whitening, pooling, mirror, transform, clock)


def frozen_for(
    run: dict[str, Any], images: Float[Tensor, "n c h w"], *, scattering: bool, **options: Any
) -> Frozen:
    """The frozen layers that a run asks for, and other ``options`` of `frozen`."""
    asked = {name: run[name] for name in ("filters", "channels", "mirror", "seed")}
    return frozen(images, scattering=scattering, **(asked | options))


def _random_filters(images: Tensor, count: int, generator: torch.Generator) -> PatchFilters:
    """Gaussian filters, of responses of the size that whitened patches give.

    An offset beyond any patch's norm turns contrast normalization off.
    """
    offset = 1e8
    values = images.shape[1] * 6 * 6
    weight = torch.randn(values, count, generator=generator)
    weight = (weight - weight.mean(0)) * (offset / values) ** 0.5 / float(images.std())
    return PatchFilters(torch.cat([weight, torch.zeros(1, count)]), (6, 6), offset)


@torch.no_grad()
def _to_unit_scale(whitening: WhitenedPatches, images: Tensor) -> None:
    maps = whitening(images[:_BATCH])
    scale = maps.square().mean().sqrt()
    whitening.weight.div_(scale)
    whitening.bias.div_(scale)
