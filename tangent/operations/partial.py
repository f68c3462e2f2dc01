"""Cotangents that are zero outside parts of a value: of one token, of one of several chunks.

What reads one token of many sends its cotangent to that token alone. Operations that treat the
places of an axis alike are then run back on that token only, and chunks that were read apart are
put side by side once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tangent.operations.batched import Many, axis, elementwise, is_many
from tangent.operations.cotangents import Pull, cotangent, pulled

__all__ = ["Partial", "Span", "dense", "merged", "on_its_part", "viewed", "views", "widened"]

aten = torch.ops.aten

Regions = tuple[tuple[Tensor, tuple["Span", ...]], ...]


class Span(NamedTuple):
    """Places ``start`` to ``start + length`` of an axis of one input's value."""

    axis: int
    start: int
    length: int


@dataclass(frozen=True)
class Partial:
    """Cotangents (n, o, *shape) that are zero outside some regions."""

    shape: tuple[int, ...]
    regions: Regions

    @property
    def single(self) -> Span | None:
        """The only span there is, where it leaves out at least half of its axis."""
        if len(self.regions) != 1 or len(self.regions[0][1]) != 1:
            return None
        span = self.regions[0][1][0]
        return span if 2 * span.length <= self.shape[span.axis] else None

    def dense(self) -> Tensor:
        """All of it, in new memory."""
        first = self.regions[0][0]
        apart = all(
            _apart(a, b) for i, (_, a) in enumerate(self.regions) for _, b in self.regions[:i]
        )
        filled = apart and sum(d[0, 0].numel() for d, _ in self.regions) == prod(self.shape)
        make = first.new_empty if filled else first.new_zeros
        total = make(*first.shape[:2], *self.shape)
        for d, spans in self.regions:
            place = _place(total, spans)
            place.copy_(d) if apart else place.add_(d)
        return total

    def within(self, span: Span, size: int) -> Partial:
        """The same where this value is a span of a larger one, of that size along the axis."""
        shape = (*self.shape[: span.axis], size, *self.shape[span.axis + 1 :])
        regions = []
        for d, spans in self.regions:
            inner = next((s for s in spans if s.axis == span.axis), None)
            here = span if inner is None else inner._replace(start=span.start + inner.start)
            others = tuple(s for s in spans if s.axis != span.axis)
            regions.append((d, (*others, here)))
        return Partial(shape, tuple(regions))


def _place(total: Tensor, spans: tuple[Span, ...]) -> Tensor:
    for span in spans:
        total = total.narrow(span.axis + 2, span.start, span.length)
    return total


def _apart(one: tuple[Span, ...], two: tuple[Span, ...]) -> bool:
    return any(
        a.axis == b.axis and (a.start + a.length <= b.start or b.start + b.length <= a.start)
        for a in one
        for b in two
    )


def merged(one: Tensor | Partial, two: Tensor | Partial, mine: bool) -> Tensor | Partial:
    """The sum of two cotangents of a value; ``mine`` where the first may be written into."""
    if isinstance(one, Partial) and isinstance(two, Partial):
        return Partial(one.shape, _joined(one.regions, two.regions))
    if isinstance(one, Partial):
        return merged(two, one, False)
    if isinstance(two, Tensor):
        return one.add_(two) if mine else one + two
    total = one if mine else one.clone(memory_format=torch.contiguous_format)
    for d, spans in two.regions:
        _place(total, spans).add_(d)
    return total


def _joined(one: Regions, two: Regions) -> Regions:
    """Regions of both, those in the same place summed."""
    places = [spans for _, spans in one]
    found = list(one)
    for d, spans in two:
        if spans in places:
            i = places.index(spans)
            found[i] = (found[i][0] + d, spans)
        else:
            found.append((d, spans))
    return tuple(found)


def widened(d: Tensor | Partial, span: Span, shape: tuple[int, ...]) -> Partial:
    """The cotangent of a whole value from that of a span of it."""
    if isinstance(d, Partial):
        return d.within(span, shape[span.axis])
    return Partial(shape, ((d, (span,)),))


