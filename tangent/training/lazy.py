"""Lazy training: SGD on the scaled displacement of a network, at any alpha."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from tangent.models import ScaledDifference
from tangent.models.direct import Scaled
from tangent.models.losses import loss_named
from tangent.training.batches import Inputs
from tangent.training.checkpoint import Checkpoint
from tangent.training.distributed import Share
from tangent.training.layout import channels_last, like_weights
from tangent.training.run import DivergenceError, History, Run

__all__ = [
    "DivergenceError",
    "History",
    "LazySettings",
    "outputs",
    "outputs_and_stability",
    "stability_of_activations",
    "train",
]


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
    micro_batch_size: int | None = None
    """Inputs that pass the network at once; the gradient is that of the whole batch."""
    patience: int | None = None
    """Stop when the loss has been steady for so many epochs; None trains all epochs."""
    tolerance: float = 1e-3
    """A loss is steady that falls by less than this fraction of itself."""

    def __post_init__(self) -> None:
        loss_named(self.loss)
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr must be positive and finite; got {self.lr!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1); got {self.momentum!r}")
        if not (self.decay >= 0 and math.isfinite(self.decay)):
            raise ValueError(f"decay must be at least 0; got {self.decay!r}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0; got {self.tolerance!r}")
        for name in ("epochs", "batch_size", "micro_batch_size", "patience"):
            value = getattr(self, name)
            optional = name in ("micro_batch_size", "patience")
            if not (optional and value is None) and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be an integer of at least 1; got {value!r}")

    def lr_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.lr / (1 + self.decay * epoch)

    def steady(self, losses: list[float]) -> bool:
        """Whether the best loss fell by less than the tolerance over the last epochs."""
        if self.patience is None or len(losses) <= self.patience:
            return False
        before = min(losses[: -self.patience])
        return min(losses[-self.patience :]) > (1 - self.tolerance) * before


def train(
    model: Scaled,
    inputs: Inputs,
    targets: Tensor,
    settings: LazySettings,
    *,
    generator: torch.Generator | None = None,
    progress: bool = False,
    checkpoint: Checkpoint | None = None,
    share: Share | None = None,
) -> History:
    """Train the displacement in place and return its history.

    Parameters
    ----------
    model : ScaledDifference or DirectScaling
        Goes on from its present parameters. Its convolutions' weights are laid out anew, with
        channels last (the values stay).
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
    checkpoint : Checkpoint, optional
        Where training keeps its state. An interrupted training called again with the same
        arguments goes on and ends with the same bits as one in a piece.
    share : Share, optional
        Of this process under `torch.distributed` (see `tangent.training.distributed.my_share`).

    Returns
    -------
    History

    Raises
    ------
    DivergenceError
        When the loss is no longer finite, with the step, alpha and lr.
    CheckpointError
        When the checkpoint is damaged or belongs to another training.

    Warns
    -----
    UserWarning
        Once, when the checkpoint cannot be written; training goes on.

    Notes
    -----
    Momentum is torch's: velocity = momentum * velocity + gradient, delta -= lr * velocity. The
    last, smaller batch of an epoch counts like the others, as in the published code.
    """
    channels_last(model)
    run = Run(model, inputs, targets, settings, generator, share or Share())
    if checkpoint is not None:
        run.resume(checkpoint)
    total = settings.epochs * run.steps
    with tqdm(total=total, disable=not progress, unit="step", leave=False) as bar:
        bar.update(run.epoch * run.steps + run.done)
        while run.epoch < settings.epochs and not settings.steady(run.history.loss):
            run.begin_epoch()
            while run.done < run.steps:
                run.step()
                bar.update()
                if checkpoint is not None and checkpoint.due():
                    run.keep(checkpoint)
            run.end_epoch()
            bar.set_postfix(epoch=run.epoch, loss=f"{run.history.loss[-1]:.4g}")
    if checkpoint is not None:
        run.keep(checkpoint)
    run.optimizer.zero_grad()  # the last gradients: as large as the weights
    return run.history


@torch.no_grad()
def outputs(model: Scaled, inputs: Inputs, *, batch_size: int = 256) -> Float[Tensor, "n k"]:
    """Scaled, centred outputs alpha (h(w0 + delta/alpha) - h(w0)) of all inputs, in order."""
    return torch.cat([model(like_weights(x, model)) for x in inputs.in_order(batch_size)])


@torch.no_grad()
def stability_of_activations(
    model: ScaledDifference, inputs: Inputs | Tensor, *, batch_size: int = 256
) -> dict[str, float]:
    """Fraction of decisions that every ReLU and max pooling keeps from initialization.

    Parameters
    ----------
    model : ScaledDifference
    inputs : Tensor of shape (n, ...) or Inputs
        A floating tensor is taken as it is; `Inputs` are normalized batch by batch.
    batch_size : int
        Inputs handled at once; bounds the memory, not the result.

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
    inputs = Inputs.plain(inputs) if isinstance(inputs, Tensor) else inputs
    return outputs_and_stability(model, inputs, batch_size=batch_size)[1]


@torch.no_grad()
def outputs_and_stability(
    model: ScaledDifference, inputs: Inputs, *, batch_size: int = 256
) -> tuple[Float[Tensor, "n ..."], dict[str, float]]:
    """What `outputs` and `stability_of_activations` return, from one pass over the inputs."""
    stable: dict[str, float] = {}
    count: dict[str, int] = {}

    def add(name: str, decided: Tensor) -> None:
        stable[name] = stable.get(name, 0.0) + float(decided.sum(dtype=torch.float64))
        count[name] = count.get(name, 0) + decided.numel()

    parts = []
    for x in inputs.in_order(batch_size):
        out = model.pair(like_weights(x, model), on_gate=add)
        parts.append(torch.zeros_like(out.base) if out.difference is None else out.difference)
    return torch.cat(parts), {name: stable[name] / count[name] for name in stable}
