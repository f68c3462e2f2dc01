"""Blocks of the kernel: which there are, in which order, and the factors each of them needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tangent.kernel.engine.passes import Factors, factors_of
from tangent.kernel.engine.plan import Plan
from tangent.solve.system import available_bytes

__all__ = [
    "Block",
    "FactorCache",
    "Reporter",
    "block_list",
    "default_budget",
    "fitting_size",
    "place",
]


@dataclass(frozen=True)
class Block:
    """Rows ``start1:stop1`` and columns ``start2:stop2`` of the inputs."""

    start1: int
    stop1: int
    start2: int
    stop2: int

    @property
    def diagonal(self) -> bool:
        """Whether both sides are the same inputs (of a symmetric kernel)."""
        return (self.start1, self.stop1) == (self.start2, self.stop2)

    @property
    def pairs(self) -> int:
        """Pairs of inputs in it."""
        return (self.stop1 - self.start1) * (self.stop2 - self.start2)

    def __str__(self) -> str:
        return f"{self.start1}:{self.stop1},{self.start2}:{self.stop2}"


def block_list(n1: int, n2: int, size: int, symmetric: bool) -> list[Block]:
    """Blocks that cover the kernel, row by row; those on and below the diagonal if symmetric.

    Consecutive blocks share a side: columns run backwards in every other row.
    """
    blocks = []
    for row, start1 in enumerate(range(0, n1, size)):
        stop1 = min(n1, start1 + size)
        columns = list(range(0, stop1 if symmetric else n2, size))
        for start2 in reversed(columns) if row % 2 else columns:
            blocks.append(Block(start1, stop1, start2, min(n2, start2 + size)))
    return blocks


def default_budget(device: torch.device) -> int:
    """Half of the memory that is free on ``device``, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return int(available_bytes() // 2)


def fitting_size(plan: Plan, one: Factors, n1: int, n2: int, budget: int) -> int:
    """Inputs a block may have on a side so that the factors of both keep to the budget.

    ``one`` are the factors of one input.

    Raises
    ------
    ValueError
        If not even one pair of inputs fits.
    """
    # The factors of an input, and what the widest layer takes besides.
    each = sum(f.bytes for f in one.values()) + max(f.working_bytes for f in one.values())
    # Besides factors: slices of gradients, buffers, and the backward pass of one batch.
    free = budget - 4 * plan.working
    both = n1 if plan.problem.symmetric else n1 + n2
    if both * each <= free:
        return max(n1, n2)
    size = free // (2 * each)
    if size < 1:
        least = 2 * each + 4 * plan.working
        raise ValueError(
            f"memory_budget must be at least {least} bytes for this network; got {budget}"
        )
    return size


def place(total: Any, block: Block, part: Any, full: bool, symmetric: bool) -> None:
    """Write a block where it belongs, and its transpose where the kernel is symmetric.

    ``total`` and ``part`` are tensors or arrays of shape (n1, o, n2, o) where ``full``, else
    (groups, n1, n2).
    """
    rows, columns = slice(block.start1, block.stop1), slice(block.start2, block.stop2)
    if full:
        total[rows, :, columns] = part
    else:
        total[..., rows, columns] = part
    if symmetric and not block.diagonal:
        if full:
            total[columns, :, rows] = _swapped(part, (2, 3, 0, 1))
        else:
            total[..., columns, rows] = _swapped(part, (0, 2, 1))


def _swapped(part: Any, order: tuple[int, ...]) -> Any:
    return part.permute(order) if isinstance(part, Tensor) else part.transpose(order)


class FactorCache:
    """Factors of slices of two sets of inputs; the last ones on each side are kept.

    ``first`` are those of the first inputs of ``x1``, where they are known.
    """

    def __init__(self, plan: Plan, x1: Tensor, x2: Tensor | None, first: Factors | None = None):
        self.plan = plan
        self.inputs = (x1, x2)
        self.kept: dict[tuple[int, int, int], Factors] = {}
        if first is not None:
            self.kept[0, 0, next(iter(first.values())).inputs] = first

    def pair(self, block: Block) -> tuple[Factors, Factors | None]:
        """Left and right factors of a block; no right ones on the diagonal."""
        symmetric = self.inputs[1] is None
        wanted = [(0, block.start1, block.stop1)]
        if not (symmetric and block.diagonal):
            wanted.append((0 if symmetric else 1, block.start2, block.stop2))
        self.kept = {key: factors for key, factors in self.kept.items() if key in wanted}
        for key in wanted:
            if key not in self.kept:
                side, start, stop = key
                x = self.inputs[side]
                assert x is not None
                self.kept[key] = factors_of(self.plan, x[start:stop])
        return self.kept[wanted[0]], self.kept[wanted[1]] if len(wanted) > 1 else None


class Reporter:
    """Counts the pairs that are done: into a bar with the time left, or a callable."""

    def __init__(self, progress: bool | Callable[[int, int], Any], total: int):
        self.progress, self.total, self.done = progress, total, 0
        self.bar = None
        if progress is True:
            self.bar = tqdm(total=total, unit="pair", unit_scale=True, disable=None)

    def add(self, pairs: int) -> None:
        """Report that ``pairs`` more are done."""
        self.done += pairs
        if self.bar is not None:
            self.bar.update(pairs)
        elif callable(self.progress):
            self.progress(self.done, self.total)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
