"""Cotangents through what only moves, chooses, joins or sums entries."""

from __future__ import annotations

import torch
from torch import Tensor

from tangent.operations.batched import axis
from tangent.operations.cotangents import SEVERAL, Pull, cotangent, reduced

aten = torch.ops.aten


def _where(pull: Pull) -> int:
    return pull.wanted[0]


@cotangent(aten.view, aten._unsafe_view, aten.reshape, aten.unsqueeze, aten.squeeze, aten.clone)
def _reshape(pull: Pull) -> dict[int, Tensor] | None:
    i = _where(pull)
    return {i: pull.d.reshape(*pull.d.shape[:2], *pull.shape(i))}


@cotangent(aten.t)
def _t(pull: Pull) -> dict[int, Tensor]:
    return {_where(pull): pull.d.transpose(2, 3) if pull.d.dim() == 4 else pull.d}


@cotangent(aten.transpose)
def _transpose(pull: Pull) -> dict[int, Tensor]:
    _, a, b = pull.args
    dims = pull.d.dim() - 2
    return {_where(pull): pull.d.transpose(axis(a, dims) + 1, axis(b, dims) + 1)}


@cotangent(aten.permute)
def _permute(pull: Pull) -> dict[int, Tensor]:
    order = pull.args[1]
    dims = len(order)
    back = [0] * dims
    for position, d in enumerate(order):
        back[d % dims] = position + 2
    return {_where(pull): pull.d.permute(0, 1, *back)}


@cotangent(aten.expand)
def _expand(pull: Pull) -> dict[int, Tensor]:
    i = _where(pull)
    return {i: reduced(pull.d, pull.shape(i))}


@cotangent(aten.split, aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes)
def _parts(pull: Pull) -> dict[int, Tensor]:
    """Side by side again."""
    args = pull.args
    place = axis(args[2] if len(args) > 2 else 0, len(pull.shape(0))) + 1
    return {0: torch.cat(_filled(pull), dim=place)}


@cotangent(aten.unbind)
def _unbind(pull: Pull) -> dict[int, Tensor]:
    args = pull.args
    place = axis(args[1] if len(args) > 1 else 0, len(pull.shape(0))) + 1
    return {0: torch.stack(_filled(pull), dim=place)}


SEVERAL.update((_parts, _unbind))


def _filled(pull: Pull) -> list[Tensor]:
    n, o = next(c for c in pull.cotangents if c is not None).shape[:2]
    return [
        pull.result(i).new_zeros(1).expand(n, o, *pull.result(i).shape[2:]) if c is None else c
        for i, c in enumerate(pull.cotangents)
    ]


@cotangent(aten.cat, aten.stack)
def _together(pull: Pull) -> dict[int, Tensor] | None:
    tensors, *rest = pull.args
    dims = pull.d.dim() - 2
    place = axis(rest[0] if rest else 0, dims) + 1
    if pull.op.overloadpacket == aten.stack:
        return {i: pull.d.select(place, i) for i in pull.wanted}
    shapes = [pull.shape(i) for i in range(len(tensors))]
    if any(len(shape) != dims for shape in shapes):
        return None
    starts = [0]
    for shape in shapes:
        starts.append(starts[-1] + shape[place - 2])
    return {i: pull.d.narrow(place, starts[i], shapes[i][place - 2]) for i in pull.wanted}


@cotangent(aten.mean, aten.sum)
def _mean(pull: Pull) -> dict[int, Tensor] | None:
    i = _where(pull)
    shape = pull.shape(i)
    args = pull.args
    dims = list(args[1]) if len(args) > 1 and args[1] else list(range(len(shape)))
    dims = sorted(d % max(len(shape), 1) for d in dims)
    keep = len(args) > 2 and args[2]
    d = pull.d
    if not keep:
        for position in dims:
            d = d.unsqueeze(position + 2)
    count = 1
    for position in dims:
        count *= shape[position] if shape else 1
    d = d / count if pull.op.overloadpacket == aten.mean else d
    return {i: d.expand(*d.shape[:2], *shape)}