@cotangent(aten.select, aten.slice)
def _part(pull: Pull) -> dict[int, Any]:
    (i,) = pull.wanted
    shape = pull.shape(i)
    rest = list(pull.args[1:])
    place = axis(rest[0] if rest else 0, len(shape)) - 1
    if pull.op.overloadpacket == aten.select:
        start, stop, step = rest[1] % shape[place], None, 1
        d = pull.d.unsqueeze(place + 2)
    else:
        start, stop, step = slice(*(*rest[1:], None, None, None)[:3]).indices(shape[place])
        d = pull.d
    length = d.shape[place + 2]
    if length == shape[place]:
        return {i: d}
    if step == 1:
        return {i: Partial(shape, ((d, (Span(place, start, length),)),))}
    back = d.new_zeros(*d.shape[:2], *shape)
    aten.slice(back, place + 2, start, stop, step).copy_(d)
    return {i: back}


# Operations that treat the places of an axis alike: which axis of which argument it is.

_VIEWS = {
    aten.view, aten._unsafe_view, aten.reshape, aten.unsqueeze, aten.squeeze, aten.clone, aten.t,
    aten.transpose, aten.permute, aten.expand,
}  # fmt: skip


def views(op: Any) -> bool:
    """Whether an operation only looks at its argument's entries otherwise."""
    return getattr(op, "overloadpacket", None) in _VIEWS


Along = Callable[[Pull, int], dict[int, int] | None]
_ALONG: dict[Any, Along] = {}


def dense(d: Tensor | Partial) -> Tensor:
    """A cotangent as a tensor."""
    return d.dense() if isinstance(d, Partial) else d


def on_its_part(pull: Pull) -> tuple[Pull, dict[int, Span]]:
    """The call on what its cotangent is not zero on, and the spans of the arguments there.

    All of it, and no spans, where that is more than half, or the operation looks further.
    """
    first, *rest = pull.cotangents
    if isinstance(first, Partial) and first.single is not None and all(c is None for c in rest):
        found = narrowed(pull, first.single)
        if found is not None:
            found[0].cotangents = [first.regions[0][0], *rest]
            return found
    if any(isinstance(c, Partial) for c in pull.cotangents):
        pull.mine = not rest
        pull.cotangents = [None if c is None else dense(c) for c in pull.cotangents]
    return pull, {}


def viewed(pull: Pull) -> Partial | None:
    """The cotangent of what was only looked at otherwise, part by part; None where it is not."""
    first = pull.cotangents[0]
    if not isinstance(first, Partial) or not views(pull.op):
        return None
    regions = []
    for d, spans in first.regions:
        part, places = pull, []
        for span in spans:
            found = narrowed(part, span)
            if found is None:
                return None
            part, places = found[0], [*places, found[1][0]]
        part.cotangents = [d]
        regions.append((pulled(part)[0], tuple(places)))
    return Partial(pull.shape(0), tuple(regions))


def narrowed(pull: Pull, span: Span) -> tuple[Pull, dict[int, Span]] | None:
    """The call on a span of its first result, and the spans of the arguments that it reads.

    None where the operation does not treat the places of that axis alike.
    """
    found = _along(pull, span.axis)
    if found is None:
        return None
    leaves = list(pull.leaves)
    spans = {}
    for i, place in found.items():
        spans[i] = span._replace(axis=place)
        leaves[i] = Many(leaves[i].t.narrow(place + 1, span.start, span.length))
    results = list(pull.results)
    results[0] = Many(results[0].t.narrow(span.axis + 1, span.start, span.length))
    return replace(pull, leaves=leaves, results=results, mine=False, made={}), spans


def _along(pull: Pull, place: int) -> dict[int, int] | None:
    if not is_many(pull.results[0]):
        return None  # made of weights alone
    rule = _ALONG.get(getattr(pull.op, "overloadpacket", None))
    if rule is not None:
        return rule(pull, place)
    return _along_all(pull, place) if elementwise(pull.op) else None


