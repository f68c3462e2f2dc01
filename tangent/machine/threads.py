"""Independent pieces of work on several threads, each computing on one core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import threadpoolctl
import torch

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _OneBlasThread:
    """Context in which NumPy's BLAS computes on one thread, as long as anybody is in it.

    Looking for the libraries takes milliseconds, hence once; the count, since of two threads that
    save and restore a number by themselves one may restore what the other had set.
    """

    def __init__(self) -> None:
        self._lock, self._users = Lock(), 0
        self._controller: threadpoolctl.ThreadpoolController | None = None
        self._limit: threadpoolctl.threadpool_limits | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._controller = self._controller or threadpoolctl.ThreadpoolController()
                self._limit = self._controller.limit(limits=1, user_api="blas")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._limit is not None:
                self._limit.restore_original_limits()


_one_blas_thread = _OneBlasThread()


@contextmanager
def _pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that compute on one core each; torch's number of threads is left as found."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def side_by_side(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Return ``work(item)`` of every item, in order, as many at a time as torch has threads.

    Each computes on one thread: many small products are faster one a core than each of them
    split over the cores. The number of threads is left as found.
    """
    count = min(torch.get_num_threads(), len(items))
    if count <= 1:
        return [work(item) for item in items]
    with _pool(count) as pool:
        return list(pool.map(work, items))


def over_ranges(work: Callable[[int, int], None], total: int, block: int) -> None:
    """Call ``work(start, stop)`` on ranges of whole blocks that cover ``total``.

    There are as many ranges at a time as torch has threads, and each computes on one: products this
    small are slower on two cores than on one when every one of them is split. The numbers of
    threads, torch's and that of NumPy's BLAS, are left as found.
    """
    count = min(torch.get_num_threads(), -(-total // block))
    if count <= 1:
        with _one_blas_thread:
            work(0, total)
        return
    n_blocks = -(-total // block)
    share = -(-n_blocks // count) * block
    starts = range(0, total, share)
    with _one_blas_thread, _pool(count) as pool:
        for done in [pool.submit(work, s, min(s + share, total)) for s in starts]:
            done.result()
