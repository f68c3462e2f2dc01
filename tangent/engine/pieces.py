"""Where parameters enter a network, and the gradient factors found there for one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tangent.engine.patches import Patches
from tangent.engine.rules import geometry
from tangent.engine.tape import Call, Tape

__all__ = ["Piece", "pieces_of"]

_NARROW = 32  # entries of a patch: of the first layer of a network of images


@dataclass
class Piece:
    """One use of a parameter, on a batch of b inputs with o cotangents.

    Either ``patches`` and ``cotangent``, of shape (b, o, c, P): the gradient is their product
    (c, K), in ``groups`` blocks; or ``gradient``, of shape (b, o, p).
    """

    name: str
    scale: float
    patches: Patches | None = None
    cotangent: Tensor | None = None
    groups: int = 1
    gradient: Tensor | None = None

    def dense(
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
        columns = self.patches.columns().to(d.dtype)
        b, o, c, p = d.shape
        g = self.groups
        if g == 1 and len(columns[0]) <= _NARROW and o * c > 2 * _NARROW and d.device.type == "cpu":
            # A narrow product is faster turned round, and small enough to be turned back.
            turned = torch.bmm(columns, d.reshape(b, o * c, p).transpose(1, 2)).transpose(1, 2)
            product = turned if out is None else out.view(b, o * c, -1).copy_(turned)
        elif g == 1:
            target = None if out is None else out.view(b, o * c, -1)
            product = torch.bmm(d.reshape(b, o * c, p), columns.transpose(1, 2), out=target)
        else:
            d = d.reshape(b, o, g, c // g, p).transpose(1, 2).reshape(b * g, -1, p)
            product = torch.bmm(d, columns.reshape(b * g, -1, p).transpose(1, 2))
            product = product.reshape(b, g, o, -1).transpose(1, 2)
        product = product.reshape(b, o, -1)
        if self.patches.kind == "index":  # an embedding's weight is (K, c)
            product = product.reshape(b, o, c, -1).transpose(2, 3).reshape(b, o, -1)
        return product.mul_(self.scale) if self.scale != 1 else product

    def split(self) -> list[Piece]:
        """Return the groups of a convolution as convolutions of their own."""
        assert self.patches is not None
        assert self.cotangent is not None
        inputs = self.patches.x.chunk(self.groups, dim=1)
        parts = self.cotangent.chunk(self.groups, dim=2)
        patches = [self.patches.with_inputs(x) for x in inputs]
        return [Piece(self.name, self.scale, *both) for both in zip(patches, parts, strict=True)]

    def first(self) -> Piece:
        """Return the piece of the first input alone."""
        return Piece(
            self.name,
            self.scale,
            None if self.patches is None else self.patches.with_inputs(self.patches.x[:1]),
            None if self.cotangent is None else self.cotangent[:1],
            self.groups,
            None if self.gradient is None else self.gradient[:1],
        )


def _combined(values: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("bo...,o->b...", values, weights).unsqueeze(1)


def pieces_of(
    tape: Tape, call: Call, cotangent: Tensor, names: set[str]
) -> tuple[list[Piece], set[str]]:
    """Pieces of the wanted parameters in a call, and the parameters that it has no rule for.

    ``cotangent`` has shape (o, *output).
    """
    present: set[str] = set()
    for a in call.arguments:
        if isinstance(a, Tensor):
            present |= tape.parameters_in(a) & names
    found = _FINDERS.get(call.function, _none)(tape, call, cotangent)
    pieces = [piece for piece in found if piece.name in names]
    return pieces, present - {piece.name for piece in pieces}


def _none(tape: Tape, call: Call, cotangent: Tensor) -> list[Piece]:
    return []


def _weight(tape: Tape, value: Any) -> tuple[str, float] | None:
    weight = tape.weights.get(id(value)) if isinstance(value, Tensor) else None
    return None if weight is None else (weight.name, weight.scale)


def _convolution(tape: Tape, call: Call, cotangent: Tensor) -> list[Piece]:
    g = geometry(call)
    if g is None or g["input"].ndim != g["weight"].ndim or len(g["input"]) != tape.batch:
        return []
    d = cotangent.flatten(3).transpose(0, 1)
    pieces = []
    if (weight := _weight(tape, g["weight"])) is not None:
        x = g["input"]
        options = [tuple(g["weight"].shape[2:]), g["stride"], g["padding"], g["dilation"]]
        if x.ndim == 3:
            x = x.unsqueeze(2)
            options = [(1, *options[0]), (1, *options[1]), (0, *options[2]), (1, *options[3])]
        patches = Patches("window", x, *options)
        pieces.append(Piece(*weight, patches, d, groups=g["groups"]))
    if (bias := _weight(tape, g["bias"])) is not None:
        pieces.append(Piece(*bias, gradient=d.sum(3)))
    return pieces


def _linear(tape: Tape, call: Call, cotangent: Tensor) -> list[Piece]:
    x, matrix, bias = (*call.arguments, None)[:3]
    b = tape.batch
    if call.inputs != [0] or len(x) % b:
        return []
    tokens = x.reshape(b, -1, x.shape[-1])  # a leading axis of b * t is read as b blocks of t
    d = cotangent.reshape(len(cotangent), b, -1, cotangent.shape[-1]).permute(1, 0, 3, 2)
    pieces = []
    if (weight := _weight(tape, matrix)) is not None:
        pieces.append(Piece(*weight, Patches("tokens", tokens), d))
    if (weight := _weight(tape, bias)) is not None:
        pieces.append(Piece(*weight, gradient=d.sum(3)))
    return pieces


def _embedding(tape: Tape, call: Call, cotangent: Tensor) -> list[Piece]:
    def named(
        input,
        weight,
        padding_idx=None,
        max_norm=None,
        norm_type=2.0,
        scale_grad_by_freq=False,
        sparse=False,
    ):
        return locals()

    args, kwargs = call.bound()
    g = named(*args, **kwargs)
    weight = _weight(tape, g["weight"])
    if weight is None or g["max_norm"] is not None or g["scale_grad_by_freq"]:
        return []
    if len(g["input"]) != tape.batch:
        return []
    index = g["input"].reshape(tape.batch, -1)
    if g["padding_idx"] is not None:
        index = index.masked_fill(index == g["padding_idx"] % len(g["weight"]), -1)
    d = cotangent.reshape(len(cotangent), tape.batch, -1, cotangent.shape[-1]).permute(1, 0, 3, 2)
    return [Piece(*weight, Patches("index", index, entries=len(g["weight"])), d)]


def _affine(weight: Any, bias: Any, plain: Tensor, cotangent: Tensor, tape: Tape, dims: list[int]):
    """Scale and shift of a normalization; ``dims`` are the axes of the cotangent they share."""
    pieces = []
    for value, gradient in ((weight, cotangent * plain), (bias, cotangent)):
        if (found := _weight(tape, value)) is not None:
            summed = gradient.sum(dims) if dims else gradient
            pieces.append(Piece(*found, gradient=summed.flatten(2).transpose(0, 1)))
    return pieces


def _batch_norm(tape: Tape, call: Call, cotangent: Tensor) -> list[Piece]:
    x, mean, variance, weight, bias, *_, eps = call.arguments
    if len(x) != tape.batch or not isinstance(eps, float):
        return []
    plain = F.batch_norm(x, mean, variance, None, None, False, 0.0, eps)
    return _affine(weight, bias, plain, cotangent, tape, list(range(3, cotangent.ndim)))


def _layer_norm(tape: Tape, call: Call, cotangent: Tensor) -> list[Piece]:
    def named(input, normalized_shape, weight=None, bias=None, eps=1e-5):
        return locals()

    args, kwargs = call.bound()
    g = named(*args, **kwargs)
    if len(g["input"]) != tape.batch:
        return []
    plain = F.layer_norm(g["input"], g["normalized_shape"], eps=g["eps"])
    dims = list(range(2, cotangent.ndim - len(g["normalized_shape"])))
    return _affine(g["weight"], g["bias"], plain, cotangent, tape, dims)


def _group_norm(tape: Tape, call: Call, cotangent: Tensor) -> list[Piece]:
    def named(input, num_groups, weight=None, bias=None, eps=1e-5):
        return locals()

    args, kwargs = call.bound()
    g = named(*args, **kwargs)
    if len(g["input"]) != tape.batch:
        return []
    plain = F.group_norm(g["input"], g["num_groups"], eps=g["eps"])
    dims = list(range(3, cotangent.ndim))
    return _affine(g["weight"], g["bias"], plain, cotangent, tape, dims)


_FINDERS: dict[Any, Callable[[Tape, Call, Tensor], list[Piece]]] = {
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.linear: _linear,
    F.embedding: _embedding,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
}
