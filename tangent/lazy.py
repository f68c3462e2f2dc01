"""Lazy training: SGD on the scaled displacement of a network, at any alpha."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from tangent.batches import Inputs
from tangent.difference import ScaledDifference
from tangent.losses import loss_named

__all__ = [
    "DivergenceError",
    "History",
    "LazySettings",
    "outputs",
    "stability_of_activations",
    "train",
]


class DivergenceError(ArithmeticError):
    """The loss became infinite, not a number, or larger than any training recovers from."""


@dataclass(frozen=True)
class LazySettings:
    """How the displacement is trained; the defaults are those of the paper's Figure 3(a)."""

    loss: str = "square"
    """"square" (mean over inputs and outputs) or "cross_entropy", of alpha h, over alpha**2."""
    lr: float = 1.0
    """Learning rate eta0 of the displacement: it means the same at every alpha."""
    momentum: float = 0.9
    decay: float = 0.0
    """beta in the schedule eta0 / (1 + beta t), t in epochs; the published code has 1/3."""
    epochs: int = 70
    batch_size: int = 128
    augment: bool = False
    """Random crops (4 pixels) and mirror images of the inputs, drawn anew every epoch."""

    def __post_init__(self) -> None:
        loss_named(self.loss)
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr must be positive and finite; got {self.lr!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1); got {self.momentum!r}")
        if not (self.decay >= 0 and math.isfinite(self.decay)):
            raise ValueError(f"decay must be at least 0; got {self.decay!r}")
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1; got {value!r}")

    def lr_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.lr / (1 + self.decay * epoch)


@dataclass
class History:
    """What training went through, an entry an epoch."""

    loss: list[float] = field(default_factory=list)
    """Mean of the mini-batches' losses during the epoch."""
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def train(
    model: ScaledDifference,
    inputs: Inputs,
    targets: Tensor,
    settings: LazySettings,
    *,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> History:
    """Train the displacement in place and return its history.

    Parameters
    ----------
    model : ScaledDifference
        Goes on from its present ``delta``.
    inputs : Inputs
        n inputs on the model's device.
    targets : Tensor of shape (n, k) or (n,)
        What the loss takes: one-hot rows for the square loss, labels for cross entropy.
    settings : LazySettings
    generator : torch.Generator, optional
        A CPU generator: the order of the data and the augmentation. The same seed gives the same
        order on every device.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    History

    Raises
    ------
    DivergenceError
        When the loss is no longer finite, with the step, alpha and lr.

    Notes
    -----
    Momentum is torch's: velocity = momentum * velocity + gradient, delta -= lr * velocity. The
    last, smaller batch of an epoch counts like the others, as in the published code.
    """
    loss = loss_named(settings.loss)
    optimizer = torch.optim.SGD(
        list(model.delta), lr=settings.lr, momentum=settings.momentum, foreach=True
    )
    history = History()
    n = len(inputs)
    steps = math.ceil(n / settings.batch_size)
    with tqdm(total=settings.epochs * steps, disable=not progress, unit="step", leave=False) as bar:
        for epoch in range(settings.epochs):
            started = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = settings.lr_at(epoch)
            order = torch.randperm(n, generator=generator).to(inputs.x.device)
            total = torch.zeros((), dtype=torch.float64)
            for step, index in enumerate(order.split(settings.batch_size), epoch * steps + 1):
                x = inputs.batch(index, augment=settings.augment, generator=generator)
                value = loss.value(model(x), targets[index])
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                optimizer.step()
                total += value.detach().double().cpu()
                bar.update()
                _check_finite(total, step, model.alpha, settings)
            history.loss.append(float(total) / steps)
            history.lr.append(settings.lr_at(epoch))
            history.seconds.append(time.perf_counter() - started)
            bar.set_postfix(epoch=epoch + 1, loss=f"{history.loss[-1]:.4g}")
    return history


def _check_finite(total: Tensor, step: int, alpha: float, settings: LazySettings) -> None:
    if not torch.isfinite(total):
        raise DivergenceError(
            f"loss is {float(total)} at step {step} (alpha={alpha:g}, lr={settings.lr:g}, "
            f"loss={settings.loss!r}); take a smaller lr, or lr='auto'"
        )


@torch.no_grad()
def outputs(
    model: ScaledDifference, inputs: Inputs, *, batch_size: int = 256
) -> Float[Tensor, "n k"]:
    """Scaled, centred outputs alpha (h(w0 + delta/alpha) - h(w0)) of all inputs, in order."""
    return torch.cat([model(x) for x in inputs.in_order(batch_size)])


@torch.no_grad()
def stability_of_activations(
    model: ScaledDifference, inputs: Inputs, *, batch_size: int = 256
) -> dict[str, float]:
    """Fraction of decisions that every ReLU and max pooling keeps from initialization.

    Returns
    -------
    dict
        From the name of the gate to the fraction, in [0, 1], of pairs (input, unit) with
        z > 0 both at w0 and at w0 + delta/alpha or at neither, z fed by the trained lower layers;
        for a max pooling, of outputs whose winner is the same. 1 everywhere at alpha = inf.

    Notes
    -----
    Source: Chizat et al. 2019, Figure 3(a), which shows the ReLUs. The published code sums the
    fractions of batches, which is a per cent only for 100 batches, and compares pooled values,
    which counts ties of zeros as stable; here winners are compared.
    """
    stable: dict[str, float] = {}
    count: dict[str, int] = {}

    def add(name: str, decided: Tensor) -> None:
        stable[name] = stable.get(name, 0.0) + float(decided.sum(dtype=torch.float64))
        count[name] = count.get(name, 0) + decided.numel()

    for x in inputs.in_order(batch_size):
        model.pair(x, on_gate=add)
    return {name: stable[name] / count[name] for name in stable}
