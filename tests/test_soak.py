"""Soak: many fits in a process leave its memory and its file descriptors where they were."""

from __future__ import annotations

import gc
import statistics

import numpy as np
import psutil
import pytest
from sklearn.base import clone

from baselines import RidgeHead
from tangent import LazyClassifier, TangentFeatures, TangentKernelClassifier
from tangent.estimators import Perceptron
from tests.test_every_estimator import SMALL, plain_mlp

FITS = 200
# MiB that resident memory may differ between two parts of a run: the allocator's own ups and
# downs. A fit's data, forgotten in each of the fits between, would be six times that.
ALLOWED = 16


def estimators(folder):
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


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_two_hundred_fits_leave_memory_and_descriptors_level(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.random((1000, 128)), np.arange(1000) % 3  # a MiB of float64
    X[np.arange(1000), y] += 1
    process, memory, descriptors = psutil.Process(), [], []
    for fit in range(FITS):
        some = estimators(tmp_path)
        model = clone(some[fit % len(some)])
        n = 1000 if isinstance(model, LazyClassifier | RidgeHead) else 60
        model.fit(X[:n], y[:n])
        (tmp_path / "c").unlink(missing_ok=True)
        del model, some
        gc.collect()
        memory.append(process.memory_info().rss / 2**20)
        descriptors.append(process.num_fds())
    early, late = memory[FITS // 4 : FITS // 2], memory[-FITS // 4 :]
    assert statistics.median(late) - statistics.median(early) < ALLOWED
    assert set(descriptors[FITS // 4 :]) == {descriptors[-1]}
