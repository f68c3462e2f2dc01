"""Filters made of the patches of images, normalized in contrast and ZCA-whitened.

The recipe of Coates and Ng (2011, 2012) with filters that are random training patches, the random
features of Recht et al. (2018). Nothing here looks at a label.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_TINY = 1e-12


@dataclass(frozen=True)
class PatchFilters:
    """What responses to patches are computed with; CPU tensors.

    Attributes
    ----------
    weight : Tensor of shape (patch values + 1, filters)
        Whitening and the removal of means folded in; the last row meets a column of ones.
    size : (int, int)
        Height and width of a patch.
    offset : float
        Added to a patch's squared norm before its root divides the patch.
    """

    weight: Tensor
    size: tuple[int, int]
    offset: float


def patch_windows(
    images: Float[Tensor, "n channels height width"], size: tuple[int, int]
) -> Float[Tensor, "n rows columns high wide channels"]:
    """Every patch of every image, as a view."""
    windows = images.permute(0, 2, 3, 1).unfold(1, size[0], 1).unfold(2, size[1], 1)
    return windows.permute(0, 1, 2, 4, 5, 3)


def inverse_contrast(
    images: Float[Tensor, "n channels height width"], size: tuple[int, int], offset: float
) -> Float[Tensor, "positions 1"]:
    """One over the root of a patch's squared norm less its mean plus ``offset``, for every patch.

    From averages over windows of the image, a hundredth of the work of summing each patch;
    rounding is far below ``offset``.
    """
    values = images.shape[1] * size[0] * size[1]
    moments = torch.stack([images.mean(1), images.square().mean(1)], dim=1)
    mean, square = F.avg_pool2d(moments, size, stride=1).unbind(1)
    contrast = (square - mean.square()).clamp_min(0) * values + offset
    return contrast.rsqrt().reshape(-1, 1)


def whitening(
    patches: Float[Tensor, "n values"], eps: float
) -> tuple[Float[Tensor, "values values"], Float[Tensor, " values"]]:
    """The ZCA matrix W (Lambda + eps)^(-1/2) W^T of the patches, and their mean, in float64."""
    rows = patches.double()
    mean = rows.mean(0)
    centred = rows - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    return (vectors / (variances.clamp_min(0) + eps).sqrt()) @ vectors.T, mean


def patch_filters(
    images: Float[Tensor, "n channels height width"],
    count: int,
    *,
    size: tuple[int, int] = (6, 6),
    contrast: float,
    eps: float = 1e-3,
    sample: int = 100_000,
    generator: torch.Generator | None = None,
) -> PatchFilters:
    """Filters drawn from the patches of images, whitened and of norm one.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)
    count : int
        Filters.
    size : (int, int)
        Height and width of a patch.
    contrast : float
        Standard deviation of a patch's values below which contrast counts as noise.
    eps : float
        Added to the variances of normalized patches before whitening divides by their roots.
    sample : int
        Patches that whitening is measured on.
    generator : torch.Generator, optional
        A CPU generator.

    Returns
    -------
    PatchFilters
        For a normalized patch q and a filter f the response is <f, zca (q - mean)>.
    """
    offset = contrast**2 * (images.shape[1] * size[0] * size[1])
    images = images.cpu()
    zca, mean = whitening(_normalized(images, size, offset, sample, generator), eps)
    filters = (_normalized(images, size, offset, count, generator).double() - mean) @ zca
    folded = filters / filters.norm(dim=1, keepdim=True).clamp_min(_TINY) @ zca
    constant = -folded @ mean
    # The filter meets raw patches over their contrast, so it loses its own mean here.
    folded = folded - folded.mean(1, keepdim=True)
    weight = torch.cat([folded, constant[:, None]], dim=1).T
    return PatchFilters(weight.to(images.dtype).contiguous(), size, offset)


def _normalized(
    images: Float[Tensor, "n channels height width"],
    size: tuple[int, int],
    offset: float,
    count: int,
    generator: torch.Generator | None,
) -> Float[Tensor, "count values"]:
    """Patches less their means, over their contrasts, with replacement.

    Images and positions are drawn uniformly.
    """
    n, _, height, width = images.shape
    image = torch.randint(n, (count,), generator=generator)
    top = torch.randint(height - size[0] + 1, (count,), generator=generator)
    left = torch.randint(width - size[1] + 1, (count,), generator=generator)
    patches = patch_windows(images, size)[image, top, left].reshape(count, -1)
    centred = patches - patches.mean(-1, keepdim=True)
    return centred / (centred.square().sum(-1, keepdim=True) + offset).sqrt()
