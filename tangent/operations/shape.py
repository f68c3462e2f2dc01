"""Operations that are linear in all their tensors together: shapes, sums, paddings, transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tangent.operations.arithmetic import multilinear
from tangent.operations.generic import generic_difference
from tangent.operations.registry import Pair
from tangent.operations.table import bases, differences, exact, is_pair, operation

__all__ = ["LINEAR", "linear_rule"]

aten = torch.ops.aten

_SHAPES = (
    "view reshape _unsafe_view _reshape_alias t transpose permute unsqueeze squeeze expand "
    "clone slice select unbind split split_with_sizes unsafe_split unsafe_split_with_sizes "
    "chunk cat stack repeat alias contiguous flatten unfold movedim narrow roll flip diagonal "
    "diag_embed tril triu as_strided view_as_real view_as_complex _conj conj conj_physical "
    "resolve_conj resolve_neg real imag _neg_view lift_fresh lift_fresh_copy lift expand_as "
    "swapaxes rot90 unfold_backward select_backward slice_backward diagonal_backward "
    "slice_scatter select_scatter diagonal_scatter pixel_shuffle pixel_unshuffle "
    "channel_shuffle native_channel_shuffle im2col col2im view_copy permute_copy detach_copy "
    "_to_copy to _reshape_copy concat tile"
)
_SUMS = "sum mean neg cumsum trace nansum sum_to_size _fft_r2c _fft_c2r _fft_c2c positive"
_POOLS = (
    "avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d upsample_nearest1d "
    "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d "
    "upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa reflection_pad1d reflection_pad2d reflection_pad3d "
    "replication_pad1d replication_pad2d replication_pad3d"
)
# Linear where their indices, masks and grids stay.
_INDEXED = (
    "index gather index_select take embedding index_put scatter_add index_add _index_put_impl "
    "scatter_reduce where take_along_dim scatter embedding_dense_backward index_put_impl"
)
LINEAR = {
    getattr(aten, name)
    for name in f"{_SHAPES} {_SUMS} {_POOLS} {_INDEXED}".split()
    if hasattr(aten, name)
} - {aten.scatter_reduce}


def linear_rule(op: Any, alpha: float, args: tuple, kwargs: dict) -> Any:
    """Apply the operation to the bases and to the differences."""
    if any(_index_moves(v) for v in _pairs(args, kwargs)):
        return generic_difference(op, alpha, args, kwargs)
    base = op(*bases(args), **bases(kwargs))
    difference = op(*differences(args), **differences(kwargs))
    if isinstance(base, Tensor):
        return Pair(base, difference)
    return [Pair(b, d) for b, d in zip(base, difference, strict=True)]


def _pairs(args: tuple, kwargs: dict) -> list[Pair]:
    found = []
    for value in (*args, *kwargs.values()):
        if is_pair(value):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [v for v in value if is_pair(v)]
    return found


def _index_moves(pair: Pair) -> bool:
    base = pair.base
    return pair.difference is not None and not (base.is_floating_point() or base.is_complex())


def _register(op: Any) -> None:
    def rule(alpha: float, *args: Any, _op: Any = None, **kwargs: Any) -> Any:
        return linear_rule(_op, alpha, args, kwargs)

    operation(op).difference = rule


for _op in LINEAR:
    _register(_op)


def _reshaped() -> Callable[..., Pair]:
    """A view of what may be laid out otherwise in memory than it was when it was recorded."""

    def rule(alpha: float, x: Any, size: Any, *, _op: Any = None) -> Any:
        if not isinstance(size, list | tuple):  # another dtype
            return generic_difference(_op, alpha, (x, size), {})
        v = x.difference
        return Pair(x.base.reshape(size), None if v is None else v.reshape(size))

    return rule


exact(aten.view, aten._unsafe_view, aten.reshape)(_reshaped())


@exact(aten.constant_pad_nd)
def _constant_pad(alpha: float, x: Any, pad: Any, value: Any = 0, *, _op: Any = None) -> Any:
    # A constant border does not move, whatever its value.
    return Pair(_op(x.base, pad, value), _op(x.difference, pad, 0))


@exact(aten._to_copy)
def _converted(alpha: float, x: Any, *, _op: Any = None, **kwargs: Any) -> Any:
    base = _op(x.base, **kwargs)
    v = x.difference
    if base.is_floating_point() or base.is_complex():
        return Pair(base, None if v is None else v.to(base.dtype).to(base.device))
    return generic_difference(_op, alpha, (x,), kwargs)


@exact(aten.masked_fill)
def _masked_fill(alpha: float, x: Any, mask: Any, value: Any, *, _op: Any = None) -> Any:
    if mask.difference is not None:
        return generic_difference(_op, alpha, (x, mask, value), {})
    base = _op(x.base, mask.base, value.base if is_pair(value) else value)
    filled = value.difference if is_pair(value) else None
    v = torch.zeros_like(x.base) if x.difference is None else x.difference
    return Pair(base, v.masked_fill(mask.base, 0.0 if filled is None else filled))


@exact(aten.scatter)
def _scatter(
    alpha: float, x: Any, dim: int, index: Any, src: Any, *, _op: Any = None, **kwargs: Any
) -> Any:
    if kwargs or index.difference is not None:
        return generic_difference(_op, alpha, (x, dim, index, src), kwargs)
    constant = not is_pair(src)
    base = _op(x.base, dim, index.base, src if constant else src.base)
    v = torch.zeros_like(x.base) if x.difference is None else x.difference
    moved = 0.0 if constant else differences(src)
    return Pair(base, _op(v, dim, index.base, moved))


@exact(
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.empty_like,
    aten.new_zeros,
    aten.new_ones,
    aten.new_full,
    aten.new_empty,
)
def _constant(alpha: float, x: Any, *args: Any, _op: Any = None, **kwargs: Any) -> Pair:
    return Pair(_op(x.base, *bases(args), **kwargs))


@exact(aten._embedding_bag)
def _embedding_bag(
    alpha: float, weight: Any, indices: Any, offsets: Any, *how: Any, _op: Any = None
) -> Any:
    by_frequency, mode, *rest = (*how, *(False, 0)[len(how) :])
    base = _op(weight.base, indices.base, offsets.base, by_frequency, mode, *bases(rest))
    rows = [Pair(t) for t in base[1:]]
    per_sample = rest[1] if len(rest) > 1 else None
    if mode == 2:  # the largest of the bag
        if alpha == float("inf"):
            return [Pair(base[0], weight.difference.gather(0, base[3])), *rows]
        return generic_difference(_op, alpha, (weight, indices, offsets, *how), {})

    def bags(w: Tensor, *samples: Tensor) -> Tensor:
        given = (rest[0], *samples, *rest[2:]) if samples else rest
        return _op(w, indices.base, offsets.base, by_frequency, mode, *given)[0]

    factors = (weight,) if per_sample is None else (weight, per_sample)
    return [Pair(base[0], multilinear(bags, alpha, *factors).difference), *rows]
