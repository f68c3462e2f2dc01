"""A on all of CIFAR-10: explicit tangent features, streamed into their normal equations."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.open_question.frozen import Frozen, Views, frozen
from experiments.open_question.rows import Convolution
from experiments.open_question.stored import stored
from experiments.runs.results import Context, Outcome
from tangent.machine.bars import counted
from tangent.solve.normal_equations import NormalEquations, NormalSolution

__all__ = ["primal"]

_BLOCK = 500  # images at once
_SAVED = 10_000  # images after which the moments are written
_LEFT_OUT = 2_000  # training images that are left out, one at a time, to choose the ridge
_STEPS = 2  # of refinement


@dataclass
class _Features:
    """Scaled tangent features of images, block by block, from stored maps."""

    made: Frozen
    images: Tensor
    convolution: Convolution
    scales: tuple[float, float]
    folder: Path

    def block(self, start: int) -> Float[Tensor, "b p"]:
        """Features of the images from ``start`` on."""
        maps = stored(self.folder / f"maps-{start}.npy", lambda: self._maps(start))
        nothing = maps.new_zeros(len(maps), maps.shape[1], 0)
        hidden, last = self.convolution.features(Views(maps, nothing, None))
        return torch.cat([hidden * self.scales[0], last * self.scales[1]], dim=1)

    def _maps(self, start: int) -> Tensor:
        return self.made.views(self.images[start : start + _BLOCK]).maps

    def blocks(self, y: Tensor, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """All blocks of features and targets from an image on."""
        for first in counted(range(start, len(y), _BLOCK), "block of images"):
            yield self.block(first), y[first : first + _BLOCK]


def primal(
    run: dict[str, Any], context: Context, train: Tensor, y: Tensor, test: Tensor, y_test: Tensor
) -> Outcome:
    """Solve A by its normal equations; the ridge is taken by leaving out some images exactly."""
    start = time.process_time()
    targets = torch.nn.functional.one_hot(y, int(y.max()) + 1).float()
    channels = run["channels"]
    made = frozen(
        train,
        filters=run["filters"],
        channels=channels,
        mirror=run["mirror"],
        scattering=False,
        seed=run["seed"],
    )
    temporary = None
    if context.checkpoint is None:
        temporary = tempfile.TemporaryDirectory()
        folder = Path(temporary.name)
    else:
        folder = context.checkpoint.with_suffix(".moments")
    folder.mkdir(parents=True, exist_ok=True)
    some = Convolution(made.views(train[:_LEFT_OUT]), channels, run["width"], run["seed"])
    scales, p = _scales(some), some.n_features
    features = _Features(made, train, some, scales, folder)
    of = _name(run, train, y)
    _accumulate(folder, p, features, targets, of, context)
    ridge, accuracies = _ridge(run, folder, p, features, targets, of, context)
    solution = _solved(folder, p, features, targets, of, ridge, _STEPS)
    correct = _correct(features, solution, test, y_test)
    shutil.rmtree(folder, ignore_errors=True)
    if temporary is not None:
        temporary.cleanup()
    return Outcome(
        {
            "A: test accuracy": float(correct.double().mean()),
            "A: left-out accuracy": accuracies[ridge],
            "A: ridge": ridge,
            "A: chosen": f"{channels} channels",
            "A: condition number": None,
            "A: features": p,
            "A: cpu seconds": time.process_time() - start,
            "normal_residual": solution.residual,
        },
        arrays={"correct A": correct.numpy()},
    )


def _scales(convolution: Convolution) -> tuple[float, float]:
    """Factors that give the shares their mean centred squared norms, 1 and 1/4."""
    hidden, last = (
        (share / float((f - f.mean(0)).square().sum() / len(f))) ** 0.5
        for f, share in zip(convolution.features(convolution.train), (1.0, 0.25), strict=True)
    )
    return hidden, last


def _name(run: dict[str, Any], train: Tensor, y: Tensor) -> str:
    """What the moments are of: the run, its images and its labels."""
    digest = hashlib.sha256(repr(sorted(run.items())).encode())
    digest.update(np.ascontiguousarray(train.numpy()).data)
    digest.update(np.ascontiguousarray(y.numpy()).data)
    return digest.hexdigest()


def _accumulate(
    folder: Path, p: int, features: _Features, y: Tensor, of: str, context: Context
) -> None:
    """Moments of all features in the folder, from where an interruption left them."""
    try:
        equations = NormalEquations(folder, p, y.shape[1], of)
    except ValueError as error:  # damaged, or of other images
        context.log(f"{error}; the moments are accumulated again")
        for name in ("state.json", "moments-*.npy", "sums-*.npy", "right-*.npy"):
            for path in folder.glob(name):
                path.unlink()
        equations = NormalEquations(folder, p, y.shape[1], of)
    for phi, right in features.blocks(y, equations.n):
        equations.add(phi, right)
        if equations.n % _SAVED == 0 or equations.n == len(y):
            equations.save()
            context.log(f"moments of {equations.n} of {len(y)} images")


def _ridge(
    run: dict[str, Any],
    folder: Path,
    p: int,
    features: _Features,
    y: Tensor,
    of: str,
    context: Context,
) -> tuple[float, dict[float, float]]:
    """The ridge of the best exact leave-one-out accuracy on the first images."""
    rows = torch.cat([phi for phi, _ in features.blocks(y[:_LEFT_OUT])])
    accuracies = {}
    for ridge in run["ridges"]:
        solution = _solved(folder, p, features, y, of, ridge, 0, rows)
        residual = y[:_LEFT_OUT] - solution.predict(rows)
        left_out = y[:_LEFT_OUT] - residual / (1 - solution.leverage)[:, None]
        right = left_out.argmax(1) == y[:_LEFT_OUT].argmax(1)
        accuracies[ridge] = float(right.double().mean())
        context.log(f"ridge {ridge}: leave-one-out {100 * accuracies[ridge]:.2f}")
    return max(accuracies, key=lambda r: accuracies[r]), accuracies


def _solved(
    folder: Path,
    p: int,
    features: _Features,
    y: Tensor,
    of: str,
    ridge: float,
    steps: int,
    rows: Tensor | None = None,
) -> NormalSolution:
    equations = NormalEquations(folder, p, y.shape[1], of)
    blocks = (lambda start: features.blocks(y, start)) if steps else None
    return equations.solve(ridge, blocks, steps=steps, rows=rows)


def _correct(features: _Features, solution: NormalSolution, test: Tensor, y: Tensor) -> Tensor:
    bits = []
    batches = list(zip(test.split(_BLOCK), y.split(_BLOCK), strict=True))
    for images, labels in counted(batches, "batch of test images"):
        hidden, last = features.convolution.features(features.made.views(images))
        phi = torch.cat([hidden * features.scales[0], last * features.scales[1]], dim=1)
        bits.append(solution.predict(phi).argmax(1) == labels)
    return torch.cat(bits)
