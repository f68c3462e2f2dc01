"""Patches of a layer's inputs: the rows that its weight multiplies, and their inner products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tangent.machine.products import product

__all__ = ["Patches"]


@dataclass(frozen=True)
class Patches:
    """Inputs of a layer and how it looks at them; n inputs, P positions, K entries a patch.

    ``kind`` is ``"tokens"`` (``x`` has shape (n, P, K)), ``"window"`` (``x`` has shape
    (n, c, h, w), unfolded by the geometry of a convolution) or ``"index"`` (``x`` has shape
    (n, P): rows of an embedding, one-hot patches; negative where there is no gradient).
    """

    kind: str
    x: Tensor
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    entries: int = 0  # K of an embedding

    def __len__(self) -> int:
        return len(self.x)

    def with_inputs(self, x: Tensor) -> Patches:
        """Return the same geometry over other inputs."""
        return replace(self, x=x)

    @property
    def positions(self) -> int:
        """P."""
        if self.kind != "window":
            return self.x.shape[1]
        h, w = self.grid
        return h * w

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of output positions of a convolution."""
        sizes = zip(
            self.x.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
        )
        h, w = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        return h, w

    @property
    def size(self) -> int:
        """K."""
        if self.kind == "tokens":
            return self.x.shape[2]
        if self.kind == "index":
            return self.entries
        return self.x.shape[1] * self.kernel[0] * self.kernel[1]

    @property
    def shifts(self) -> bool:
        """Whether the rows of a window can be summed over after the inner products.

        They can where the output has the input's rows: then the product of two patches is a sum
        over vertical shifts of the products of one-row patches, which have K / kernel rows.
        """
        if self.kind != "window" or self.kernel[0] == 1 or self.kernel[0] % 2 == 0:
            return False
        same = 2 * self.padding[0] == self.dilation[0] * (self.kernel[0] - 1)
        return same and self.stride[0] == 1

    def columns(self, start: int = 0, stop: int | None = None) -> Float[Tensor, "n k p"]:
        """Patches as columns, of the input channels (or entries) from ``start`` to ``stop``."""
        if self.kind == "tokens":
            return self.x[:, :, start:stop].transpose(1, 2)
        if self.kind == "index":
            entries = torch.arange(self.entries, device=self.x.device)[start:stop]
            return (self.x.unsqueeze(1) == entries[:, None]).to(torch.float32)
        x = self.x[:, start:stop]
        if self.kernel == (1, 1) and self.padding == (0, 0):
            return x[:, :, :: self.stride[0], :: self.stride[1]].flatten(2)
        return F.unfold(x, self.kernel, self.dilation, self.padding, self.stride)

    def slices(self, entries: int) -> Iterator[tuple[int, int]]:
        """Ranges of input channels whose patches have about ``entries`` entries each."""
        window = self.kernel[0] * self.kernel[1] if self.kind == "window" else 1
        channels = self.size // window
        step = max(1, entries // window)
        step = -(-channels // -(-channels // step))  # ranges of one size
        for start in range(0, channels, step):
            yield start, min(channels, start + step)

    def operand(self, shifted: bool) -> Tensor:
        """What `gram` multiplies: rows (n, P, K), or one-row patches where ``shifted``."""
        if self.kind == "index":
            return self.x
        if self.kind == "tokens":
            return self.x
        if not shifted:
            return self.columns().transpose(1, 2).contiguous()
        one_row = replace(
            self,
            kernel=(1, self.kernel[1]),
            padding=(0, self.padding[1]),
            dilation=(1, self.dilation[1]),
        )
        return one_row.columns().transpose(1, 2).contiguous()

    def gram(self, left: Tensor, right: Tensor, shifted: bool) -> Float[Tensor, "j q i p"]:
        """Inner products of the patches of ``right`` with those of ``left`` (both operands)."""
        i, p = left.shape[:2]
        j, q = right.shape[:2]
        if self.kind == "index":
            equal = right.reshape(j, q, 1, 1) == left
            return (equal & (left >= 0)).to(torch.float32)
        products = product(right.reshape(j * q, -1), left.reshape(i * p, -1))
        if not shifted:
            return products.view(j, q, i, p)
        h, w = self.grid
        terms = products.view(j, h, w, i, h, w)
        total = terms.clone()
        for offset in range(1, self.kernel[0] // 2 + 1):
            step = offset * self.dilation[0]
            if step >= h:
                break
            total[:, step:, :, :, step:] += terms[:, :-step, :, :, :-step]
            total[:, :-step, :, :, :-step] += terms[:, step:, :, :, step:]
        return total.view(j, q, i, p)
