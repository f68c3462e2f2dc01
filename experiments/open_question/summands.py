"""Summands of kernels among all of CIFAR-10, in blocks of images whose representations lie on disk.

A has more tangent features than there are images, so that the kernel among the images is the
smaller system; Gaussian kernels have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.open_question.frozen import Frozen, Views
from experiments.open_question.rows import Convolution, dense_layers
from experiments.open_question.stored import stored
from tangent.machine.products import product
from tangent.nets.shares import dense_sides, shares_of_sides

LEFT_OUT = 2_000  # training images that scales are measured on, and a ridge is chosen by
_SHARES = (1.0, 0.25)  # of the convolution and of the linear layer behind it
_BRANCH = 0.3


@dataclass
class BlockedImages:
    """Frozen representations of the training images, in blocks that are made once."""

    made: Frozen
    images: Tensor
    folder: Path
    size: int

    @property
    def starts(self) -> range:
        """The first image of every block."""
        return range(0, len(self.images), self.size)

    def rows(self, block: int) -> slice:
        """The images of a block."""
        return slice(self.starts[block], min(self.starts[block] + self.size, len(self.images)))

    def read(self, block: int, which: str) -> Float[Tensor, "views n ..."]:
        """One of the representations of a block."""
        path = self.folder / f"{which}-{block}.npy"
        if not path.exists():
            views = self.made.views(self.images[self.rows(block)])
            for name in ("maps", "pooled", "scattering"):
                value = getattr(views, name)
                if value is not None:
                    stored(self.folder / f"{name}-{block}.npy", lambda v=value: v)
        return stored(path, lambda: getattr(self.made.views(self.images[self.rows(block)]), which))

    def first(self, which: str) -> Float[Tensor, "views n ..."]:
        """A representation of the first images, which scales are measured on."""
        blocks = -(-min(LEFT_OUT, len(self.images)) // self.size)
        parts = [self.read(block, which) for block in range(blocks)]
        return torch.cat(parts, dim=1)[:, :LEFT_OUT]


class Summand(Protocol):
    """A kernel that others are added to."""

    name: str

    @property
    def features(self) -> int | None:
        """Tangent features; none of a Gaussian kernel."""
        ...

    def block(self, i: int, j: int) -> Float[Tensor, "n m"]:
        """The kernel of two blocks of training images."""
        ...

    def scores(self, duals: Sequence[Tensor], new: BlockedImages) -> Float[Tensor, "m k"]:
        """The kernel of new images with all training images, times dual coefficients."""
        ...


class Convolved:
    """Both layers of A behind its frozen ones, by explicit tangent features."""

    name = "convolution"

    def __init__(self, images: BlockedImages, channels: int, width: int, seed: int):
        self.images = images
        self.layers = Convolution(Views(images.first("maps")), channels, width, seed)
        self.scales = self.layers.scales(_SHARES)
        self.rows = lru_cache(maxsize=2)(self._rows)

    @property
    def features(self) -> int:
        """Tangent features."""
        return self.layers.n_features

    def _rows(self, block: int) -> Float[Tensor, "n p"]:
        return self.layers.scaled(Views(self.images.read(block, "maps")), self.scales)

    def block(self, i: int, j: int) -> Float[Tensor, "n m"]:
        """The kernel of two blocks of training images."""
        return self.rows(i) @ self.rows(j).T

    def scores(self, duals: Sequence[Tensor], new: BlockedImages) -> Float[Tensor, "m k"]:
        """The kernel of new images with all training images, times dual coefficients."""
        weight = sum(self.rows(j).T @ dual for j, dual in enumerate(duals))
        self.rows.cache_clear()
        blocks = (Views(new.read(b, "maps")) for b in range(len(new.starts)))
        return torch.cat([self.layers.scaled(views, self.scales) @ weight for views in blocks])


class Branch:
    """A linearized two-layer network on pooled patches or on scattering."""

    def __init__(self, images: BlockedImages, which: str, units: int, seed: int):
        self.images, self.name = images, which
        first = images.first(which)
        self.mean, self.deviation = _statistics(
            len(images.starts), lambda block: images.read(block, which).flatten(0, 1)
        )
        self.hidden, self.head = dense_layers(first.shape[2], units, seed)
        self._sides: dict[int, tuple[Tensor, Tensor]] = {}
        self.scale = 1.0
        some = dense_sides(self.hidden, self.head, self.standardized(first))
        self.scale = _BRANCH / _centred_diagonal(self._kernel(some, None))
        self.rows = lru_cache(maxsize=2)(self._rows)

    @property
    def features(self) -> int:
        """Tangent features."""
        return sum(p.numel() for layer in (self.hidden, self.head) for p in layer.parameters())

    def standardized(self, rows: Tensor) -> Tensor:
        """Features of every view, standardized."""
        return (rows - self.mean) / self.deviation

    def _rows(self, block: int) -> Tensor:
        return self.standardized(self.images.read(block, self.name))

    def sides(self, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the kernel needs of a block; what takes a product is kept."""
        rows = self.rows(block)
        if block not in self._sides:
            self._sides[block] = dense_sides(self.hidden, self.head, rows)[1:]
        return rows, *self._sides[block]

    def _kernel(self, left: tuple, right: tuple | None) -> Tensor:
        first, last = shares_of_sides(self.hidden, self.head, left, right)
        return first.add_(last).mul_(self.scale)

    def block(self, i: int, j: int) -> Float[Tensor, "n m"]:
        """The kernel of two blocks of training images."""
        return self._kernel(self.sides(i), None if i == j else self.sides(j))

    def scores(self, duals: Sequence[Tensor], new: BlockedImages) -> Float[Tensor, "m k"]:
        """The kernel of new images with all training images, times dual coefficients."""
        found = []
        for b in range(len(new.starts)):
            rows = self.standardized(new.read(b, self.name))
            sides = dense_sides(self.hidden, self.head, rows)
            parts = [self._kernel(sides, self.sides(j)) @ d for j, d in enumerate(duals)]
            found.append(torch.stack(parts).sum(0))
        self.rows.cache_clear()
        return torch.cat(found)


