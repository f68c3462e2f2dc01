"""The designed network infinitely wide: shares of its layers as expectations over its weights.

Arc-cosine kernels (Cho and Saul 2009) of degrees 0 and 1 between the patches that the convolution
reads at two positions, summed over pairs of positions that are pooled into one cell.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tangent.nets.shares import spread_matrix

_PAIRS = 8  # of images at once: a megabyte of numbers, which stays in the cache


@torch.no_grad()
def infinite_conv_shares(
    pool: nn.AvgPool2d,
    x1: Float[Tensor, "views n c h w"],
    x2: Float[Tensor, "views m c h w"] | None = None,
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """Shares of a 3x3 convolution to infinitely many channels and of the linear layer behind it.

    Convolution (stride one, zero padding one), ReLU, average pooling and a linear layer of one
    output; He normal weights, zero biases that take part in the kernel. With patches z and z' at
    angle theta and G how much two positions are pooled together,

    - convolution: ``2 / cells * sum_pq G (z_p . z'_q + 1) (pi - theta) / (2 pi)``;
    - linear layer, for each channel: ``sum_pq G |z_p| |z'_q| (sin theta + (pi - theta) cos theta)
      / (2 pi) * 2 / fan``. The share of m channels is m times that, and one for the bias.

    Parameters
    ----------
    pool : nn.AvgPool2d
    x1, x2 : Tensor of shape (views, n, c, h, w) and (views, m, c, h, w)
        What the convolution reads; the kernels of all pairs of views are averaged. Without ``x2``
        it is ``x1``: the shares are then exactly symmetric and cost half.

    Returns
    -------
    hidden, last : Tensor of shape (n, m)
        In the dtype of the inputs. In float32 the angle of a patch with itself is wrong by
        3e-4 rad, and so are at most one in ``h w`` terms of a sum.

    Notes
    -----
    ``views^2 n m (h w)^2 c`` multiply-adds, six passes over ``(h w)^2`` numbers for each pair of
    images and views and some fifteen over those that are pooled together (46 in 100 of 13 x 13
    positions with windows of 7, stride 3).
    """
    symmetric = x2 is None
    right = x1 if x2 is None else x2
    spread, cells = spread_matrix(pool, x1.shape[3:], x1)
    together = _Together((spread @ spread.T).flatten())
    n, m = x1.shape[1], right.shape[1]
    hidden, last = x1.new_zeros(n, m), x1.new_zeros(n, m)
    norms = [_patch_norms(x1), _patch_norms(right)]
    for i in range(n):
        for start in range(i if symmetric else 0, m, _PAIRS):
            block = slice(start, min(start + _PAIRS, m))
            for view in range(len(x1)):
                for other in range(len(right)):
                    first, second = _pairs(
                        x1[view, i], right[other, block],
                        norms[0][view, i], norms[1][other, block], together,
                    )  # fmt: skip
                    hidden[i, block] += first
                    last[i, block] += second
        if symmetric:
            for share in (hidden, last):
                share[i + 1 :, i] = share[i, i + 1 :]
    each = len(x1) * len(right)
    fan = 9 * x1.shape[2]
    return hidden.mul_(2 / cells / each), last.mul_(2 / fan / each)


class _Together:
    """The pairs of positions that some cell pools, and how much."""

    def __init__(self, shares: Float[Tensor, " pq"]):
        self.places = shares.nonzero()[:, 0]
        self.shares = shares[self.places]
        side = math.isqrt(len(shares))
        self.first, self.second = self.places // side, self.places % side


def _patch_norms(x: Float[Tensor, "views n c h w"]) -> Float[Tensor, "views n p"]:
    """Norms of the 3x3 patches, zeros around."""
    squares = x.square().sum(2)
    sums = nn.functional.avg_pool2d(squares, 3, 1, padding=1, divisor_override=1)
    return sums.flatten(2).sqrt()


def _pairs(
    x: Float[Tensor, "c h w"],
    others: Float[Tensor, "b c h w"],
    norm: Float[Tensor, " p"],
    norms: Float[Tensor, "b q"],
    together: _Together,
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Both sums of one image with others, before their constants."""
    c, h, w = x.shape
    products = x.reshape(c, -1).T @ others.reshape(len(others), c, -1)
    inner = _along_both(products.view(-1, h, w, h, w)).reshape(len(others), -1)
    inner = inner.index_select(1, together.places)
    sizes = norms.index_select(1, together.second).mul_(norm[together.first])
    cosine = (inner / sizes.clamp_min(torch.finfo(x.dtype).tiny)).clamp_(-1, 1)
    rest = cosine.acos().neg_().add_(math.pi)  # pi - theta
    sine = cosine.square().neg_().add_(1).sqrt_()
    first = inner.add_(1).mul_(rest)
    second = sine.addcmul_(rest, cosine).mul_(sizes)
    return first @ together.shares / (2 * math.pi), second @ together.shares / (2 * math.pi)


def _along_both(products: Float[Tensor, "b h w h2 w2"]) -> Float[Tensor, "b h w h2 w2"]:
    """Sum over the nine shifts by at most one of both positions together, zeros outside."""
    rows = products.clone()
    rows[:, :-1, :, :-1] += products[:, 1:, :, 1:]
    rows[:, 1:, :, 1:] += products[:, :-1, :, :-1]
    total = rows.clone()
    total[:, :, :-1, :, :-1] += rows[:, :, 1:, :, 1:]
    total[:, :, 1:, :, 1:] += rows[:, :, :-1, :, :-1]
    return total
