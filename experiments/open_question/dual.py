"""A, B and Gaussian kernels on all of CIFAR-10: blocks on disk, factored in float32, refined.

A block of a kernel, some thousand images by as many, is made once and written: whatever stops the
run, it goes on with the next block.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from experiments.open_question.frozen import frozen_for
from experiments.open_question.rows import one_hot
from experiments.open_question.stored import stored, work_folder
from experiments.open_question.summands import (
    LEFT_OUT,
    BlockedImages,
    Branch,
    Convolved,
    Gaussian,
    Summand,
)
from experiments.runs.results import Context, Outcome
from tangent.machine.bars import counted
from tangent.solve.cholesky import factor_upper, solve_transposed, solve_upper

_STEPS = 2  # of refinement


@dataclass
class _Kernel:
    """A sum of parts among the training images, in blocks on and below the diagonal."""

    parts: list[Summand]
    images: BlockedImages
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

    def _block(self, part: Summand, i: int, j: int) -> Float32[Tensor, "n m"]:
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
    """Solve the run's rows, each for the ridge of the best exact leave-one-out on some images."""
    start = time.process_time()
    made = frozen_for(run, train, scattering=any(row != "A" for row in run["rows"]))
    metrics: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    with work_folder(context, ".blocks", _name(run, train)) as folder:
        images = BlockedImages(made, train, folder, run["block"])
        known: dict[str, Summand] = {}
        for row in run["rows"]:
            parts = _summands(row, run, images, known)
            kernel = _Kernel(parts, images)
            kernel.make(context)
            solution = _solved(kernel, one_hot(y), run["ridges"], context, row)
            new = BlockedImages(made, test, folder / "test", run["block"])
            correct = _correct(kernel, solution, one_hot(y), new, y_test)
            context.log(f"{row}: test {100 * float(correct.double().mean()):.2f}")
            metrics |= {
                f"{row}: test accuracy": float(correct.double().mean()),
                f"{row}: left-out accuracy": solution.accuracy,
                f"{row}: ridge": solution.ridge,
                f"{row}: chosen": _chosen(row, run),
                f"{row}: condition number": None,
                f"{row}: features": _count(parts),
                f"{row}: cpu seconds": time.process_time() - start,
                f"{row}: residual": solution.residual,
            }
            arrays[f"correct {row}"] = correct.numpy()
    return Outcome(metrics, arrays=arrays)


_GAUSSIANS = {
    "patches, Gaussian": ("pooled",),
    "scattering, Gaussian": ("scattering",),
    "both Gaussians": ("pooled", "scattering"),
}


def _summands(
    row: str, run: dict[str, Any], images: BlockedImages, known: dict[str, Summand]
) -> list[Summand]:
    """The summands of a row's kernel; those that an earlier row had are the same."""
    makers: dict[str, Callable[[], Summand]] = {}
    for which in _GAUSSIANS.get(row, ()):
        width = run["widths"][which != "pooled"]
        makers[f"Gaussian {which}"] = lambda w=which, v=width: Gaussian(images, w, v)
    if row in ("A", "B"):
        size = run["channels"], run["width"], run["seed"]
        makers["convolution"] = lambda: Convolved(images, *size)
    for which in ("pooled", "scattering") if row == "B" else ():
        makers[which] = lambda w=which: Branch(images, w, run["units"], run["seed"])
    known |= {name: make() for name, make in makers.items() if name not in known}
    return [known[name] for name in makers]


def _count(parts: Sequence[Summand]) -> int | None:
    counts = [part.features for part in parts]
    return None if None in counts else sum(count or 0 for count in counts)


def _chosen(row: str, run: dict[str, Any]) -> str:
    if row in ("A", "B"):
        return f"{run['channels']} channels"
    widths = dict(zip(("pooled", "scattering"), run["widths"], strict=True))
    return "width " + " and ".join(str(widths[which]) for which in _GAUSSIANS[row])


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
            "--dual-ridges (of Gaussian kernels --dual-gaussian-ridges)"
        ) from error
    n, some = len(y), min(LEFT_OUT, len(y))
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
    kernel: _Kernel, solution: _Solution, y: Tensor, new: BlockedImages, y_test: Tensor
) -> Tensor:
    """Which new images are right; part by part, so that one part's blocks are held at a time."""
    new.folder.mkdir(exist_ok=True)
    images = kernel.images
    duals = [solution.dual[images.rows(j)].float() for j in range(len(images.starts))]
    scores = y.mean(0) - kernel.means @ solution.dual
    for part in counted(kernel.parts, "part of the kernel of test images"):
        scores = scores + part.scores(duals, new).double()
    return scores.argmax(1) == y_test


def _name(run: dict[str, Any], train: Tensor) -> str:
    """What the blocks are of: the run but for its rows and ridges, and its images."""
    of = {key: value for key, value in run.items() if key not in ("rows", "ridges")}
    digest = hashlib.sha256(repr(sorted(of.items())).encode())
    digest.update(np.ascontiguousarray(train.numpy()).data)
    return digest.hexdigest()[:16]
