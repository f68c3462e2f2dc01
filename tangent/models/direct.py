"""The published way: train w itself and subtract, alpha (h(w) - h(w0)).

Kept to compare with and to reproduce published runs. At large alpha it needs float64: an update
of w is 1/alpha times that of the displacement, and below half the spacing of floating-point
numbers at w it rounds away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from tangent.machine.copies import copied
from tangent.models import ScaledDifference
from tangent.models.losses import Loss
from tangent.operations.pointwise import called


class DirectScaling(nn.Module):
    """The centred, scaled network alpha * (h(w) - h(w0)), trained in w, computed as written.

    Parameters
    ----------
    model : nn.Module
        h at w0; copied twice.
    alpha : float
        Scale, positive and finite.

    Attributes
    ----------
    moving : nn.Module
        The network at w; its trainable parameters are this module's.
    network : nn.Module
        The frozen network at w0, evaluated without a graph.
    loss_scale : float
        1/alpha**2: training multiplies the loss R by it (Chizat et al. 2019, equation (2)).

    Notes
    -----
    Compare `ScaledDifference`, which is the same function of the displacement and keeps the
    digits.
    """

    def __init__(self, model: nn.Module, alpha: float):
        super().__init__()
        if not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
            raise ValueError(
                f"alpha must be positive and finite to train w itself; got {alpha!r}; "
                f"parametrization='difference' takes any alpha, infinity included"
            )
        self.alpha = float(alpha)
        self.moving = copied(model)
        self.network = copied(model).requires_grad_(False)
        if not any(p.requires_grad for p in self.moving.parameters()):
            raise ValueError("model has no parameter with requires_grad=True: nothing can move")

    @property
    def loss_scale(self) -> float:
        """1/alpha**2, by which training multiplies the loss."""
        return self.alpha**-2

    def forward(self, x: Shaped[Tensor, "n ..."]) -> Tensor:
        """Return alpha (h(w) - h(w0)) at ``x``, with all the rounding of the subtraction."""
        differentiable, weights = torch.is_grad_enabled(), None
        if not differentiable:
            weights = {name: p.detach() for name, p in self.moving.named_parameters()}
        with torch.enable_grad():  # which a network may need within
            base = self.network(x)
            base = base if x.requires_grad else base.detach()
            difference = called(self.moving, weights, (x,)) - base
        return self.alpha * (difference if differentiable else difference.detach())

    def initial_weights(self) -> Iterator[Tensor]:
        """Yield the weights at w0."""
        return iter(self.network.parameters())

    @torch.no_grad()
    def difference(self) -> ScaledDifference:
        """Return the `ScaledDifference` at the weights that training reached."""
        module = ScaledDifference(_trainable_like(self.network, self.moving), self.alpha)
        now, initial = (dict(m.named_parameters()) for m in (self.moving, self.network))
        for name, delta in zip(module.names, module.delta, strict=True):
            delta.copy_(self.alpha * (now[name] - initial[name]))
        return module


def _trainable_like(network: nn.Module, model: nn.Module) -> nn.Module:
    twin = copied(network)
    for parameter, other in zip(twin.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(other.requires_grad)
    return twin


Scaled = ScaledDifference | DirectScaling


@dataclass(frozen=True)
class UpdateSize:
    """The size of one update of w against the spacing of floating-point numbers at w."""

    ratio: float
    """Median of |update| / (half the spacing at w), over weights with a gradient; below 1 most
    updates round away."""
    moved: float
    """Fraction of these weights that the update changes at all."""


def update_size(
    model: DirectScaling,
    x: Shaped[Tensor, "n ..."],
    targets: Tensor,
    loss: Loss,
    lr: float,
) -> UpdateSize:
    """Size of the first SGD update of w, without momentum, on one mini-batch.

    Parameters
    ----------
    model : DirectScaling
        Read at its present weights.
    x, targets
        A mini-batch, as training takes it.
    loss : Loss
    lr : float

    Notes
    -----
    Momentum adds up updates: at 0.9 the steps grow up to tenfold. Weights that are exactly zero
    (biases at first) have no spacing to speak of and are left out. Holds the gradients and twice as
    many numbers as weights beside the network.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    value = loss.value(model(x), targets) * model.loss_scale
    grads = torch.autograd.grad(value, parameters, materialize_grads=True)
    ratios, moved = [], 0
    for parameter, grad in zip(parameters, grads, strict=True):  # one by one, for the memory
        counted = (grad != 0) & (parameter != 0)
        weights, update = parameter.detach()[counted], lr * grad[counted]
        size = weights.abs()
        spacing = torch.nextafter(size, torch.full_like(size, math.inf)) - size
        moved += int(torch.count_nonzero(weights - update != weights))
        ratios.append(update.abs_().div_(spacing.div_(2)))
    ratio = torch.cat(ratios)
    if not len(ratio):
        return UpdateSize(math.inf, 1.0)
    return UpdateSize(float(ratio.median()), moved / len(ratio))
