"""Every kind of long work, small: a function of a folder that goes on with what it finds there.

Each gives a digest of its outcome. What it says on the way goes to ``log``. A child of a fork
server, which has torch already, begins in milliseconds.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from experiments.data import cache
from experiments.data.datasets import image_data
from tangent import ScaledDifference, mlp, stored_tangent_kernel
from tangent.models.losses import loss_named
from tangent.solve.normal_equations import NormalEquations
from tangent.training.batches import Inputs
from tangent.training.checkpoint import Checkpoint, digest
from tangent.training.lazy import LazySettings, train
from tests.faults.study import study

Log = Callable[[str], None]
Work = Callable[[Path, Log], str]


def _inputs(n: int) -> torch.Tensor:
    return torch.rand(n, 12, generator=torch.Generator().manual_seed(0))


def training(folder: Path, log: Log) -> str:
    """Lazy training with a checkpoint after every step; one that is damaged is taken away."""
    path = folder / "training.ckpt"
    images = torch.randint(0, 256, (64, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 3
    inputs = Inputs(images.to(torch.uint8), torch.tensor(120.0), torch.tensor(60.0), torch.float32)
    targets = loss_named("square").targets(labels, 3, torch.float32)
    settings = LazySettings(lr=0.05, epochs=5, batch_size=16)
    for _ in range(2):
        base = mlp(16, 3, hidden=(32,), generator=torch.Generator().manual_seed(1))
        model = ScaledDifference(torch.nn.Sequential(torch.nn.Flatten(), base), 10.0)
        shuffles = torch.Generator().manual_seed(2)
        try:
            train(
                model, inputs, targets, settings,
                generator=shuffles, checkpoint=Checkpoint(path, every=0),
            )  # fmt: skip
            break
        except ValueError as error:
            log(str(error))
            path.unlink(missing_ok=True)
    return digest(model.parameters())


def stored_kernel(folder: Path, log: Log) -> str:
    """A kernel on disk; a folder whose settings are damaged is taken away, as it asks for."""
    model = mlp(12, 3, hidden=(16,), generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        try:
            kernel = stored_tangent_kernel(folder / "kernel", model, _inputs(40), batch_size=4)
            return hashlib.sha256(np.array(kernel).tobytes()).hexdigest()
        except ValueError as error:
            log(str(error))
            for path in (folder / "kernel").iterdir():
                path.unlink()
    raise AssertionError("a folder that is empty has no settings to refuse")


def moments(folder: Path, log: Log) -> str:
    """Normal equations accumulated in files; moments that are damaged are taken away."""
    features = _inputs(60)
    for _ in range(2):
        try:
            equations = NormalEquations(folder / "moments", 12, 2, "it")
            break
        except ValueError as error:
            log(str(error))
            for path in (folder / "moments").iterdir():
                path.unlink()
    while equations.n < 60:
        block = features[equations.n : equations.n + 4]
        equations.add(block, block[:, :2])
        equations.save()
    return digest([equations.solve(0.1, None).weight])


def image_cache(folder: Path, log: Log) -> str:
    """A decoded data set, read from its cache or made and kept."""
    place = folder / "images"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = cache.read(place)
        if found is None:
            found = _images()
            cache.write(place, found)
    for warning in said:
        log(str(warning.message))
    return found.fingerprint


def _images():
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 256, (n, 3, 8, 8), np.uint8), np.arange(n) % 2) for n in (40000, 100)]
    return image_data("made", "made", ("a", "b"), *pairs)


WORKS: dict[str, Work] = {
    "training with checkpoints": training,
    "stored kernel": stored_kernel,
    "normal equations": moments,
    "cache of images": image_cache,
    "study": functools.partial(study, seconds=0.02),
    "study, two processes": functools.partial(study, jobs=2, seconds=0.02),
}
