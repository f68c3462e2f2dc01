"""Gradients of the weights among an operation's arguments, as factors: patches and cotangents."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tangent.operations.batched import BAGS, is_many
from tangent.operations.cotangents import Pull, reduced
from tangent.operations.cotangents_of_layers import layer_normalized
from tangent.operations.patches import Patches
from tangent.operations.pieces import Piece, as_rows
from tangent.operations.table import entry, operation

__all__ = ["factors_of"]

aten = torch.ops.aten

Found = dict[int, Piece]

_MEAN, _MAX = 1, 2  # modes of a bag of embeddings


def factors_of(pull: Pull) -> Found:
    """Pieces by the position of the weight; those without a rule are left out."""
    rule = entry(pull.op).factors
    if rule is None or not pull.single or pull.complex:
        return {}
    return {i: piece for i, piece in rule(pull).items() if i in pull.wanted}


def _factors(*ops: Any) -> Callable[[Callable], Callable]:
    def decorator(rule: Callable[[Pull], Found]) -> Callable:
        for op in ops:
            operation(op).factors = rule
        return rule

    return decorator


def _tokens(x: Tensor, d: Tensor) -> Piece:
    """Of a matrix (k, c) that rows of x (n, P, k) are multiplied with; d (n, o, P, c)."""
    return Piece(patches=Patches("tokens", x), cotangent=d.transpose(2, 3))


def _matrix(pull: Pull, left: int, right: int) -> Found:
    x, y, d = pull.leaves[left], pull.leaves[right], pull.d
    found: Found = {}
    if is_many(x) and not is_many(y):
        tokens, cots = x.t, d
        if tokens.dim() == 4:  # bmm of one matrix
            if tokens.shape[1] != 1:
                return {}
            tokens, cots = tokens.squeeze(1), cots.squeeze(2)
        found[right] = _tokens(tokens, cots)
    elif is_many(y) and not is_many(x):
        tokens, cots = y.t, d
        if tokens.dim() == 4:
            if tokens.shape[1] != 1:
                return {}
            tokens, cots = tokens.squeeze(1), cots.squeeze(2)
        piece = _tokens(tokens.transpose(1, 2), cots.transpose(2, 3))
        piece.turned = True
        found[left] = piece
    return found


@_factors(aten.mm, aten.bmm)
def _product(pull: Pull) -> Found:
    return _matrix(pull, 0, 1)


@_factors(aten.addmm, aten.baddbmm)
def _added_product(pull: Pull) -> Found:
    if pull.kwargs.get("alpha", 1) != 1 or pull.kwargs.get("beta", 1) != 1:
        return {}
    found = _matrix(pull, 1, 2)
    if not is_many(pull.leaves[0]):
        found[0] = Piece(gradient=as_rows(reduced(pull.d, pull.shape(0))))
    return found


@_factors(aten.add, aten.sub)
def _added(pull: Pull) -> Found:
    scale = pull.kwargs.get("alpha", 1) * (1 if pull.op.overloadpacket == aten.add else -1)
    found = {}
    for i in pull.wanted:
        if isinstance(pull.leaves[i], Tensor):
            d = pull.d if i == 0 or scale == 1 else pull.d * scale
            found[i] = Piece(gradient=as_rows(reduced(d, pull.shape(i))))
    return found


@_factors(aten.convolution)
def _convolution(pull: Pull) -> Found:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = pull.args
    if not is_many(x):
        return {}
    dims = weight.dim() - 2
    found: Found = {}
    if bias is not None and not is_many(bias):
        found[2] = Piece(gradient=pull.d.flatten(4).sum((2, 4)))
    if transposed or x.t.shape[1] != 1 or is_many(weight):
        return found
    x, d = x.t.squeeze(1), pull.d.squeeze(2).flatten(3)
    kernel = tuple(weight.shape[2:])
    options: list[Any] = [kernel, *(_full(v, dims) for v in (stride, padding, dilation))]
    if dims == 1:
        x = x.unsqueeze(2)
        options = [(1, *options[0]), (1, *options[1]), (0, *options[2]), (1, *options[3])]
    if dims <= 2:
        found[1] = Piece(patches=Patches("window", x, *options), cotangent=d, groups=groups)
    elif groups == 1:
        patches = Patches("tokens", _unfolded(x, *options))
        found[1] = Piece(patches=patches, cotangent=d, turned=True)
    return found


def _full(values: Any, dims: int) -> tuple[int, ...]:
    values = tuple(values)
    return values * dims if len(values) == 1 else values


def _unfolded(x: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """Patches (n, P, K) of inputs with any number of axes of positions."""
    borders = [p for size in reversed(padding) for p in (size, size)]
    x = torch.nn.functional.pad(x, borders)
    dims = len(kernel)
    for i, (k, s, r) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + i, r * (k - 1) + 1, s)[..., ::r]
    order = (0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
    return x.permute(order).flatten(1 + dims).flatten(1, dims)


@_factors(aten.embedding)
def _embedding(pull: Pull) -> Found:
    weight, index, *rest = pull.args
    padding, by_frequency = (*rest[:2], *(-1, False)[len(rest) :])
    if by_frequency:
        return {}
    places = _each(index, len(pull.d))
    if padding is not None and padding >= 0:
        places = places.masked_fill(places == padding, -1)
    return {0: _rows(places, pull.d, len(weight))}


@_factors(aten.index_select)
def _index_select(pull: Pull) -> Found:
    weight, dim, index = pull.args
    if dim % max(1, weight.dim()) or is_many(weight):
        return {}
    return {0: _rows(_each(index, len(pull.d)), pull.d, len(weight))}


@_factors(aten.index)
def _index(pull: Pull) -> Found:
    weight, indices = pull.args
    if is_many(weight) or len(indices) != 1 or indices[0] is None:
        return {}
    places = _each(indices[0], len(pull.d))
    if places.dtype not in (torch.int32, torch.int64):
        return {}
    return {0: _rows(places % len(weight), pull.d, len(weight))}


@_factors(aten._embedding_bag)
def _embedding_bag(pull: Pull) -> Found:
    weight, index, offsets, *how = pull.args
    by_frequency, mode, _, factors, ends, padding = (*how, *BAGS[len(how) :])
    if by_frequency or mode == _MAX or is_many(offsets) or is_many(weight):
        return {}
    places = _each(index, len(pull.d))
    if padding >= 0:
        places = places.masked_fill(places == padding, -1)
    starts = offsets[:-1] if ends else offsets
    positions = torch.arange(places.shape[1], device=places.device, dtype=starts.dtype)
    bags = torch.searchsorted(starts.contiguous(), positions, right=True) - 1
    d = pull.d[:, :, bags]
    if mode == _MEAN:
        counts = torch.zeros(len(places), len(starts), dtype=d.dtype, device=d.device)
        counts.index_add_(1, bags, (places >= 0).to(d.dtype))
        d = d / counts.clamp_min(1)[:, None, bags, None]
    if factors is not None:
        d = d * _each(factors, len(d))[:, None, :, None]
    return {0: _rows(places, d, len(weight))}


def _each(value: Any, n: int) -> Tensor:
    """The value of every input, also where it is the same for all."""
    return value.t if is_many(value) else value.expand(n, *value.shape)


def _rows(places: Tensor, d: Tensor, entries: int) -> Piece:
    """Of a table of rows, read at ``places`` (n, ...); d has shape (n, o, ..., *row)."""
    row = math.prod(d.shape[1 + places.dim() :])
    d = d.reshape(*d.shape[:2], places[0].numel(), row)
    return Piece(patches=Patches("index", places.flatten(1), entries=entries), cotangent=d.mT)


def _affine(plain: Tensor, d: Tensor, dims: list[int]) -> tuple[Piece, Piece]:
    """Scale and shift of a normalization; ``dims`` are the axes of d that they share."""
    parts = (d * plain.unsqueeze(1), d)
    scale, shift = (Piece(gradient=(t.sum(dims) if dims else t.clone()).flatten(2)) for t in parts)
    return scale, shift


@_factors(aten.native_batch_norm)
def _batch_norm(pull: Pull) -> Found:
    x, _, _, mean, variance, training, _, eps = pull.args
    if training or not is_many(x) or is_many(mean) or is_many(variance):
        return {}
    shape = (-1, *(1,) * (x.dims - 2))
    plain = (x.t - mean.view(shape)) * (variance + eps).rsqrt().view(shape)
    scale, shift = _affine(plain, pull.d, [2, *range(4, pull.d.dim())])
    return {1: scale, 2: shift}


@_factors(aten.native_layer_norm)
def _layer_norm(pull: Pull) -> Found:
    x, shape = pull.args[:2]
    if not is_many(x):
        return {}
    plain, _ = layer_normalized(pull)
    scale, shift = _affine(plain, pull.d, list(range(2, pull.d.dim() - len(shape))))
    first = 1 + len(shape)
    return {first: scale, first + 1: shift}


@_factors(aten.native_group_norm)
def _group_norm(pull: Pull) -> Found:
    x, _, _, count, _, _, groups, eps = pull.args
    if not is_many(x):
        return {}
    merged = torch.nn.functional.group_norm(x.t.flatten(0, 1), groups, eps=eps)
    plain = merged.unflatten(0, (-1, count))
    scale, shift = _affine(plain, pull.d, [2, *range(4, pull.d.dim())])
    return {1: scale, 2: shift}


@_factors(aten.mul)
def _scaled(pull: Pull) -> Found:
    """Of a weight that multiplies elementwise."""
    found: Found = {}
    for i, other in ((0, 1), (1, 0)):
        x = pull.leaves[other]
        if i in pull.wanted and isinstance(pull.leaves[i], Tensor) and is_many(x):
            lead = (1,) * (pull.d.dim() - 2 - x.dims)
            value = x.t.reshape(len(x.t), 1, *lead, *x.t.shape[1:])
            found[i] = Piece(gradient=as_rows(reduced(pull.d * value, pull.shape(i))))
    return found
