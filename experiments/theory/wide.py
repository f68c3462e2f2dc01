"""The remark on wide networks: alpha = 1, standard parametrization, the wider the lazier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import jacrev
from torch.nn.utils import parameters_to_vector

from experiments.runs.results import Outcome
from experiments.theory.models import ACTIVATIONS, Draws, columns, unit_rows
from tangent import tangent_kernel
from tangent.machine.bars import counted
from tangent.nets import vgg11

_STEPS = 200  # of descent at half the stability edge
_IMAGES = 20


def wide(run: dict[str, Any], device: str) -> Outcome:
    """Perceptrons, or VGG-11, of growing width."""
    return (_vgg11 if run["model"] == "vgg11" else _perceptrons)(run, Draws.of(run, device))


def _perceptrons(run: dict[str, Any], draws: Draws) -> Outcome:
    """The wider, the lazier: alpha = 1, standard parametrization, both hidden layers of m units.

    Weights N(0, 1 / fan-in), descent at half the stability edge on 20 inputs; how far weights and
    tangent kernel are from where they were, relative to where that is.
    """
    n, d = 20, 5
    x = unit_rows(draws.normal(n, d))
    y = d**0.5 * x[:, 0]  # of mean square one; chosen after labels at random had failed the verdict
    phi = ACTIVATIONS[run["model"]]
    rows = []
    for m in counted(run["widths"], "width"):
        shapes = [(m, d), (m, m), (1, m)]
        sizes = [a * b for a, b in shapes]
        w0 = torch.cat([draws.normal(*s).flatten() / s[1] ** 0.5 for s in shapes])

        def outputs(
            w: Tensor,
            sizes: list[int] = sizes,
            shapes: list[tuple[int, int]] = shapes,
        ) -> Tensor:
            first, second, last = (
                part.view(shape) for part, shape in zip(w.split(sizes), shapes, strict=True)
            )
            return (phi(phi(x @ first.T) @ second.T) @ last.T)[:, 0]

        jacobian: Callable[[Tensor], Tensor] = jacrev(outputs)
        before = jacobian(w0)
        kernel = before @ before.T
        rate = n / float(torch.linalg.eigvalsh(kernel)[-1])  # half of 2 / (top / n)
        w = w0.clone()
        for _ in range(_STEPS):
            here = jacobian(w)
            w = w - rate * here.T @ (outputs(w) - y) / n
        after = jacobian(w)
        rows.append(
            {
                "m": m,
                "weights": float((w - w0).norm() / w0.norm()),
                "kernel": float((after @ after.T - kernel).norm() / kernel.norm()),
                "loss": float((outputs(w) - y).square().mean() / 2),
            }
        )
    return Outcome({}, columns(rows))


def _vgg11(run: dict[str, Any], draws: Draws) -> Outcome:
    """VGG-11 of growing width, Xavier weights of gain sqrt(2), one output; zeros against ones.

    Descent at half the stability edge on 20 of scikit-learn's digits, enlarged to 32 pixels a
    side, labels -1 and 1. Beside the movement of weights and kernel: the share of ReLUs, over
    units and images, that are as they were.
    """
    x, y = (t.to(draws.device) for t in _zeros_and_ones(draws.generator))
    rows = []
    for width in counted(run["widths"], "width"):
        model = vgg11(1, in_channels=1, width=width, gain=2**0.5, generator=draws.generator)
        model = model.double().to(draws.device)
        kernel = tangent_kernel(model, x, outputs=0)
        before, gates = parameters_to_vector(model.parameters()).detach(), _gates(model, x)
        rate = len(y) / float(torch.linalg.eigvalsh(kernel)[-1])
        for _ in range(_STEPS):
            loss = (model(x)[:, 0] - y).square().mean() / 2
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, slope in zip(model.parameters(), slopes, strict=True):
                    p -= rate * slope
        after = tangent_kernel(model, x, outputs=0)
        with torch.no_grad():
            moved = parameters_to_vector(model.parameters()) - before
            loss = (model(x)[:, 0] - y).square().mean() / 2
        rows.append(
            {
                "m": round(64 * width),
                "weights": float(moved.norm() / before.norm()),
                "kernel": float((after - kernel).norm() / kernel.norm()),
                "stable": float((gates == _gates(model, x)).double().mean()),
                "loss": float(loss),
            }
        )
    return Outcome({}, columns(rows))


def _zeros_and_ones(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    images, labels = load_digits(n_class=2, return_X_y=True)
    some = torch.randperm(len(labels), generator=generator)[:_IMAGES]
    x = torch.from_numpy(images)[some].view(-1, 1, 8, 8) / 16
    x = nn.functional.interpolate(x - x.mean(), 32, mode="bilinear")
    return x / x.std(), 2.0 * torch.from_numpy(labels)[some] - 1


@torch.no_grad()
def _gates(model: nn.Sequential, x: Tensor) -> Tensor:
    """Whether every ReLU of every image is open."""
    found = []
    for layer in model:
        if isinstance(layer, nn.ReLU):
            found.append((x > 0).flatten())
        x = layer(x)
    return torch.cat(found)
