"""Which contraction order a layer takes: a model of its cost in seconds, calibrated per device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["Problem", "Rates", "Shape", "calibrated", "cheapest", "seconds"]

_SIZES = (4, 16, 64, 256)
_RATES: dict[tuple, Rates] = {}


@dataclass(frozen=True)
class Rates:
    """Speeds of a device: multiply-adds a second by smallest dimension, elements a second."""

    products: tuple[float, ...]  # at the smallest dimensions 4, 16, 64, 256
    elements: float

    def product(self, count: float, smallest: int) -> float:
        """Seconds for ``count`` multiply-adds of a product with that smallest dimension."""
        position = math.log(min(max(smallest, _SIZES[0]), _SIZES[-1]) / _SIZES[0], 4)
        low = min(int(position), len(_SIZES) - 2)
        share = position - low
        rate = self.products[low] ** (1 - share) * self.products[low + 1] ** share
        return count / (rate * min(1.0, smallest / _SIZES[0]))


@dataclass(frozen=True)
class Shape:
    """Sizes of a layer: P positions, patches of K entries, C channels, o cotangents."""

    positions: int
    size: int
    channels: int
    cotangents: int
    rows: int = 1  # of the window that can be summed over after the products; 1 if none

    @property
    def gram_size(self) -> int:
        """Length of the rows whose products make the patch Gram matrix."""
        return self.size // self.rows


@dataclass(frozen=True)
class Problem:
    """How many inputs stand on either side, and which part of the kernel is wanted."""

    n1: int
    n2: int
    symmetric: bool
    full: bool
    groups: int = 1  # diagonal: one group an output; trace: one in all

    @property
    def pairs(self) -> float:
        """Pairs of inputs that are computed."""
        return self.n1 * (self.n1 + 1) / 2 if self.symmetric else self.n1 * self.n2

    @property
    def inputs(self) -> int:
        """Inputs whose factors are made."""
        return self.n1 if self.symmetric else self.n1 + self.n2


def seconds(
    order: str, s: Shape, problem: Problem, rates: Rates, *, one_hot: bool = False
) -> float:
    """Predicted time of a layer in an order (`tangent.kernel.engine.contractions`).

    ``one_hot`` patches are the rows of a table that were read: its gradients are sums, no products.
    """
    p, k, c, o = s.positions, s.size, s.channels, s.cotangents
    pairs = problem.pairs
    if order == "jacobian":
        rows = min(problem.n1, problem.n2) * (o if problem.full else 1)
        making = problem.inputs * o * c * (p + k) / rates.elements
        if not one_hot:
            making = rates.product(problem.inputs * o * p * c * k, min(p, k, o * c))
            making += problem.inputs * p * k / rates.elements
        products = pairs * o * c * k * (o if problem.full else 1)
        return making + rates.product(products, min(rows, 64))
    elements = p * p * (1 + 2 * (s.rows - 1))
    gram = pairs * p * p / rates.elements
    if not one_hot:
        gram = rates.product(pairs * p * p * s.gram_size, min(64, s.gram_size))
    if order == "half":
        first = rates.product(pairs * o * p * p * c, p)
        second = rates.product(pairs * o * o * p * c, o)
        return gram + pairs * elements / rates.elements + first + second
    if problem.full:
        elements += 6 * o * o * p * p  # read, scaled and added, out of the cache
        return (
            gram
            + pairs * elements / rates.elements
            + rates.product(pairs * o * o * p * p * c, min(c, 64))
        )
    elements += 2 * problem.groups * p * p
    inner = o * c // problem.groups
    return (
        gram
        + pairs * elements / rates.elements
        + rates.product(pairs * p * p * o * c, min(inner, 64))
    )


def cheapest(s: Shape, problem: Problem, rates: Rates, *, one_hot: bool = False) -> str:
    """Name of the order with the smallest predicted time."""
    orders = ["gram", "jacobian"] + (["half"] if problem.full else [])
    return min(orders, key=lambda order: seconds(order, s, problem, rates, one_hot=one_hot))


def calibrated(device: torch.device, dtype: torch.dtype) -> Rates:
    """Speeds of ``device`` in ``dtype``, measured once a process (some 0.1 s on a CPU core)."""
    key = (str(device), dtype, torch.get_num_threads())
    if key not in _RATES:
        big = 1 if device.type == "cpu" else 16
        products = []
        for size in _SIZES:
            b = torch.ones(8 * big, 640, size, device=device, dtype=dtype)
            a = torch.ones(8 * big, size, size, device=device, dtype=dtype)
            out = torch.empty(8 * big, 640, size, device=device, dtype=dtype)
            time_taken = _best(lambda b=b, a=a, out=out: torch.bmm(b, a, out=out), device)
            products.append(8 * big * 640 * size**2 / time_taken)
        x = torch.ones(2**20 * big, device=device, dtype=dtype)
        y = torch.ones_like(x)
        elements = x.numel() / _best(lambda: y.add_(x), device)
        # A larger dimension is never slower than a smaller one by more than noise.
        for i in range(1, len(products)):
            products[i] = max(products[i], products[i - 1])
        _RATES[key] = Rates(tuple(products), elements)
    return _RATES[key]


def _best(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return max(min(times[1:]), 1e-9)
