"""A and B on all of CIFAR-10: their kernels block by block on disk, factored in float32, refined.

A has more tangent features than there are images, so that the kernel among the images is the
smaller system. A block of it, some thousand images by as many, is made once and written: whatever
stops the run, it goes on with the next block.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from experiments.open_question.frozen import Frozen, Views, frozen_for
from experiments.open_question.rows import Convolution, dense_layers, one_hot
from experiments.open_question.stored import stored, work_folder
from experiments.runs.results import Context, Outcome
from tangent.machine.bars import counted
from tangent.nets.shares import dense_sides, shares_of_sides
from tangent.solve.cholesky import factor_upper, solve_transposed, solve_upper

_LEFT_OUT = 2_000  # training images left out, one at a time, to choose the ridge; scales are theirs
_STEPS = 2  # of refinement
_SHARES = (1.0, 0.25)  # of the convolution and of the linear layer behind it
_BRANCH = 0.3


@dataclass
class _Images:
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
        blocks = -(-min(_LEFT_OUT, len(self.images)) // self.size)
        parts = [self.read(block, which) for block in range(blocks)]
        return torch.cat(parts, dim=1)[:, :_LEFT_OUT]


class _Part(Protocol):
    """A summand of the kernel."""

    name: str

    def block(self, i: int, j: int) -> Float[Tensor, "n m"]:
        """The kernel of two blocks of training images."""
        ...

    def scores(self, duals: Sequence[Tensor], new: _Images) -> Float[Tensor, "m k"]:
        """The kernel of new images with all training images, times dual coefficients."""
        ...


class _Convolved:
    """Both layers of A behind its frozen ones, by explicit tangent features."""

    name = "convolution"

    def __init__(self, images: _Images, channels: int, width: int, seed: int):
        self.images = images
        self.layers = Convolution(Views(images.first("maps")), channels, width, seed)
        self.scales = self.layers.scales(_SHARES)
        self.features = lru_cache(maxsize=2)(self._features)

    def _features(self, block: int) -> Float[Tensor, "n p"]:
        return self.layers.scaled(Views(self.images.read(block, "maps")), self.scales)

    def block(self, i: int, j: int) -> Float[Tensor, "n m"]:
        """The kernel of two blocks of training images."""
        return self.features(i) @ self.features(j).T

    def scores(self, duals: Sequence[Tensor], new: _Images) -> Float[Tensor, "m k"]:
        """The kernel of new images with all training images, times dual coefficients."""
        weight = sum(self.features(j).T @ dual for j, dual in enumerate(duals))
        self.features.cache_clear()
        blocks = (Views(new.read(b, "maps")) for b in range(len(new.starts)))
        return torch.cat([self.layers.scaled(views, self.scales) @ weight for views in blocks])


class _Branch:
    """A linearized two-layer network on pooled patches or on scattering."""

    def __init__(self, images: _Images, which: str, units: int, seed: int):
        self.images, self.name = images, which
        first = images.first(which)
        p = first.shape[2]
        self.mean, self.deviation = self._statistics(p)
        self.hidden, self.head = dense_layers(p, units, seed)
        self._sides: dict[int, tuple[Tensor, Tensor]] = {}
        self.scale = 1.0
        some = dense_sides(self.hidden, self.head, self.standardized(first))
        kernel = self._kernel(some, None)
        centred = float(kernel.diagonal().double().mean()) - float(kernel.double().mean())
        self.scale = _BRANCH / centred
        self.rows = lru_cache(maxsize=2)(self._rows)

    def _statistics(self, p: int) -> tuple[Tensor, Tensor]:
        """Mean and deviation of every feature over images and views, in float64 sums."""
        n, total, squares = 0, torch.zeros(p).double(), torch.zeros(p).double()
        shift = self.images.read(0, self.name)[0, 0]
        for j in range(len(self.images.starts)):
            for some in (self.images.read(j, self.name).flatten(0, 1) - shift).split(1_000):
                away = some.double()
                n += len(away)
                total += away.sum(0)
                squares += away.square().sum(0)
        mean = total / n
        deviation = ((squares - n * mean.square()).clamp_min(0) / (n - 1)).sqrt()
        mean = (mean + shift).float()
        return mean, torch.where(deviation > 1e-6 * (1 + mean.abs()), deviation, 1.0).float()

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

    def scores(self, duals: Sequence[Tensor], new: _Images) -> Float[Tensor, "m k"]:
        """The kernel of new images with all training images, times dual coefficients."""
        found = []
        for b in range(len(new.starts)):
            rows = self.standardized(new.read(b, self.name))
            sides = dense_sides(self.hidden, self.head, rows)
            parts = [self._kernel(sides, self.sides(j)) @ d for j, d in enumerate(duals)]
            found.append(torch.stack(parts).sum(0))
        self.rows.cache_clear()
        return torch.cat(found)


@dataclass
class _Kernel:
    """A sum of parts among the training images, in blocks on and below the diagonal."""

    parts: list[_Part]
    images: _Images
    means: Float64[Tensor, " n"] = field(init=False)

    def make(self, context: Context) -> None:
        """Make all blocks that are not there, part by part, and the means of the rows."""
        blocks = len(self.images.starts)
        for part in self.parts:
            for i in range(blocks):
                for j in counted(range(i + 1), f"block of {part.name}, row {i + 1} of {blocks}"):
                    self._block(part, i, j)
                context.log(f"kernel of {part.name}: {i + 1} of {blocks} rows of blocks")
        self.means = self.times(torch.ones(len(self.images.images), 1).double())[:, 0]
        self.means /= len(self.means)

    def _block(self, part: _Part, i: int, j: int) -> Float32[Tensor, "n m"]:
        path = self.images.folder / f"kernel-{part.name}-{i}-{j}.npy"
        return stored(path, lambda: part.block(i, j))

    def blocks(self) -> Any:
        """Every (rows, columns, block) on and below the diagonal."""
        for i in range(len(self.images.starts)):
            for j in range(i + 1):
                total = sum(self._block(part, i, j) for part in self.parts)
                yield self.images.rows(i), self.images.rows(j), total

    def times(self, v: Float64[Tensor, "n k"]) -> Float64[Tensor, "n k"]:
        """The product with ``v``, in float64."""
        out = torch.zeros_like(v)
        for rows, columns, block in self.blocks():
            wide = block.double()
            out[rows] += wide @ v[columns]
            if rows != columns:
                out[columns] += wide.T @ v[rows]
        return out

    def centred(self, ridge: float) -> Float32[Tensor, "n n"]:
        """The centred kernel plus the ridge, on and above the diagonal."""
        n = len(self.images.images)
        upper = torch.empty(n, n)
        away, grand = self.means, self.means.mean()
        for rows, columns, block in self.blocks():
            shift = (away[rows, None] + away[columns] - grand).float()
            upper[columns, rows] = (block - shift).T
        upper.diagonal().add_(ridge)
        return upper


@dataclass(frozen=True)
class _Solution:
    """Dual coefficients at a ridge, and what was left out to choose it."""

    ridge: float
    dual: Float64[Tensor, "n k"]
    accuracy: float
    residual: float


def dual(
    run: dict[str, Any], context: Context, train: Tensor, y: Tensor, test: Tensor, y_test: Tensor
) -> Outcome:
    """Solve A, then B, each for the ridge of the best exact leave-one-out on the first images."""
    start = time.process_time()
    made = frozen_for(run, train, scattering="B" in run["rows"])
    metrics: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    with work_folder(context, ".blocks", _name(run, train)) as folder:
        images = _Images(made, train, folder, run["block"])
        parts: list[_Part] = [_Convolved(images, run["channels"], run["width"], run["seed"])]
        for row in run["rows"]:
            if row == "B":
                parts += [
                    _Branch(images, which, run["units"], run["seed"])
                    for which in ("pooled", "scattering")
                ]
            kernel = _Kernel(parts, images)
            kernel.make(context)
            solution = _solved(kernel, one_hot(y), run["ridges"], context, row)
            new = _Images(made, test, folder / "test", run["block"])
            correct = _correct(kernel, solution, one_hot(y), new, y_test)
            context.log(f"{row}: test {100 * float(correct.double().mean()):.2f}")
            metrics |= {
                f"{row}: test accuracy": float(correct.double().mean()),
                f"{row}: left-out accuracy": solution.accuracy,
                f"{row}: ridge": solution.ridge,
                f"{row}: chosen": f"{run['channels']} channels",
                f"{row}: condition number": None,
                f"{row}: features": sum(_count(part) for part in parts),
                f"{row}: cpu seconds": time.process_time() - start,
                f"{row}: residual": solution.residual,
            }
            arrays[f"correct {row}"] = correct.numpy()
    return Outcome(metrics, arrays=arrays)


def _solved(
    kernel: _Kernel, y: Tensor, ridges: Sequence[float], context: Context, row: str
) -> _Solution:
    """The best of several ridges, largest first; they end where a smaller one is worse."""
    best: _Solution | None = None
    for ridge in sorted(ridges, reverse=True):
        found = _stored_solution(kernel, y, ridge, row)
        context.log(
            f"{row}, ridge {ridge}: leave-one-out {100 * found.accuracy:.2f}, residual "
            f"{found.residual:.1e}"
        )
        if best is not None and found.accuracy <= best.accuracy:
            break
        best = found
    assert best is not None
    return best


def _stored_solution(kernel: _Kernel, y: Tensor, ridge: float, row: str) -> _Solution:
    """The solution at a ridge, made once: its file has the accuracy and residual in a last row."""

    def made() -> Tensor:
        found = _at(kernel, y, ridge)
        last = torch.zeros(1, y.shape[1]).double()
        last[0, :2] = torch.tensor([found.accuracy, found.residual])
        return torch.cat([found.dual, last])

    whole = stored(kernel.images.folder / f"solution-{row}-{ridge!r}.npy", made)
    accuracy, residual = whole[-1, :2].tolist()
    return _Solution(ridge, whole[:-1], accuracy, residual)


def _at(kernel: _Kernel, y: Float64[Tensor, "n k"], ridge: float) -> _Solution:
    upper = kernel.centred(ridge)
    try:
        factor_upper(upper)
    except np.linalg.LinAlgError as error:
        raise ArithmeticError(
            f"the kernel plus the ridge {ridge} is not positive definite in float32; take larger "
            "--dual-ridges"
        ) from error
    n, some = len(y), min(_LEFT_OUT, len(y))
    away = y - y.mean(0)
    coefficients = torch.zeros_like(y)
    residual = away
    for _ in range(_STEPS + 1):
        size = residual.norm()
        right = (residual / size).float()
        coefficients += solve_upper(upper, solve_transposed(upper, right)).double() * size
        coefficients -= coefficients.mean(0)
        product = kernel.times(coefficients)
        residual = away - (product - product.mean(0)) - ridge * coefficients
    half = solve_transposed(upper, torch.eye(n, some))
    inverse = half.double().square().sum(0)
    left_out = y[:some] - coefficients[:some] / (inverse - 1 / (n * ridge))[:, None]
    right_ones = left_out.argmax(1) == y[:some].argmax(1)
    accuracy = float(right_ones.double().mean())
    return _Solution(ridge, coefficients, accuracy, float(residual.norm() / away.norm()))


@torch.no_grad()
def _correct(
    kernel: _Kernel, solution: _Solution, y: Tensor, new: _Images, y_test: Tensor
) -> Tensor:
    """Which new images are right; part by part, so that one part's blocks are held at a time."""
    new.folder.mkdir(exist_ok=True)
    images = kernel.images
    duals = [solution.dual[images.rows(j)].float() for j in range(len(images.starts))]
    scores = y.mean(0) - kernel.means @ solution.dual
    for part in counted(kernel.parts, "part of the kernel of test images"):
        scores = scores + part.scores(duals, new).double()
    return scores.argmax(1) == y_test


def _count(part: Any) -> int:
    branch = isinstance(part, _Branch)
    layers = (part.hidden, part.head) if branch else (part.layers.conv, part.layers.head)
    return sum(p.numel() for layer in layers for p in layer.parameters())


def _name(run: dict[str, Any], train: Tensor) -> str:
    """What the blocks are of: the run but for its rows and ridges, and its images."""
    of = {key: value for key, value in run.items() if key not in ("rows", "ridges")}
    digest = hashlib.sha256(repr(sorted(of.items())).encode())
    digest.update(np.ascontiguousarray(train.numpy()).data)
    return digest.hexdigest()[:16]
