"""Cotangents of a convolution's input, by the cheapest of four ways."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tangent.operations.winograd_cotangents import suits, winograd_cotangent

__all__ = ["input_cotangent"]

_SMALL = 4  # positions of a map on which most of a window looks at the padding
_GROUPS = 8  # at most, to go through one by one
_ENOUGH = 32  # cotangents that are worth writing such a layer as a matrix


def input_cotangent(
    g: dict[str, Any], d: Float[Tensor, "b co *out"], shared: dict[Any, Tensor]
) -> Float[Tensor, "b ci *in"]:
    """Cotangents of the input from those of the output, for a merged batch.

    Parameters
    ----------
    g : dict
        Arguments of the convolution by name, with symmetric padding.
    d : Tensor
    shared : dict
        Keeps what is made of the weights alone from one batch to the next.
    """
    x, weight = g["input"], g["weight"]
    options = (g["stride"], g["padding"], g["dilation"])
    shape = x.shape[2:]
    taps = weight[0, 0].numel()
    if g["groups"] == 1 and taps == 1 and not any(g["padding"]):
        return _pointwise(d, weight, shape, g["stride"])
    if g["groups"] == 1 and shape.numel() <= _SMALL and shape.numel() < taps and len(d) >= _ENOUGH:
        key = ("matrix", id(weight), shape, d.shape[2:])
        if key not in shared:
            shared[key] = _matrix(weight, shape, d.shape[2:], *options)
        back = d.flatten(2).transpose(1, 2).flatten(1) @ shared[key]
        return back.unflatten(1, (shape.numel(), -1)).transpose(1, 2).unflatten(2, shape)
    if suits(g, d):
        return winograd_cotangent(weight, d, shared)
    rest = [  # of the input, beyond the last position of the window
        (size + 2 * p - r * (k - 1) - 1) % s
        for size, k, s, p, r in zip(shape, weight.shape[2:], *options, strict=True)
    ]
    transposed = F.conv_transpose1d if x.ndim == 3 else F.conv_transpose2d
    stride, padding, dilation = options
    groups = g["groups"]
    if 1 < groups <= _GROUPS and d.device.type == "cpu" and any(s > 1 for s in stride):
        # One by one: torch has no fast way for grouped strides on a CPU.
        parts = zip(d.chunk(groups, dim=1), weight.chunk(groups), strict=True)
        return torch.cat(
            [transposed(e, w, None, stride, padding, rest, 1, dilation) for e, w in parts], dim=1
        )
    return transposed(d, weight, None, stride, padding, rest, groups, dilation)


def _pointwise(d: Tensor, weight: Tensor, shape: torch.Size, stride: tuple[int, ...]) -> Tensor:
    """Of a window of one position: a product, and zeros between."""
    back = torch.matmul(weight.flatten(1).t(), d.flatten(2)).unflatten(2, d.shape[2:])
    if all(s == 1 for s in stride):
        return back
    spread = d.new_zeros(len(d), weight.shape[1], *shape)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = back
    return spread


def _matrix(
    weight: Tensor,
    inputs: torch.Size,
    outputs: torch.Size,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Float[Tensor, "qo pi"]:
    """The convolution as a matrix from (output position, channel) to (input position, channel)."""
    co, ci = weight.shape[:2]
    matrix = weight.new_zeros(outputs.numel(), co, inputs.numel(), ci)
    places = [list(product(*map(range, sizes))) for sizes in (outputs, inputs)]
    for (row, q), (column, p) in product(*map(enumerate, places)):
        offsets = [b - a * s + m for a, b, s, m in zip(q, p, stride, padding, strict=True)]
        tap = [t // r for t, r in zip(offsets, dilation, strict=True)]
        fits = all(t % r == 0 for t, r in zip(offsets, dilation, strict=True))
        if fits and all(0 <= t < k for t, k in zip(tap, weight.shape[2:], strict=True)):
            matrix[row, :, column] = weight.flatten(2)[:, :, _flat(tap, weight.shape[2:])]
    return matrix.flatten(2).flatten(0, 1)


def _flat(place: list[int], sizes: torch.Size) -> int:
    index = 0
    for p, size in zip(place, sizes, strict=True):
        index = index * size + p
    return index