def _same(*ops: Any) -> Callable[[Along], Along]:
    def decorator(rule: Along) -> Along:
        _ALONG.update(dict.fromkeys(ops, rule))
        return rule

    return decorator


def _along_all(pull: Pull, place: int) -> dict[int, int] | None:
    """Of an elementwise operation: the axis of all that has it."""
    result = pull.results[0]
    found = {}
    for i, a in enumerate(pull.leaves):
        if not (is_many(a) or isinstance(a, Tensor)):
            continue
        own = place - (result.dims - len(pull.shape(i)))
        if own >= 0 and pull.shape(i)[own] != 1:
            found[i] = own
    return found if all(is_many(pull.leaves[i]) for i in found) else None


def _of_first(pull: Pull, place: int | None) -> dict[int, int] | None:
    return None if place is None or not is_many(pull.leaves[0]) else {0: place}


@_same(aten.view, aten._unsafe_view, aten.reshape, aten.unsqueeze, aten.squeeze, aten.clone)
def _along_view(pull: Pull, place: int) -> dict[int, int] | None:
    """An axis that a view leaves as it is: of the same size, behind as many entries."""
    whole, shape = pull.results[0].t.shape[1:], pull.shape(0)
    before = prod(whole[:place])
    fits = (j for j, size in enumerate(shape) if size == whole[place] and prod(shape[:j]) == before)
    return _of_first(pull, next(fits, None))


@_same(aten.t)
def _along_t(pull: Pull, place: int) -> dict[int, int] | None:
    return _of_first(pull, 1 - place if len(pull.shape(0)) == 2 else place)


@_same(aten.transpose)
def _along_transpose(pull: Pull, place: int) -> dict[int, int] | None:
    dims = len(pull.shape(0))
    a, b = (d % dims for d in pull.args[1:3])
    return _of_first(pull, {a: b, b: a}.get(place, place))


@_same(aten.permute)
def _along_permute(pull: Pull, place: int) -> dict[int, int] | None:
    order = pull.args[1]
    return _of_first(pull, order[place] % len(order))


@_same(aten.expand)
def _along_expand(pull: Pull, place: int) -> dict[int, int] | None:
    shape, whole = pull.shape(0), pull.results[0].t.shape[1:]
    own = place - (len(whole) - len(shape))
    return _of_first(pull, own if own >= 0 and shape[own] == whole[place] else None)


@_same(aten.select)
def _along_select(pull: Pull, place: int) -> dict[int, int] | None:
    taken = pull.args[1] % len(pull.shape(0))
    return _of_first(pull, place if place < taken else place + 1)


@_same(aten._softmax, aten._safe_softmax)
def _along_softmax(pull: Pull, place: int) -> dict[int, int] | None:
    return _of_first(pull, place if pull.args[1] % len(pull.shape(0)) != place else None)


@_same(aten.native_layer_norm)
def _along_layer_norm(pull: Pull, place: int) -> dict[int, int] | None:
    outer = len(pull.shape(0)) - len(pull.args[1])
    return _of_first(pull, place if place < outer else None)


@_same(aten.mm)
def _along_rows(pull: Pull, place: int) -> dict[int, int] | None:
    return _of_first(pull, place if place == 0 else None)


@_same(aten.addmm)
def _along_added_rows(pull: Pull, place: int) -> dict[int, int] | None:
    bias, rows = pull.leaves[:2]
    if place != 0 or is_many(bias) or bias.dim() != 1 or not is_many(rows):
        return None
    return {1: 0}


@_same(aten.bmm)
def _along_products(pull: Pull, place: int) -> dict[int, int] | None:
    found = {0: {0: 0, 1: 0}, 1: {0: 1}, 2: {1: 2}}[place]
    return found if all(is_many(pull.leaves[i]) for i in found) else None
