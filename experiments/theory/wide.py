"""The remark on wide networks: alpha = 1, standard parametrization, the wider the lazier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacrev

from experiments.runs.results import Outcome
from experiments.usage import steps
from tangent import tangent_kernel
from tangent.nets import vgg11

__all__ = ["wide_networks", "wide_vgg11"]

_STEPS = 200  # of descent at half the stability edge
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}
_IMAGES = 20


def wide_networks(run: dict[str, Any], generator: torch.Generator, device: str) -> Outcome:
    """The wider, the lazier: alpha = 1, standard parametrization, both hidden layers of m units.

    Weights N(0, 1 / fan-in), descent at half the stability edge on 20 inputs; how far weights and
    tangent kernel are from where they were, relative to where that is.
    """
    n, d = 20, 5
    x = torch.randn(n, d, generator=generator, dtype=torch.float64).to(device)
    x = x / x.norm(dim=1, keepdim=True)
    y = d**0.5 * x[:, 0]  # of mean square one; chosen after labels at random had failed the verdict
    phi = _ACTIVATIONS[run["model"]]
    rows = []
    for m in steps(run["widths"], "width"):
        shapes = [(m, d), (m, m), (1, m)]
        sizes = [a * b for a, b in shapes]
        parts = [
            torch.randn(*s, generator=generator, dtype=torch.float64) / s[1] ** 0.5 for s in shapes
        ]
        w0 = torch.cat([p.flatten() for p in parts]).to(device)

        def outputs(w: Tensor, sizes=sizes, shapes=shapes) -> Tensor:
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
    return Outcome({}, {name: [row[name] for row in rows] for name in rows[0]})


def wide_vgg11(run: dict[str, Any], generator: torch.Generator, device: str) -> Outcome:
    """VGG-11 of growing width, Xavier weights of gain sqrt(2), one output; zeros against ones.

    Descent at half the stability edge on 20 of scikit-learn's digits, enlarged to 32 pixels a
    side, labels -1 and 1. Beside the movement of weights and kernel: the share of ReLUs, over
    units and images, that are as they were.
    """
    x, y = _zeros_and_ones(generator)
    x, y = x.to(device), y.to(device)
    rows = []
    for width in steps(run["widths"], "width"):
        model = vgg11(1, in_channels=1, width=width, gain=2**0.5, generator=generator)
        model = model.double().to(device)
        kernel = tangent_kernel(model, x, outputs=0)
        before, gates = [p.detach().clone() for p in model.parameters()], _gates(model, x)
        rate = len(y) / float(torch.linalg.eigvalsh(kernel)[-1])
        for _ in range(_STEPS):
            loss = (model(x)[:, 0] - y).square().mean() / 2
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, slope in zip(model.parameters(), slopes, strict=True):
                    p -= rate * slope
        after = tangent_kernel(model, x, outputs=0)
        moved = torch.cat(
            [(p.detach() - q).flatten() for p, q in zip(model.parameters(), before, strict=True)]
        )
        start = torch.cat([q.flatten() for q in before])
        rows.append(
            {
                "m": round(64 * width),
                "weights": float(moved.norm() / start.norm()),
                "kernel": float((after - kernel).norm() / kernel.norm()),
                "stable": float((gates == _gates(model, x)).double().mean()),
                "loss": float((model(x)[:, 0] - y).square().mean() / 2),
            }
        )
    return Outcome({}, {name: [row[name] for row in rows] for name in rows[0]})


def _zeros_and_ones(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

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
