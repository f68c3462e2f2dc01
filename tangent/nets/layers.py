"""Layers in the standard and in the NTK parametrization, and their initialization."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Parametrization = Literal["standard", "ntk"]
Build = TypeVar("Build", bound=Callable[..., Any])


class ScaledConv2d(nn.Conv2d):
    """Convolution with weight ``scale * weight``: the NTK parametrization keeps weights N(0, 1).

    ``scale`` is gain / sqrt(fan_in). The bias is not scaled.
    """

    def __init__(self, *args: Any, gain: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = gain / math.sqrt(self.weight[0].numel())

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n o i j"]:
        """Return the convolution of ``x`` with the scaled weight."""
        return F.conv2d(
            x,
            self.weight * self.scale,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


class ScaledLinear(nn.Linear):
    """Linear layer with weight ``scale * weight`` (NTK parametrization), as `ScaledConv2d`."""

    def __init__(self, *args: Any, gain: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = gain / math.sqrt(self.in_features)

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n o"]:
        """Return the product of ``x`` with the scaled weight."""
        return F.linear(x, self.weight * self.scale, self.bias)


def constructors(
    parametrization: Parametrization, gain: float
) -> tuple[Callable[..., nn.Conv2d], Callable[..., nn.Linear]]:
    """The convolution and linear constructors of a parametrization."""
    one_of("parametrization", parametrization, ("standard", "ntk"))
    if parametrization == "standard":
        return nn.Conv2d, nn.Linear
    return functools.partial(ScaledConv2d, gain=gain), functools.partial(ScaledLinear, gain=gain)


@torch.no_grad()
def initialized(
    layers: Sequence[nn.Module],
    gain: float,
    parametrization: Parametrization,
    generator: torch.Generator | None,
) -> nn.Sequential:
    """The layers one behind the other, with weights Xavier normal, or N(0, 1) for the NTK.

    Biases are zero.
    """
    model = nn.Sequential(*layers)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if parametrization == "ntk":
                module.weight.normal_(generator=generator)
            else:
                nn.init.xavier_normal_(module.weight, gain, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
    return model


def own_draws(build: Build) -> Build:
    """Make a builder of networks leave torch's random state alone if it is given a generator.

    torch draws weights for every layer that is made, before ours take their place.
    """

    @functools.wraps(build)
    def built(*args: Any, generator: torch.Generator | None = None, **kwargs: Any) -> Any:
        if generator is None:
            return build(*args, **kwargs)
        with torch.random.fork_rng(devices=[]):
            return build(*args, generator=generator, **kwargs)

    return cast(Build, built)


@contextmanager
def global_state_kept(generator: torch.Generator) -> Iterator[None]:
    """Leave torch's global generator as it is, and seed it within from ``generator``.

    Layers draw their default weights from it, to be overwritten or not: the same ``random_state``
    then gives the same weights also where a factory does not use its generator.
    """
    before = torch.default_generator.get_state()
    drawn = torch.Generator()
    drawn.set_state(generator.get_state())
    # on the CPU whatever device the caller builds on ("meta", to count the memory)
    seed = int(torch.randint(2**62, (), generator=drawn, device="cpu"))
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise a ValueError that lists ``allowed`` when ``value`` is none of them."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def check_sizes(**sizes: float) -> None:
    """Raise a ValueError that names the first size that is not positive and finite."""
    for name, value in sizes.items():
        if not value > 0 or math.isinf(value):
            raise ValueError(f"{name} must be positive and finite; got {value!r}")


def channels(width: float, base: int) -> int:
    """Return ``base`` channels times ``width``, at least one."""
    return max(1, round(base * width))
