"""Where parameters enter a network, and the gradient factors found there for one batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from tangent.machine.products import batched_product
from tangent.operations.patches import Patches

__all__ = ["Piece", "as_rows"]

_NARROW = 32  # entries of a patch: of the first layer of a network of images


def as_rows(gradient: Float[Tensor, "b o ..."]) -> Float[Tensor, "b o p"]:
    """The entries of a parameter in one axis; of a number, its only one."""
    return gradient.flatten(2) if gradient.dim() > 2 else gradient.unsqueeze(2)


@dataclass
class Piece:
    """One use of a parameter, on a batch of b inputs with o cotangents.

    Either ``patches`` and ``cotangent``, of shape (b, o, c, P): the gradient is their product
    (c, K), in ``groups`` blocks; or ``gradient``, of shape (b, o, p). Where ``order`` is given, the
    entries of the gradient belong to these of the parameter's ``size``, which has no others.
    ``turned`` says that a matrix is found as (c, K), not as (K, c).
    """

    name: str = ""
    scale: float = 1.0
    patches: Patches | None = None
    cotangent: Tensor | None = None
    groups: int = 1
    gradient: Tensor | None = None
    order: Tensor | None = None
    size: int = 0
    turned: bool = False

    def dense(
        self, weights: Tensor | None = None, out: Tensor | None = None
    ) -> Float[Tensor, "b o p"]:
        """Gradients of the whole parameter; see `_dense`."""
        if self.order is None:
            return self._dense(weights, out)
        part = self._dense(weights)
        whole = part.new_zeros(*part.shape[:2], self.size)
        return whole.index_copy_(2, self.order, part)

    def _dense(
        self, weights: Tensor | None = None, out: Tensor | None = None
    ) -> Float[Tensor, "b o p"]:
        """Gradients in full; with ``weights`` (o,), of that combination of the outputs.

        They are written into ``out`` where it is given, contiguous and of the same dtype.
        """
        if self.gradient is not None:
            gradient = self.gradient if weights is None else _combined(self.gradient, weights)
            return gradient * self.scale
        assert self.patches is not None
        assert self.cotangent is not None
        d = self.cotangent if weights is None else _combined(self.cotangent, weights)
        if self.patches.kind == "index":
            found = _rows_added(self.patches, d)
            return found.mul_(self.scale) if self.scale != 1 else found
        columns = self.patches.columns().to(d.dtype)
        b, o, c, p = d.shape
        g = self.groups
        if g == 1 and len(columns[0]) <= _NARROW and o * c > 2 * _NARROW and d.device.type == "cpu":
            # A narrow product is faster turned round, and small enough to be turned back.
            turned = torch.bmm(columns, d.reshape(b, o * c, p).transpose(1, 2)).transpose(1, 2)
            product = turned if out is None else out.view(b, o * c, -1).copy_(turned)
        elif g == 1:
            target = None if out is None else out.view(b, o * c, -1)
            product = batched_product(d.reshape(b, o * c, p), columns.transpose(1, 2), target)
        else:
            d = d.reshape(b, o, g, c // g, p).transpose(1, 2).reshape(b * g, -1, p)
            product = torch.bmm(d, columns.reshape(b * g, -1, p).transpose(1, 2))
            product = product.reshape(b, g, o, -1).transpose(1, 2)
        product = product.reshape(b, o, -1)
        return product.mul_(self.scale) if self.scale != 1 else product

    def split(self) -> list[Piece]:
        """Return the groups of a convolution as convolutions of their own."""
        assert self.patches is not None
        assert self.cotangent is not None
        inputs = self.patches.x.chunk(self.groups, dim=1)
        parts = self.cotangent.chunk(self.groups, dim=2)
        patches = [self.patches.with_inputs(x) for x in inputs]
        return [Piece(self.name, self.scale, *both) for both in zip(patches, parts, strict=True)]

    def first(self, count: int = 1) -> Piece:
        """Return the piece of the first inputs alone."""
        return replace(
            self,
            patches=None
            if self.patches is None
            else self.patches.with_inputs(self.patches.x[:count]),
            cotangent=None if self.cotangent is None else self.cotangent[:count],
            gradient=None if self.gradient is None else self.gradient[:count],
        )


def _rows_added(patches: Patches, d: Float[Tensor, "b o c p"]) -> Float[Tensor, "b o entries"]:
    """Gradients of a table (K, c), of which every position has read a row."""
    missing = patches.x < 0
    d = d.transpose(2, 3).masked_fill(missing[:, None, :, None], 0.0)
    table = d.new_zeros(*d.shape[:2], patches.entries, d.shape[3])
    for one, places, to in zip(d, patches.x.clamp_min(0), table, strict=True):
        to.index_add_(1, places, one)
    return table.flatten(2)


def _combined(values: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("bo...,o->b...", values, weights).unsqueeze(1)
