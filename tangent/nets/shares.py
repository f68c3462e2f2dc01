"""Layers whose weight in the tangent kernel is set apart from their initial weights.

``F(x, scale * w)`` computes the same function for any ``scale`` when the initial ``w`` is divided
by it, and its part of the tangent kernel is multiplied by ``scale**2``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Sides = tuple[Tensor, Tensor, Tensor]

_ROWS = 1024  # of a block of a dense branch's kernel


class _Share(nn.Module):
    """What both layers share: a scale of weight and bias that changes no output."""

    weight: nn.Parameter
    bias: nn.Parameter
    scale: float = 1.0

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Multiply this layer's part of the tangent kernel by ``factor**2``."""
        self.weight.div_(factor)
        self.bias.div_(factor)
        self.scale *= factor

    def get_extra_state(self) -> dict[str, float]:
        """The scale, which belongs to the weights."""
        return {"scale": self.scale}

    def set_extra_state(self, state: Any) -> None:
        """Take the scale that a state dict's weights belong to."""
        self.scale = float(state["scale"])


class ShareConv2d(_Share, nn.Conv2d):
    """Convolution with weight and bias ``scale`` times the parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of ``x`` with the scaled weight."""
        return F.conv2d(
            x, self.weight * self.scale, self.bias * self.scale, self.stride, self.padding
        )


class ShareLinear(_Share, nn.Linear):
    """Linear layer with weight and bias ``scale`` times the parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the product of ``x`` with the scaled weight."""
        return F.linear(x, self.weight * self.scale, self.bias * self.scale)


@torch.no_grad()
def conv_features(
    conv: ShareConv2d,
    pool: nn.AvgPool2d,
    head: ShareLinear,
    maps: Float[Tensor, "views n c h w"],
    output: int = 0,
    batch_size: int = 50,
    units: tuple[int, int] | None = None,
) -> tuple[Float[Tensor, "n hidden"], Float[Tensor, "n last"]]:
    """Tangent features of convolution, ReLU, average pooling and linear layer, in closed form.

    With z the patches that the convolution reads and a one, and D the gates times what the pooled
    head hands back to each position, the convolution's features of an image are Z^T D.

    Parameters
    ----------
    conv, pool, head
        The layers; the convolution has stride one.
    maps : Tensor of shape (views, n, c, h, w)
        What the convolution reads; features are averaged over the views.
    output : int
        Output whose gradient is taken.
    batch_size : int
        Maps handled at once; bounds the memory, not the result.
    units : (int, int), optional
        First channel and the one after the last, of the m of which features are wanted: blocks of
        channels, one after the other, are the columns of all.

    Returns
    -------
    hidden : Tensor of shape (n, m (9 c + 1)), for a 3x3 convolution to m channels
        In the order (channel, patch value), the bias last in each channel.
    last : Tensor of shape (n, cells m + 1)
        In the order of the head's weight, its bias last (in the block of the last channel).

    Notes
    -----
    Two products of ``h w * 9 c * m`` multiply-adds a view: a backward pass of one convolution.
    """
    first, stop = units or (0, conv.out_channels)
    weight = (conv.weight[first:stop] * conv.scale).flatten(1)
    bias = conv.bias[first:stop] * conv.scale
    spread, cells = spread_matrix(pool, maps.shape[3:], maps)
    given = (head.weight[output] * head.scale).view(-1, cells)[first:stop]
    handed = given @ spread.T  # (m, positions)
    hidden, last = [], []
    for start in range(0, maps.shape[1], batch_size):
        parts = [
            _one_view(conv, view, weight, bias, handed, spread)
            for view in maps[:, start : start + batch_size]
        ]
        hidden.append(torch.stack([p[0] for p in parts]).mean(0) * conv.scale)
        pooled = torch.stack([p[1] for p in parts]).mean(0)
        if stop == conv.out_channels:
            pooled = torch.cat([pooled, torch.ones_like(pooled[:, :1])], dim=1)
        last.append(pooled * head.scale)
    return torch.cat(hidden), torch.cat(last)


def spread_matrix(pool: nn.AvgPool2d, shape: Any, like: Tensor) -> tuple[Tensor, int]:
    """The pooling as a matrix (positions, cells)."""
    count = shape[0] * shape[1]
    eye = torch.eye(count, dtype=like.dtype, device=like.device).view(count, 1, *shape)
    matrix = pool(eye).flatten(1)
    return matrix, matrix.shape[1]


