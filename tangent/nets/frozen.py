"""Frozen layers of `tangent.nets.designed_cnn`, measured on unlabelled images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tangent.machine.patches import PatchFilters
from tangent.nets.patches import patch_maps

_BIAS = 0.5  # threshold of the two-sided ReLU, for filters of norm one on whitened patches


class Patches(nn.Module):
    """Frozen: two-sided rectified responses to whitened patches, averaged over windows.

    Parameters
    ----------
    filters : PatchFilters
    pooling : (int, int)
        Side of the windows and stride.
    """

    filters: Tensor

    def __init__(self, filters: PatchFilters, pooling: tuple[int, int]):
        super().__init__()
        self.register_buffer("filters", filters.weight)
        self.size, self.offset, self.pooling = filters.size, filters.offset, pooling

    def forward(self, x: Tensor) -> Tensor:
        """Return the averaged responses."""
        return patch_maps(x, self.filters, self.size, self.offset, _BIAS, self.pooling)


class WhitenedPatches(nn.Module):
    """Frozen: patch responses, then a 1x1 convolution that whitens their channels.

    Parameters
    ----------
    patches : module
        From images to maps of many channels.
    images : Tensor of shape (n, c, h, w)
        Unlabelled images to measure the channels' means and covariance on.
    channels : int
        The first principal components that are kept.
    eps : float
        Added to the components' variances, relative to the variances' mean, before whitening
        divides by their roots.
    mirror : bool
        Measure on mirror images too.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        patches: nn.Module,
        images: Float[Tensor, "n c h w"],
        channels: int,
        *,
        eps: float = 0.0,
        mirror: bool = True,
    ):
        super().__init__()
        self.patches = patches
        weight, bias = _whitening(patches, images, channels, eps, mirror)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the whitened channels."""
        return F.conv2d(self.patches(x), self.weight, self.bias)


@torch.no_grad()
def _whitening(
    patches: nn.Module, images: Tensor, channels: int, eps: float, mirror: bool
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the 1x1 convolution that standardizes, rotates and whitens channels."""
    total = squares = torch.zeros((), dtype=torch.float64)
    count = 0
    for part in images.split(16):
        for some in (part, part.flip(3)) if mirror else (part,):
            rows = patches(some).permute(0, 2, 3, 1).flatten(0, 2)
            total = total + rows.double().sum(0)
            squares = squares + (rows.T @ rows).double()
            count += len(rows)
    mean = total / count
    covariance = squares / count - mean[:, None] * mean
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    deviation = torch.where(deviation > 1e-6 * (1 + mean.abs()), deviation, 1.0)
    variances, vectors = torch.linalg.eigh(covariance / deviation / deviation[:, None])
    kept = variances.flip(0)[:channels].clamp_min(0)
    floor = max(eps * float(variances.mean()), 1e-9 * float(variances[-1]))
    rotation = vectors.flip(1)[:, :channels] / (kept + floor).sqrt() / deviation[:, None]
    bias = -mean @ rotation
    return rotation.T[:, :, None, None].to(images).contiguous(), bias.to(images)


class PooledPatches(nn.Module):
    """Frozen: patch responses averaged over a 3x3 grid, flattened and standardized."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, filters: PatchFilters, images: Float[Tensor, "n c h w"]):
        super().__init__()
        side = (images.shape[2] - filters.size[0] + 1) // 3
        self.patches = Patches(filters, (side, side))
        with torch.no_grad():
            rows = torch.cat([self.patches(part).flatten(1) for part in images.split(64)]).double()
        deviation = rows.std(0)
        deviation = torch.where(deviation > 1e-6 * (1 + rows.mean(0).abs()), deviation, 1.0)
        self.register_buffer("mean", rows.mean(0).to(images))
        self.register_buffer("deviation", deviation.to(images))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return (self.patches(x).flatten(1) - self.mean) / self.deviation
