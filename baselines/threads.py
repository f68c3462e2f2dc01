"""Blocks of work on several threads, each computing on one core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def over_ranges(work: Callable[[int, int], None], total: int, block: int) -> None:
    """Call ``work(start, stop)`` on ranges of whole blocks that cover ``total``.

    There are as many ranges at a time as torch has threads, and each computes on one: products this
    small are slower on two cores than on one when torch splits every one of them. The number of
    threads is left as found.
    """
    count = min(torch.get_num_threads(), -(-total // block))
    if count <= 1:
        work(0, total)
        return
    n_blocks = -(-total // block)
    share = -(-n_blocks // count) * block
    starts = range(0, total, share)
    with (
        _threads(1),
        ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        for done in [pool.submit(work, s, min(s + share, total)) for s in starts]:
            done.result()
