"""Images as rows: their shape, given beside them or their own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["checked_image_shape", "image_rows"]


def checked_image_shape(image_shape: object, n_features: int) -> tuple[int, int, int]:
    """The shape (channels, height, width) of one row.

    Raises
    ------
    ValueError
        If the shape has not three positive integers or their product is not ``n_features``.
    """
    sizes = tuple(image_shape) if isinstance(image_shape, Iterable) else ()
    if len(sizes) != 3 or not all(isinstance(s, int | np.integer) and s > 0 for s in sizes):
        raise ValueError(
            "image_shape must be (channels, height, width), three positive integers, or None; "
            f"got {image_shape!r}"
        )
    channels, height, width = (int(s) for s in sizes)
    if math.prod(sizes) != n_features:
        raise ValueError(
            f"image_shape {(channels, height, width)} has {math.prod(sizes)} values but a row of X "
            f"has {n_features}; pass the shape that one row of X unflattens to"
        )
    return channels, height, width


def image_rows(X: Any, image_shape: Any) -> tuple[Any, Any]:
    """Return images (n, channels, height, width) as rows, and their shape where none is given.

    Anything else is left as it is.
    """
    if getattr(X, "ndim", 2) != 4 or not hasattr(X, "reshape"):
        return X, image_shape
    return X.reshape(len(X), -1), tuple(X.shape[1:]) if image_shape is None else image_shape