class Gaussian:
    """exp(-|x - x'|^2 / (2 width^2 p)) on features averaged over the views, standardized.

    It is divided by its mean centred diagonal on the first images.
    """

    features = None

    def __init__(self, images: BlockedImages, which: str, width: float):
        self.images, self.which, self.name = images, which, f"gaussian-{which}-{width!r}"
        self.mean, self.deviation = _statistics(
            len(images.starts), lambda block: images.read(block, which).mean(0)
        )
        self.gamma = 1 / (2 * width**2 * len(self.mean))
        self.scale = 1.0
        some = self._standardized(images.first(which))
        self.scale = 1 / _centred_diagonal(self._kernel(some, some))
        self.rows = lru_cache(maxsize=2)(self._rows)

    def _rows(self, block: int) -> Float[Tensor, "n p"]:
        return self._standardized(self.images.read(block, self.which))

    def _standardized(self, views: Float[Tensor, "views n p"]) -> Float[Tensor, "n p"]:
        return (views.mean(0) - self.mean) / self.deviation

    def _kernel(self, left: Tensor, right: Tensor) -> Float[Tensor, "n m"]:
        distances = product(left, right).mul_(-2)
        distances.add_(left.square().sum(1)[:, None]).add_(right.square().sum(1)).clamp_min_(0)
        return distances.mul_(-self.gamma).exp_().mul_(self.scale)

    def block(self, i: int, j: int) -> Float[Tensor, "n m"]:
        """The kernel of two blocks of training images."""
        return self._kernel(self.rows(i), self.rows(j))

    def scores(self, duals: Sequence[Tensor], new: BlockedImages) -> Float[Tensor, "m k"]:
        """The kernel of new images with all training images, times dual coefficients."""
        fresh = [self._standardized(new.read(b, self.which)) for b in range(len(new.starts))]
        totals = [torch.zeros(())] * len(fresh)
        for j, dual in enumerate(duals):
            totals = [
                total + self._kernel(rows, self.rows(j)) @ dual
                for total, rows in zip(totals, fresh, strict=True)
            ]
        self.rows.cache_clear()
        return torch.cat(totals)


def _centred_diagonal(kernel: Float[Tensor, "n n"]) -> float:
    """Its mean."""
    return float(kernel.diagonal().double().mean()) - float(kernel.double().mean())


def _statistics(
    blocks: int, rows: Callable[[int], Float[Tensor, "n p"]]
) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """Mean and deviation of every feature over all rows of all blocks, in float64 sums."""
    shift = rows(0)[0]
    n, total, squares = 0, torch.zeros(len(shift)).double(), torch.zeros(len(shift)).double()
    for block in range(blocks):
        for some in (rows(block) - shift).split(1_000):
            away = some.double()
            n += len(away)
            total += away.sum(0)
            squares += away.square().sum(0)
    mean = total / n
    deviation = ((squares - n * mean.square()).clamp_min(0) / (n - 1)).sqrt()
    mean = (mean + shift).float()
    return mean, torch.where(deviation > 1e-6 * (1 + mean.abs()), deviation, 1.0).float()
