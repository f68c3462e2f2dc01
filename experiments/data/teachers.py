"""Teachers, data and initializations of Figures 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.usage import one_of


@dataclass(frozen=True)
class Task:
    """Teachers and data of ``k`` repetitions, in float64 on the CPU."""

    teacher_signs: Tensor
    """(k, m0), of -1 and 1."""
    teacher: Tensor
    """(k, m0, d), unit rows."""
    x: Tensor
    """(k, n, d), unit rows."""
    y: Tensor
    """(k, n)."""
    x_test: Tensor
    """(k, p, d)."""
    y_test: Tensor
    """(k, p)."""


def generators(seeds: list[int]) -> list[torch.Generator]:
    """One generator a repetition, so that a repetition is the same in any group."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sphere(generator: torch.Generator, *shape: int) -> Tensor:
    """Vectors uniform on the unit sphere, in float64; the last axis is theirs."""
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return x / x.norm(dim=-1, keepdim=True)


def draw_task(
    draws: list[torch.Generator], n: int, n_test: int, d: int, m0: int, scale: float = 1.0
) -> Task:
    """Teachers with ``m0`` units and their data; ``scale`` multiplies the targets."""
    rows = []
    for generator in draws:
        teacher = sphere(generator, m0, d)
        signs = torch.randn(m0, generator=generator, dtype=torch.float64).sign()
        rows.append((signs, teacher, sphere(generator, n, d), sphere(generator, n_test, d)))
    signs, teacher, x, x_test = (torch.stack(part) for part in zip(*rows, strict=True))

    def targets(inputs: Tensor) -> Tensor:
        hidden = (inputs @ teacher.transpose(1, 2)).clamp(min=0)
        return scale * (hidden @ signs[..., None])[..., 0]

    return Task(signs, teacher, x, targets(x), x_test, targets(x_test))


def doubled(hidden: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    """Units followed by the same with output weights of opposite sign: the output is zero."""
    return torch.cat([hidden, hidden], dim=-2), torch.cat([output, -output], dim=-1)


def doubled_units(
    draws: list[torch.Generator], alone: int, m: int, d: int
) -> tuple[Tensor, Tensor]:
    """Doubled input and output weights of ``alone`` students a repetition, in float64."""
    half = [
        (
            torch.randn(alone, m // 2, d, generator=draw, dtype=torch.float64),
            torch.randn(alone, m // 2, generator=draw, dtype=torch.float64).abs(),
        )
        for draw in draws
    ]
    hidden, output = (torch.stack(part).flatten(0, 1) for part in zip(*half, strict=True))
    return doubled(hidden, output)


def on(context: Any, *tensors: Tensor) -> list[Tensor]:
    """The tensors on the device and in the dtype of the command."""
    one_of("dtype", context.dtype, ("float32", "float64"))
    return [t.to(device=context.device, dtype=getattr(torch, context.dtype)) for t in tensors]


def linear_descent(
    kernel: Tensor, cross: Tensor, y: Tensor, step: float, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs of the linearized model after so many steps of gradient descent from zero.

    Closed form by the eigenvalues of the tangent kernel: the model's own answer at the same
    number of steps, and (steps = inf) the interpolant of least norm.

    Parameters
    ----------
    kernel : Tensor of shape (n, n)
        Tangent kernel of the training inputs.
    cross : Tensor of shape (p, n)
        Tangent kernel of the test and training inputs.
    y : Tensor of shape (n,)
    step : float
        Descent on half the mean squared error in the scaled displacement.
    steps : Tensor of shape (t,)

    Returns
    -------
    train, test : Tensor of shape (t, n) and (t, p)
    """
    values, vectors = torch.linalg.eigh(kernel / len(y))
    values = values.clamp(min=0)
    kept = torch.where(values > 1e-12 * values[-1], values, torch.inf)
    # 1 - (1 - step * value)**steps without cancellation, by the sign of 1 - step * value
    rest = (1 - step * values)[None, :].pow(steps[:, None])
    done = torch.where(
        step * values < 0.5, -torch.expm1(steps[:, None] * torch.log1p(-step * values)), 1 - rest
    )
    coefficients = (done / kept) * (vectors.T @ y) / len(y)
    dual = coefficients @ vectors.T
    return dual @ kernel, dual @ cross.T


def half_square(outputs: Tensor, y: Tensor) -> Tensor:
    """Half the mean squared error along the last axis."""
    return (outputs - y).square().mean(-1) / 2