def _one_view(
    conv: ShareConv2d,
    maps: Float[Tensor, "n c h w"],
    weight: Float[Tensor, "m q"],
    bias: Float[Tensor, " m"],
    handed: Float[Tensor, "m p"],
    spread: Float[Tensor, "p cells"],
) -> tuple[Tensor, Tensor]:
    assert not isinstance(conv.padding, str)
    patches = F.unfold(maps, conv.kernel_size, padding=conv.padding)  # (n, q, positions)
    patches = torch.cat([patches, torch.ones_like(patches[:, :1])], dim=1)
    before = torch.cat([weight, bias[:, None]], dim=1) @ patches
    hidden = (before > 0).to(maps) * handed @ patches.mT
    pooled = (before.clamp_min(0) @ spread).flatten(1)
    return hidden.flatten(1), pooled


@torch.no_grad()
def dense_shares(
    hidden: ShareLinear,
    head: ShareLinear,
    x1: Float[Tensor, "views n p"],
    x2: Float[Tensor, "views m p"] | None = None,
    output: int = 0,
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """Shares of linear layer, ReLU and linear layer in the kernel of one output, in closed form.

    (X X'^T + 1) o (D D'^T) for the first, D the gates times the head's weights, and the inner
    products of the activations plus one for the second.

    Parameters
    ----------
    hidden, head
        The layers.
    x1, x2 : Tensor of shape (views, n, p) and (views, m, p)
        What the first layer reads; outputs are averaged over the views. Without ``x2`` it is
        ``x1``: the shares are then exactly symmetric and cost half.
    output : int
        Output whose gradient is taken.

    Returns
    -------
    first, last : Tensor of shape (n, m)
        In the dtype of the inputs.

    Notes
    -----
    ``views^2 n m (p + 2 units)`` multiply-adds, in blocks of 1,024 rows beside the result.
    """
    left = dense_sides(hidden, head, x1, output)
    right = None if x2 is None else dense_sides(hidden, head, x2, output)
    return shares_of_sides(hidden, head, left, right)


@torch.no_grad()
def dense_sides(
    hidden: ShareLinear, head: ShareLinear, x: Float[Tensor, "views n p"], output: int = 0
) -> Sides:
    """What the kernel needs of inputs: themselves, gates times the head's weights, activations.

    Parameters
    ----------
    hidden, head, x, output
        As `dense_shares` takes them.

    Returns
    -------
    x, gates, activations : Tensor of shape (views, n, p), then (views, n, units) twice
    """
    before = hidden(x)
    given = head.weight[output] * head.scale
    return x, (before > 0).to(x) * given, before.clamp_min(0)


@torch.no_grad()
def shares_of_sides(
    hidden: ShareLinear, head: ShareLinear, left: Sides, right: Sides | None = None
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """`dense_shares` of inputs whose `dense_sides` are there."""
    symmetric = right is None
    right = left if right is None else right
    x1 = left[0]
    n, m = x1.shape[1], right[0].shape[1]
    first, last = x1.new_zeros(n, m), x1.new_zeros(n, m)
    for start in range(0, n, _ROWS):
        some = slice(start, start + _ROWS)
        rest = slice(start if symmetric else 0, m)
        # Columns of all views, side by side.
        rows, gates, active = (side[:, rest].flatten(0, 1).T for side in right)
        for view in range(len(x1)):
            product = (left[0][view, some] @ rows).add_(1).mul_(left[1][view, some] @ gates)
            _add_views(first[some, rest], product)
            _add_views(last[some, rest], left[2][view, some] @ active)
        if symmetric:
            for share in (first, last):
                corner = share[some, some]
                share[some, some] = (corner + corner.T) / 2
                share[start + _ROWS :, some] = share[some, start + _ROWS :].T
    each = len(x1) * len(right[0])
    return first.mul_(hidden.scale**2 / each), last.div_(each).add_(1).mul_(head.scale**2)


def _add_views(total: Tensor, product: Tensor) -> None:
    """Add blocks of columns that lie side by side."""
    for block in product.split(total.shape[1], dim=1):
        total += block
