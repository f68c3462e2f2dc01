"""Soak: many fits in a process, and what they leave of memory and file descriptors."""

from __future__ import annotations

import gc
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from sklearn.base import clone

from baselines import RidgeHead
from tangent import LazyClassifier, TangentFeatures, TangentKernelClassifier
from tangent.estimators import Perceptron
from tests.test_every_estimator import SMALL, plain_mlp

__all__ = ["FITS", "Soak", "soaked"]

FITS = 200


@dataclass(frozen=True)
class Soak:
    """What was there after each fit.

    Parameters
    ----------
    memory : list of float
        Resident, in MiB.
    descriptors : list of int
        Open files.
    """

    memory: list[float]
    descriptors: list[int]

    @property
    def parts(self) -> tuple[float, float]:
        """Median memory of the second quarter of the fits and of the last, in MiB.

        During the first one libraries load and allocators fill.
        """
        quarter = len(self.memory) // 4
        early, late = self.memory[quarter : 2 * quarter], self.memory[-quarter:]
        return statistics.median(early), statistics.median(late)

    @property
    def open_files(self) -> tuple[int, int]:
        """Fewest and most open files after the first quarter."""
        later = self.descriptors[len(self.descriptors) // 4 :]
        return min(later), max(later)


def _estimators(folder: Path) -> list:
    """A different one a fit; the first keeps a checkpoint, and so a file."""
    return [
        LazyClassifier(
            plain_mlp, epochs=1, random_state=0, checkpoint=folder / "c", check_lr=False, lr=0.01
        ),
        TangentKernelClassifier(SMALL, random_state=0),
        TangentKernelClassifier(Perceptron("relu", 1, 8, 1.0), solver="cg", random_state=0),
        TangentFeatures(SMALL, n_components=6, random_state=0),
        RidgeHead(),
    ]


def soaked(fits: int = FITS) -> Soak:
    """Fit one estimator after the other, forget each, and note what is left."""
    rng = np.random.default_rng(0)
    X, y = rng.random((1000, 128)), np.arange(1000) % 3  # a MiB of float64
    X[np.arange(1000), y] += 1
    process, memory, descriptors = psutil.Process(), [], []
    with tempfile.TemporaryDirectory() as folder:
        for fit in range(fits):
            some = _estimators(Path(folder))
            model = clone(some[fit % len(some)])
            n = 1000 if isinstance(model, LazyClassifier | RidgeHead) else 60
            model.fit(X[:n], y[:n])
            (Path(folder) / "c").unlink(missing_ok=True)
            del model, some
            gc.collect()
            memory.append(process.memory_info().rss / 2**20)
            descriptors.append(process.num_fds())
    return Soak(memory, descriptors)
