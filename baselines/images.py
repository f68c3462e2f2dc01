"""Rows as images and back: shapes, mirror images, colours."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tangent.machine.images import checked_image_shape

ImageShape = tuple[int, int, int]


def shape_of_rows(image_shape: object, n_features: int) -> ImageShape:
    """The shape (channels, height, width) of one row.

    ``None`` takes a row as a signal of one channel and height one.
    """
    return (
        (1, 1, n_features) if image_shape is None else checked_image_shape(image_shape, n_features)
    )


@dataclass(frozen=True)
class Placement:
    """What is taken off values, and what they are divided by, before float32 holds them.

    (0, 1) for ordinary images. Images far from zero, or in huge or tiny units, would lose their
    digits, or leave the range, in squares of float32.

    Attributes
    ----------
    offset, unit : float
        The unit is a power of two.
    reach : float
        The training values' maximum less their minimum, in units.
    """

    offset: float
    unit: float
    reach: float

    @classmethod
    def of(cls, X: np.ndarray) -> Placement:
        """The placement of training rows.

        Raises
        ------
        ValueError
            If their range exceeds float64.
        """
        low, high = float(X.min()), float(X.max())
        reach, middle = high - low, low / 2 + high / 2
        if not math.isfinite(reach):
            raise ValueError(
                f"X must have a range below {sys.float_info.max:.3g}; it goes from {low:.3g} to "
                f"{high:.3g}; divide it by a constant"
            )
        unit = 1.0
        if reach and not _LEAST <= reach <= 1 / _LEAST:
            unit = 2.0 ** math.ceil(math.log2(reach))
        return cls(middle if abs(middle) > _FAR * reach else 0.0, unit, reach / unit)

    @property
    def ordinary(self) -> bool:
        """Whether values stay as they are."""
        return (self.offset, self.unit) == (0, 1)

    def of_rows(self, X: np.ndarray) -> np.ndarray:
        """The rows, placed, in float32.

        Raises
        ------
        ValueError
            If values are so far beyond those of the training that float32 would not hold their
            squares.
        """
        rows = np.asarray(X)
        if not self.ordinary:
            rows = ((rows - np.float64(self.offset)) / self.unit).astype(np.float32)
        peak = max(-float(rows.min()), float(rows.max()))
        if not peak <= _LARGEST:
            raise ValueError(
                f"X must stay within {_LARGEST:.0e} times the range of the training rows, "
                f"{self.reach * self.unit:.3g}; it reaches {np.abs(X).max():.3g}; scale both alike"
            )
        return np.ascontiguousarray(rows, dtype=np.float32)


_FAR = 16  # ranges from zero at which an offset is taken off
_LEAST = 2.0**-20  # range below which, or above whose inverse, a unit is
_LARGEST = 1e15  # of which float32 holds sums of squares


def as_images(X: np.ndarray, shape: ImageShape, placement: Placement) -> Tensor:
    """The rows of ``X``, placed, as a float32 tensor of shape (n, channels, height, width)."""
    rows = placement.of_rows(X)
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
