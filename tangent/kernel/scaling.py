"""Per-layer scaling of the tangent kernel: how much each layer may learn.

Multiplying the features of layer l by s_l turns the kernel into ``sum_l s_l^2 K_l``. For training
that is a learning rate of ``lr * s_l^2`` in layer l, so that the scales precondition SGD without a
change of the network. Scales that balance the layers do for a standard parametrization what the
NTK parametrization does by construction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tangent.models import ScaledDifference

__all__ = ["balancing_scales", "parameter_groups", "scaled_kernel"]


def balancing_scales(shares: Mapping[str, Tensor]) -> dict[str, float]:
    """Scales that give every layer an equal part of the kernel's trace, which is kept.

    Parameters
    ----------
    shares : mapping of str to Tensor
        ``tangent_kernel(model, x, per_layer=True)``: the kernel's share of each parameter.

    Returns
    -------
    dict of str to float
        0 for a parameter without influence on the outputs.
    """
    traces = {name: float(_diagonal(share).sum()) for name, share in shares.items()}
    if not all(math.isfinite(trace) for trace in traces.values()):
        raise ValueError("shares must be finite; the trace of one is not: check inputs and weights")
    active = [trace for trace in traces.values() if trace > 0]
    if not active:
        raise ValueError("shares must hold a kernel that is not zero; all of them are")
    part = sum(active) / len(active)
    return {name: (part / t) ** 0.5 if t > 0 else 0.0 for name, t in traces.items()}


def scaled_kernel(shares: Mapping[str, Tensor], scales: Mapping[str, float]) -> Tensor:
    """Return ``sum_l s_l^2 K_l`` from the shares of the layers, in their shape."""
    _check_names(shares, scales)
    total = [scales[name] ** 2 * share for name, share in shares.items()]
    return torch.stack(total).sum(0)


def parameter_groups(
    model: nn.Module, scales: Mapping[str, float], lr: float
) -> list[dict[str, Any]]:
    """Parameter groups for ``torch.optim.SGD`` that train with the scaled kernel.

    ``model`` is the network, or a linearized one (`tangent.linearize`), whose displacements go by
    the names of the network's parameters; the learning rate of a layer is ``lr * s_l^2``.
    Parameters with ``requires_grad=False`` are in no group, and may be missing from ``scales``.
    """
    moving = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if isinstance(model, ScaledDifference):
        moving = dict(zip(model.names, model.delta, strict=True))
        fixed = set(dict(model.network.named_parameters())) - set(moving)
    else:
        fixed = set(dict(model.named_parameters())) - set(moving)
    named, scales = moving, {n: s for n, s in scales.items() if n not in fixed}
    _check_names(named, scales)
    return [{"params": [p], "lr": lr * scales[name] ** 2} for name, p in named.items()]


def _diagonal(share: Tensor) -> Tensor:
    if share.ndim == 4:
        return torch.einsum("iaia->ia", share)
    return torch.diagonal(share, dim1=0, dim2=1)


def _check_names(known: Mapping[str, Any], scales: Mapping[str, float]) -> None:
    if set(known) != set(scales):
        raise ValueError(
            f"scales must have one entry for each of {', '.join(known)}; got {', '.join(scales)}"
        )
