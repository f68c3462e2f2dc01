"""Multilayer perceptrons and the two-layer networks of Figures 1 and 2."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tangent.nets.layers import Parametrization, check_sizes, constructors, initialized, own_draws
from tangent.nets.layers import channels as scaled_channels


class TwoLayer(nn.Module):
    """``scale * sum_j a_j activation(b_j . x)``, the student and teacher of Figures 1 and 2.

    With ``symmetric`` the second half of the units repeats the first with the sign of the output
    weight changed: the output is exactly zero at initialization and both halves are trained
    (Chizat et al. 2019, Section 3.1).
    """

    def __init__(
        self,
        n_features: int,
        m: int,
        *,
        scale: float = 1.0,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.hidden = nn.Linear(n_features, m, bias=False)
        self.activation = nn.ReLU() if activation is None else activation
        self.output = nn.Linear(m, 1, bias=False)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
        """Return the network's output for every row of ``x``."""
        return self.output(self.activation(self.hidden(x))) * self.scale


@own_draws
def mlp(
    n_features: int,
    num_classes: int = 10,
    *,
    hidden: Sequence[int] = (512, 512),
    width: float = 1.0,
    gain: float = math.sqrt(2.0),
    activation: Callable[[], nn.Module] = nn.ReLU,
    parametrization: Parametrization = "standard",
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Multilayer perceptron for rows of numbers.

    Parameters
    ----------
    n_features, num_classes : int
    hidden : sequence of int
        Units of each hidden layer, before ``width`` multiplies them.
    width, gain, parametrization, generator
        As in `vgg11`; the gain of sqrt(2) keeps the size of ReLU activations.
    activation : callable
        Makes one activation module, ``nn.ReLU`` or ``nn.Tanh`` for example.
    """
    check_sizes(n_features=n_features, num_classes=num_classes, width=width, gain=gain)
    _, linear = constructors(parametrization, gain)
    layers: list[nn.Module] = []
    units = n_features
    for base in hidden:
        out = scaled_channels(width, base)
        layers += [linear(units, out), activation()]
        units = out
    layers.append(linear(units, num_classes))
    return initialized(layers, gain, parametrization, generator)


@own_draws
@torch.no_grad()
def two_layer(
    n_features: int,
    m: int,
    *,
    tau: float = 1.0,
    scale: float = 1.0,
    symmetric: bool = True,
    activation: nn.Module | None = None,
    dtype: torch.dtype = torch.float64,
    generator: torch.Generator | None = None,
) -> TwoLayer:
    """Two-layer network of Figures 1 and 2 with weights ``tau * N(0, 1)``.

    Parameters
    ----------
    n_features, m : int
        Inputs d and hidden units m (even if ``symmetric``).
    tau : float
        Multiplies both layers; the output scales as tau**2.
    scale : float
        The factor alpha(m) before the sum: 1/m or 1/sqrt(m), for example.
    symmetric : bool
        Doubles half of the units with opposite output weights, so that the output is zero.
    activation : nn.Module, optional
        ReLU by default.

    Notes
    -----
    Source: Chizat et al. 2019, Section 3.1. float64 by default: float32 bends Figure 1(c) at
    large tau.
    """
    check_sizes(n_features=n_features, m=m, tau=tau, scale=scale)
    if symmetric and m % 2:
        raise ValueError(f"m must be even when symmetric=True; got {m}")
    model = TwoLayer(n_features, m, scale=scale, activation=activation).to(dtype)
    model.hidden.weight.normal_(generator=generator).mul_(tau)
    model.output.weight.normal_(generator=generator).mul_(tau)
    if symmetric:
        model.hidden.weight[m // 2 :] = model.hidden.weight[: m // 2]
        model.output.weight[:, m // 2 :] = -model.output.weight[:, : m // 2]
    return model
