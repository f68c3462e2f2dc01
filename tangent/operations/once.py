"""What is found out once for all calls alike: whether torch differentiates an operation rightly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Once", "kind_of", "mixture"]

T = TypeVar("T")
_KEPT = 4_096


class Once(Generic[T]):
    """Findings by what they may depend on; when there are too many, they are made again."""

    def __init__(self) -> None:
        self.known: dict[Any, T] = {}

    def of(self, key: Any, find: Callable[[], T]) -> T:
        """What was found, or is found now."""
        if key not in self.known:
            if len(self.known) >= _KEPT:
                self.known.clear()
            self.known[key] = find()
        return self.known[key]


def kind_of(argument: Any) -> Any:
    """What an argument is, its entries apart."""
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.dtype, argument.device
    return repr(argument)


def mixture(like: Tensor) -> Tensor:
    """Entries of all sizes and both signs, to try a derivative with."""
    entries = torch.cos(torch.arange(like.numel(), device=like.device) + 1.0)
    return entries.reshape(like.shape).to(like.dtype)
