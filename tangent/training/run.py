"""One training under way: its steps, its history, and the state that resumes it."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tangent.models.direct import Scaled
from tangent.models.losses import loss_named
from tangent.training.batches import Inputs
from tangent.training.checkpoint import Checkpoint, CheckpointError, digest
from tangent.training.distributed import Share
from tangent.training.layout import like_weights

if TYPE_CHECKING:
    from tangent.training.lazy import LazySettings

# May change between two parts of one training: how long it goes on, and what does not enter it.
_FREE = ("epochs", "patience", "tolerance")


class DivergenceError(ArithmeticError):
    """The loss became infinite, not a number, or larger than any training recovers from."""


@dataclass
class History:
    """What training went through, an entry an epoch."""

    loss: list[float] = field(default_factory=list)
    """Mean of the mini-batches' losses during the epoch."""
    lr: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Run:
    """A training at a step of an epoch; `tangent.training.lazy.train` is the loop over it.

    Parameters
    ----------
    model : ScaledDifference or DirectScaling
    inputs : Inputs
    targets : Tensor of shape (n, k) or (n,)
    settings : LazySettings
    generator : torch.Generator, optional
    share : Share

    Attributes
    ----------
    epoch, done : int
        Finished epochs, and finished steps of the present one.
    steps : int
        Steps of an epoch.
    history : History
        Of the finished epochs.
    """

    def __init__(
        self,
        model: Scaled,
        inputs: Inputs,
        targets: Tensor,
        settings: LazySettings,
        generator: torch.Generator | None,
        share: Share,
    ):
        self.model, self.inputs, self.targets = model, inputs, targets
        self.settings, self.share = settings, share
        self.generator = torch.default_generator if generator is None else generator
        self.loss = loss_named(settings.loss)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        # One pass over weights, gradients and momenta instead of three.
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=settings.lr, momentum=settings.momentum, fused=True
        )
        self.steps = math.ceil(len(inputs) / settings.batch_size)
        self.history = History()
        self.epoch = self.done = 0
        self.order: Tensor | None = None
        self.total = 0.0
        self.seconds = 0.0
        self._unkept = False

    def begin_epoch(self) -> None:
        """Draw the order of the data, unless the epoch was resumed within."""
        self._started = time.perf_counter() - self.seconds
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr_at(self.epoch)
        if self.order is None:
            self.order = torch.randperm(len(self.inputs), generator=self.generator)

    def step(self) -> None:
        """Take one step of gradient descent on the next mini-batch.

        Raises
        ------
        DivergenceError
            When its loss is not finite.
        """
        assert self.order is not None
        size = self.settings.batch_size
        index = self.order[self.done * size : (self.done + 1) * size].to(self.inputs.x.device)
        # The whole batch is drawn by every process, so that the random numbers are the same.
        x = self.inputs.batch(index, augment=self.settings.augment, generator=self.generator)
        x, targets = self.share.of(like_weights(x, self.model), self.targets[index])
        self.optimizer.zero_grad(set_to_none=True)
        value = torch.zeros((), dtype=torch.float64, device=x.device)
        parts = self.settings.micro_batch_size or size
        for x_part, part in zip(x.split(parts), targets.split(parts), strict=True):
            if len(x_part):
                loss = self.loss.value(self.model(x_part), part) * (len(x_part) / len(index))
                (loss * self.model.loss_scale).backward()
                value += loss.detach()
        self.share.add(value)
        self.share.add_gradients(self.parameters)
        self.optimizer.step()
        self.total += float(value)
        self.done += 1
        if not math.isfinite(self.total):
            self._diverged()

    def end_epoch(self) -> None:
        """Note the epoch in the history."""
        self.history.loss.append(self.total / self.steps)
        self.history.lr.append(self.settings.lr_at(self.epoch))
        self.history.seconds.append(time.perf_counter() - self._started)
        self.epoch, self.done, self.total, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        self.order = None

    def keep(self, checkpoint: Checkpoint) -> None:
        """Write all that the rest of the training depends on; of several processes, the first.

        Where it cannot be written training goes on, with one warning: it is worth more than its
        state on the way.
        """
        if self.share.rank:
            return
        state = {
            "parameters": [p.detach() for p in self.parameters],
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "history": asdict(self.history),
            "order": self.order,
            "epoch": self.epoch,
            "done": self.done,
            "total": self.total,
            "seconds": time.perf_counter() - self._started if self.done else 0.0,
        }
        if self.share.size > 1:  # the others' is not known here
            state["cpu_seconds"] = None
        try:
            checkpoint.save(self._identity(), state)
        except CheckpointError as error:
            if not self._unkept:
                warnings.warn(f"{error}; training goes on", UserWarning, stacklevel=3)
            self._unkept = True

    @torch.no_grad()
    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from the checkpoint, if there is one."""
        state = checkpoint.load(self._identity())
        if state is None:
            return
        for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
            parameter.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.history = History(**state["history"])
        self.order, self.epoch, self.done = state["order"], state["epoch"], state["done"]
        self.total, self.seconds = state["total"], state["seconds"]

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint has to agree with: settings, initial weights, data and targets."""
        if not hasattr(self, "_known"):
            settings = {k: v for k, v in asdict(self.settings).items() if k not in _FREE}
            inputs = (self.inputs.x, self.inputs.mean, self.inputs.scale)
            self._known = {
                **settings,
                "model": type(self.model).__name__,
                "alpha": self.model.alpha,
                "initial weights": digest(self.model.initial_weights()),
                "data": digest(inputs),
                "targets": digest([self.targets]),
            }
        return self._known

    def _diverged(self) -> None:
        step = self.epoch * self.steps + self.done
        raise DivergenceError(
            f"loss is {self.total} at step {step} (alpha={self.model.alpha:g}, "
            f"lr={self.settings.lr:g}, loss={self.settings.loss!r}); take a smaller lr, or "
            f"lr='auto'"
        )
