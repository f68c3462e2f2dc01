"""Rows as images and back: shapes, mirror images, colours."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

ImageShape = tuple[int, int, int]


def checked_image_shape(image_shape: object, n_features: int) -> ImageShape:
    """The shape (channels, height, width) of one row.

    ``None`` takes a row as a signal of one channel and height one.

    Raises
    ------
    ValueError
        If the shape has not three positive integers or their product is not ``n_features``.
    """
    if image_shape is None:
        return (1, 1, n_features)
    sizes = tuple(image_shape) if isinstance(image_shape, Iterable) else ()
    if len(sizes) != 3 or not all(isinstance(s, (int, np.integer)) and s > 0 for s in sizes):
        raise ValueError(
            "image_shape must be (channels, height, width), three positive integers, or None; "
            f"got {image_shape!r}"
        )
    if math.prod(sizes) != n_features:
        raise ValueError(
            f"image_shape {sizes} has {math.prod(sizes)} values; X has {n_features} features: "
            "give the shape that one row of X unflattens to"
        )
    channels, height, width = (int(s) for s in sizes)
    return channels, height, width


def as_images(X: np.ndarray, shape: ImageShape) -> Tensor:
    """The rows of ``X`` as a float32 tensor of shape (n, channels, height, width)."""
    rows = np.ascontiguousarray(X, dtype=np.float32)
    if not rows.flags.writeable:  # torch has no read-only tensors; a memory map may be one
        rows = rows.copy()
    return torch.from_numpy(rows).reshape(len(rows), *shape)


def mirrored(X: np.ndarray, shape: ImageShape) -> np.ndarray:
    """Each row's image flipped left to right, as rows again."""
    images = np.asarray(X).reshape(len(X), *shape)
    return np.ascontiguousarray(images[..., ::-1]).reshape(len(X), -1)


def yuv(images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 height width"]:
    """Luminance and two colour differences of RGB images (ITU-R BT.601)."""
    weights = images.new_tensor(
        [[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]
    )
    return torch.einsum("dc,nchw->ndhw", weights, images)
