"""Independent pieces of work on several threads, each computing on one core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["side_by_side"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def side_by_side(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Return ``work(item)`` of every item, in order, as many at a time as torch has threads.

    Each computes on one thread: many small products are faster one a core than each of them
    split over the cores. The number of threads is left as found.
    """
    threads = torch.get_num_threads()
    count = min(threads, len(items))
    if count <= 1:
        return [work(item) for item in items]
    try:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)
