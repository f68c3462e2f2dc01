"""One problem of the comparison of precisions, trained by one method after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.runs.results import Context
from experiments.usage import watched
from tangent import ScaledDifference, nets
from tangent.models.direct import DirectScaling, Scaled, UpdateSize, update_size
from tangent.models.losses import loss_named
from tangent.training.batches import Inputs
from tangent.training.lazy import DivergenceError, LazySettings, outputs, train
from tangent.training.learning_rate import stability_edge

_SAFE = 0.1  # of the stability edge, as `LazyClassifier(lr="auto")`


@dataclass(frozen=True)
class Trained:
    """What one method ended with; None and infinity where it diverged."""

    losses: list[float]
    final_loss: float
    moved: float
    update: UpdateSize | None
    predictions: Float[Tensor, "n k"] | None
    test_predictions: Float[Tensor, "m k"] | None
    test_accuracy: float

    def metrics(self, name: str) -> dict[str, Any]:
        """Scalars under names that start with ``name``."""
        found: dict[str, Any] = {
            f"{name}_loss": self.final_loss,
            f"{name}_moved": self.moved,
            f"{name}_test_accuracy": self.test_accuracy,
        }
        if self.update is not None:
            found[f"{name}_update_ratio"] = self.update.ratio
            found[f"{name}_moved_at_first"] = self.update.moved
        return found

    def distance(self, oracle: Trained) -> float:
        """Distance of the training predictions to the oracle's, over the norm of those."""
        return _relative(self.predictions, oracle.predictions)

    def test_distance(self, oracle: Trained) -> float:
        """The same on the test images."""
        return _relative(self.test_predictions, oracle.test_predictions)


def _relative(found: Tensor | None, oracle: Tensor | None) -> float:
    if found is None or oracle is None:
        return math.nan
    return float((found - oracle).norm() / oracle.norm())


class Problem:
    """Images, initial weights and learning rate of a run: the same for every method."""

    def __init__(self, run: dict[str, Any], context: Context):
        self.run, self.device = run, context.device
        data = context.load(run["dataset"]).subset(run["n_train"], run["n_test"], run["seed"])
        self.images = torch.from_numpy(data.train_images).to(self.device)
        self.test_images = torch.from_numpy(data.test_images).to(self.device)
        self.labels = torch.from_numpy(data.train_labels).to(self.device)
        self.test_labels = data.test_labels
        pixels = data.train_images.astype(np.float64)
        self.mean, self.scale = (
            torch.from_numpy(f(pixels, axis=(0, 2, 3))[:, None, None]) for f in (np.mean, np.std)
        )
        self.classes = len(data.class_names)
        self.loss = loss_named(run["loss"])
        self.network = nets.network(
            run["model"],
            data.image_shape,
            self.classes,
            width=run["width"],
            gain=run["gain"],
            generator=torch.Generator().manual_seed(run["seed"]),
        ).to(self.device)
        self.lr = self._rate() if run["lr"] == "auto" else float(run["lr"])

    def _inputs(self, images: Tensor, dtype: torch.dtype) -> Inputs:
        work = torch.float64 if dtype == torch.float64 else torch.float32
        mean, scale = (s.to(self.device, work) for s in (self.mean, self.scale))
        return Inputs(images, mean, scale, dtype)

    def _rate(self) -> float:
        x = self._inputs(self.images[: self.run["batch_size"]], torch.float32)
        edge = stability_edge(
            ScaledDifference(self.network, math.inf),
            x.batch(slice(None)),
            self.loss,
            momentum=self.run["momentum"],
            generator=torch.Generator().manual_seed(self.run["seed"]),
        )
        return _SAFE * edge

    def trained(self, method: str) -> Trained:
        """Train by ``method``, "direct" or "difference" and a precision."""
        way, precision = method.split("-")
        dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(precision, torch.float32)
        kind = {"direct": DirectScaling, "difference": ScaledDifference}[way]
        # From float32 weights, so that all precisions but bfloat16 start from the same numbers.
        model: Any = kind(self.network, self.run["alpha"]).to(dtype)
        inputs = self._inputs(self.images, dtype)
        targets = self.loss.targets(self.labels, self.classes, dtype)
        settings = LazySettings(
            loss=self.run["loss"],
            lr=self.lr,
            momentum=self.run["momentum"],
            epochs=self.run["epochs"],
            batch_size=self.run["batch_size"],
        )
        update = None
        if isinstance(model, DirectScaling):
            some = slice(0, settings.batch_size)
            x = inputs.batch(some)
            update = update_size(model, x, targets[some], self.loss, self.lr)
        seed = torch.Generator().manual_seed(self.run["seed"])
        try:
            found = train(model, inputs, targets, settings, generator=seed, progress=watched())
            losses = found.loss
        except DivergenceError:
            return Trained([], math.inf, math.nan, update, None, None, math.nan)
        predictions = outputs(model, inputs).double()
        test = outputs(model, self._inputs(self.test_images, dtype)).double()
        wanted = self.loss.targets(self.labels, self.classes, torch.float64)
        accuracy = float((test.argmax(dim=1).cpu().numpy() == self.test_labels).mean())
        final = float(self.loss.value(predictions, wanted))
        return Trained(losses, final, _moved(model), update, predictions, test, accuracy)


@torch.no_grad()
def _moved(model: Scaled) -> float:
    """Fraction of the weights that training changed at all."""
    if isinstance(model, DirectScaling):
        pairs = zip(model.moving.parameters(), model.network.parameters(), strict=True)
        changed = [(now != before).flatten() for now, before in pairs]
    else:
        changed = [(delta != 0).flatten() for delta in model.delta]
    return float(torch.cat(changed).double().mean())
