"""Cotangents through 3x3 convolutions with a quarter of the multiplications: F(4x4, 3x3).

Tiles of 6x6 cotangents and the window are transformed, multiplied at 36 places (matrix products
over the channels), and transformed to 4x4 results: 36 multiplications where the convolution
takes 144. Maps are small here, so that each transform is one product with a fixed matrix that
cuts the tiles as well. Measured error: 2e-6 of the result, where the direct convolution in
float32 has 2e-7. The matrices are those of `tangent.operations.toom_cook`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tangent.machine.pages import fresh
from tangent.operations.toom_cook import transforms

__all__ = ["suits", "winograd_cotangent"]

_TILE = 4
_ENOUGH = 64  # cotangents; below, transforming the weights costs more than is saved
_CHANNELS = {4: 64, 8: 128}  # fewest channels that gain, by side of the map


def suits(g: dict[str, Any], d: Tensor) -> bool:
    """Whether a convolution is of the kind, and of a size, that gains from it on this device."""
    weight, (h, w) = g["weight"], (*d.shape[2:], 0)[:2]
    return (
        d.device.type == "cpu"
        and d.dtype == torch.float32
        and weight.shape[2:] == (3, 3)
        and g["groups"] == 1
        and tuple(g["stride"]) == tuple(g["padding"]) == tuple(g["dilation"]) == (1, 1)
        and {h, w} <= set(_CHANNELS)
        and min(weight.shape[:2]) >= _CHANNELS[max(h, w)]
        and len(d) >= _ENOUGH
    )


def winograd_cotangent(
    weight: Float[Tensor, "co ci 3 3"], d: Float[Tensor, "b co h w"], shared: dict[Any, Tensor]
) -> Float[Tensor, "b ci h w"]:
    """Cotangents of the input of a convolution with stride and padding 1.

    ``shared`` keeps the transformed weights from one batch to the next.
    """
    b, co, h, w = d.shape
    ci = weight.shape[1]
    cut, joined, windows = _transforms(h, w)
    key = ("winograd", id(weight))
    if key not in shared:
        flipped = weight.flip(2, 3).permute(2, 3, 0, 1).reshape(9, -1)
        shared[key] = fresh((len(windows), co, ci), weight.dtype, weight.device)
        torch.mm(windows, flipped, out=shared[key].view(len(windows), -1))
    places, count = len(windows), len(cut) // len(windows) * b
    tiles = _buffer(shared, "tiles", places * count * co)
    torch.mm(cut, d.reshape(b * co, h * w).t(), out=tiles.view(len(cut), b * co))
    products = _buffer(shared, "products", places * count * ci).view(places, count, ci)
    torch.bmm(tiles.view(places, count, co), shared[key], out=products)
    return (products.view(len(cut), -1).t() @ joined.t()).view(b, ci, h, w)


def _buffer(shared: dict[Any, Tensor], name: str, size: int) -> Tensor:
    """Memory that serves all layers and batches: new pages cost as much as the transforms."""
    if name not in shared or shared[name].numel() < size:
        shared[name] = fresh((size,), torch.float32, torch.device("cpu"))
    return shared[name][:size]


@cache
def _transforms(h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices from a map to (place, tile), from there to a map, and from a window to places."""
    (rows, up), (columns, across) = _along(h), _along(w)
    cut = np.einsum("atp,buq->abtupq", rows, columns).reshape(-1, h * w)
    joined = np.einsum("pat,qbu->pqabtu", up, across).reshape(h * w, -1)
    window = transforms(_TILE)[0]
    cut, joined, windows = (m.astype(np.float32) for m in (cut, joined, np.kron(window, window)))
    return torch.from_numpy(cut), torch.from_numpy(joined), torch.from_numpy(windows)


def _along(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Transforms along one axis: (place, tile, position) and (position, place, tile)."""
    _, given, result = transforms(_TILE)
    places, tiles = len(given), side // _TILE
    cut = np.zeros((places, tiles, side))
    joined = np.zeros((side, places, tiles))
    for t in range(tiles):
        joined[_TILE * t : _TILE * (t + 1), :, t] = result
        for u in range(places):
            position = _TILE * t + u - 1
            if 0 <= position < side:  # beyond, the padding is zero
                cut[:, t, position] = given[:, u]
    return cut, joined
