"""The families, imported for the entries that they make."""

from tangent.operations import (
    activations,
    affine,
    arithmetic,
    cotangents_of_layers,
    cotangents_of_shapes,
    normalization,
    partial,
    pooling,
    rectifiers,
    shape,
    writing,
)

__all__ = [
    "activations",
    "affine",
    "arithmetic",
    "cotangents_of_layers",
    "cotangents_of_shapes",
    "normalization",
    "partial",
    "pooling",
    "rectifiers",
    "shape",
    "writing",
]
