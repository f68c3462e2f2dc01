"""Inputs that stay on the device and are normalized, and augmented, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int, Shaped
from torch import Tensor


def crop_and_flip(
    x: Shaped[Tensor, "n c h w"], *, pad: int = 4, generator: torch.Generator | None = None
) -> Shaped[Tensor, "n c h w"]:
    """Each image cropped at random from itself with a black border, and mirrored every other time.

    Parameters
    ----------
    x : Tensor of shape (n, c, h, w)
        Any dtype, before normalization: the border is zero.
    pad : int
        Width of the border, in pixels (4 as usual for CIFAR-10).
    generator : torch.Generator, optional
        A CPU generator.

    Returns
    -------
    Tensor of shape (n, c, h, w)
        On the device of ``x``; the same seed gives the same crops on every device.
    """
    n, _, height, width = x.shape
    top, left = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator)
    mirrored = torch.randint(0, 2, (n, 1), generator=generator, dtype=torch.bool)
    columns = torch.arange(width)
    columns = torch.where(mirrored, width - 1 - columns, columns) + left
    rows = top + torch.arange(height)
    rows, columns = rows.to(x.device), columns.to(x.device)
    padded = F.pad(x, (pad, pad, pad, pad)).movedim(1, -1)
    each = torch.arange(n, device=x.device)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()


@dataclass(frozen=True)
class Inputs:
    """Inputs as stored (uint8 or floating), and how a batch of them is made.

    ``mean`` and ``scale`` are broadcast over a batch, ``(x - mean) / scale``; ``dtype`` is that of
    the batches: tokens, which are integers there, are taken as they are. Everything sits on one
    device.
    """

    x: Shaped[Tensor, "n ..."]
    mean: Shaped[Tensor, "*_"]
    scale: Shaped[Tensor, "*_"]
    dtype: torch.dtype

    @classmethod
    def plain(cls, x: Shaped[Tensor, "n ..."]) -> Inputs:
        """Inputs that are taken as they are."""
        return cls(x, x.new_zeros(()), x.new_ones(()), x.dtype)

    def __len__(self) -> int:
        return len(self.x)

    def batch(
        self,
        index: Int[Tensor, " b"] | slice,
        *,
        augment: bool = False,
        generator: torch.Generator | None = None,
    ) -> Shaped[Tensor, "b ..."]:
        """Return the inputs at ``index``, augmented if asked, then normalized."""
        x = self.x[index]
        if augment:
            x = crop_and_flip(x, generator=generator)
        if not self.dtype.is_floating_point:
            return x.to(self.dtype)
        return ((x.to(self.mean.dtype) - self.mean) / self.scale).to(self.dtype)

    def in_order(self, batch_size: int) -> Iterator[Shaped[Tensor, "b ..."]]:
        """Yield all inputs in their order, ``batch_size`` at a time."""
        for start in range(0, len(self), batch_size):
            yield self.batch(slice(start, start + batch_size))
