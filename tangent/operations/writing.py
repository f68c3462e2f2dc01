"""What writes in place leave behind, as operations of their own, and their difference rules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tangent.operations.registry import Pair
from tangent.operations.shape import linear_rule
from tangent.operations.table import exact, is_pair

__all__ = ["copied", "filled", "gathered", "scattered"]


def copied(target: Tensor, source: Tensor, *_: Any) -> Tensor:
    """What `Tensor.copy_` leaves in ``target``."""
    return source.to(target.dtype).expand(target.shape)


def filled(target: Tensor, value: Any = 0) -> Tensor:
    """What `Tensor.fill_` leaves in ``target``, and `Tensor.zero_`."""
    return copied(target, value) if isinstance(value, Tensor) else torch.full_like(target, value)


def gathered(root: Tensor, index: Tensor) -> Tensor:
    """Entries of ``root`` at flat positions."""
    return root.reshape(-1)[index]


def scattered(root: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """``root`` with other entries at flat positions."""
    flat = root.reshape(-1)
    new = flat.index_put((index.reshape(-1),), value.reshape(-1).to(flat.dtype))
    return new.reshape(root.shape)


@exact(copied)
def _copied(alpha: float, target: Any, source: Any, *_: Any, _op: Any = None) -> Pair:
    base = copied(target.base, source.base)
    v = source.difference
    if v is not None and (base.is_floating_point() or base.is_complex()):
        v = v.to(base.dtype)
    return Pair(base, None if v is None else v.expand_as(base))


@exact(filled)
def _filled(alpha: float, target: Any, value: Any = 0, *, _op: Any = None) -> Pair:
    if is_pair(value):
        return _copied(alpha, target, value)
    return Pair(filled(target.base, value))


@exact(gathered)
def _gathered(alpha: float, *args: Any, _op: Any = None) -> Pair:
    return linear_rule(gathered, alpha, args, {})


@exact(scattered)
def _scattered(alpha: float, *args: Any, _op: Any = None) -> Pair:
    return linear_rule(scattered, alpha, args, {})
