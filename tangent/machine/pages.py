"""Large arrays in large pages: on a CPU, touching new memory can cost as much as filling it."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

_LARGE = 2**22  # bytes from which it matters


def fresh(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An array of undefined values; where the system has large pages, in those.

    Memory from the system comes page by page, and one of 4 KiB costs about as long as it takes to
    write it. Linux gives pages of 2 MiB to those who ask (its usual setting, ``madvise``).
    """
    size = dtype.itemsize
    for length in shape:
        size *= length
    if device.type != "cpu" or size < _LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(tuple(shape))


def keep_freed_memory(device: torch.device) -> None:
    """Let the C library keep what is freed, up to twice 32 MiB, for the next array.

    Its allocator (glibc's) asks the system for every array larger than the largest it has seen
    freed, up to 32 MiB, and gives back what is free beyond twice that: temporary arrays would be
    new pages each time. One array of that size, never touched, tells it.
    """
    if device.type == "cpu":
        torch.empty(2**25 - 2**16, dtype=torch.uint8)
