"""The families, imported for the entries that they make."""

from tangent.operations import (
    activations,
    affine,
    arithmetic,
    normalization,
    pooling,
    shape,
    writing,
)

__all__ = [
    "activations",
    "affine",
    "arithmetic",
    "normalization",
    "pooling",
    "shape",
    "writing",
]
