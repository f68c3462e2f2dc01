"""Slow versions of the tangent features and kernel: one backward pass an output, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def naive_features(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Gradients by parameter, each of shape (n, k, p)."""
    names, params = zip(*model.named_parameters(), strict=True)
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for one in x:
        output = model(one.unsqueeze(0)).flatten()
        per_output = [
            torch.autograd.grad(f, params, retain_graph=True, allow_unused=True) for f in output
        ]
        for index, (name, p) in enumerate(zip(names, params, strict=True)):
            gradients = [g[index] for g in per_output]
            rows[name].append(
                torch.stack(
                    [
                        torch.zeros(p.numel(), dtype=p.dtype) if g is None else g.flatten()
                        for g in gradients
                    ]
                )
            )
    return {name: torch.stack(parts) for name, parts in rows.items()}


def naive_kernel(model: nn.Module, x1: Tensor, x2: Tensor | None = None) -> Tensor:
    """The full kernel of shape (n1, k, n2, k)."""
    phi1 = torch.cat(list(naive_features(model, x1).values()), dim=2)
    phi2 = phi1 if x2 is None else torch.cat(list(naive_features(model, x2).values()), dim=2)
    return torch.einsum("iap,jbp->iajb", phi1, phi2)
