"""A on all of CIFAR-10: explicit tangent features, streamed into their normal equations."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.open_question.frozen import Frozen, Views, frozen_for
from experiments.open_question.rows import Convolution, one_hot
from experiments.open_question.stored import stored, work_folder
from experiments.runs.results import Context, Outcome
from tangent.machine.bars import counted
from tangent.solve.normal_equations import NormalEquations, NormalSolution

_BLOCK = 500  # images at once
_SAVED = 10_000  # images after which the moments are written
_LEFT_OUT = 2_000  # training images that are left out, one at a time, to choose the ridge
_STEPS = 2  # of refinement
_SHARES = (1.0, 0.25)  # of the convolution and of the linear layer behind it

_Moments = Callable[[], NormalEquations]  # as they are in the folder now


@dataclass
class _Features:
    """Scaled tangent features of images, block by block, from stored maps."""

    made: Frozen
    images: Tensor
    convolution: Convolution
    scales: list[float]
    folder: Path

    def block(self, start: int) -> Float[Tensor, "b p"]:
        """Features of the images from ``start`` on."""
        maps = stored(self.folder / f"maps-{start}.npy", lambda: self._maps(start))
        return self.convolution.scaled(Views(maps), self.scales)

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
    targets = one_hot(y).float()
    channels = run["channels"]
    made = frozen_for(run, train, scattering=False)
    with work_folder(context, ".moments") as folder:
        some = Convolution(made.views(train[:_LEFT_OUT]), channels, run["width"], run["seed"])
        features = _Features(made, train, some, some.scales(_SHARES), folder)
        moments = partial(
            NormalEquations, folder, some.n_features, targets.shape[1], _name(run, train, y)
        )
        _accumulate(folder, moments, features, targets, context)
        ridge, accuracies = _ridge(run["ridges"], moments, features, targets, context)
        solution = moments().solve(ridge, partial(features.blocks, targets), steps=_STEPS)
        correct = _correct(features, solution, test, y_test)
    return Outcome(
        {
            "A: test accuracy": float(correct.double().mean()),
            "A: left-out accuracy": accuracies[ridge],
            "A: ridge": ridge,
            "A: chosen": f"{channels} channels",
            "A: condition number": None,
            "A: features": some.n_features,
            "A: cpu seconds": time.process_time() - start,
            "normal_residual": solution.residual,
        },
        arrays={"correct A": correct.numpy()},
    )


def _name(run: dict[str, Any], train: Tensor, y: Tensor) -> str:
    """What the moments are of: the run, its images and its labels."""
    digest = hashlib.sha256(repr(sorted(run.items())).encode())
    digest.update(np.ascontiguousarray(train.numpy()).data)
    digest.update(np.ascontiguousarray(y.numpy()).data)
    return digest.hexdigest()


def _accumulate(
    folder: Path, moments: _Moments, features: _Features, y: Tensor, context: Context
) -> None:
    """Moments of all features in the folder, from where an interruption left them."""
    try:
        equations = moments()
    except ValueError as error:  # damaged, or of other images
        context.log(f"{error}; the moments are accumulated again")
        for name in ("state.json", "moments-*.npy", "sums-*.npy", "right-*.npy"):
            for path in folder.glob(name):
                path.unlink()
        equations = moments()
    for phi, right in features.blocks(y, equations.n):
        equations.add(phi, right)
        if equations.n % _SAVED == 0 or equations.n == len(y):
            equations.save()
            context.log(f"moments of {equations.n} of {len(y)} images")


def _ridge(
    ridges: Sequence[float], moments: _Moments, features: _Features, y: Tensor, context: Context
) -> tuple[float, dict[float, float]]:
    """The ridge of the best exact leave-one-out accuracy on the first images."""
    rows = torch.cat([phi for phi, _ in features.blocks(y[:_LEFT_OUT])])
    accuracies = {}
    for ridge in ridges:
        solution = moments().solve(ridge, None, steps=0, rows=rows)
        residual = y[:_LEFT_OUT] - solution.predict(rows)
        left_out = y[:_LEFT_OUT] - residual / (1 - solution.leverage)[:, None]
        right = left_out.argmax(1) == y[:_LEFT_OUT].argmax(1)
        accuracies[ridge] = float(right.double().mean())
        context.log(f"ridge {ridge}: leave-one-out {100 * accuracies[ridge]:.2f}")
    return max(accuracies, key=lambda r: accuracies[r]), accuracies


def _correct(features: _Features, solution: NormalSolution, test: Tensor, y: Tensor) -> Tensor:
    bits = []
    batches = list(zip(test.split(_BLOCK), y.split(_BLOCK), strict=True))
    for images, labels in counted(batches, "batch of test images"):
        phi = features.convolution.scaled(features.made.views(images), features.scales)
        bits.append(solution.predict(phi).argmax(1) == labels)
    return torch.cat(bits)
