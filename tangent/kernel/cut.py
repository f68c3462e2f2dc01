"""Networks that cut gradients, as autograd differentiates them.

A detached value, the data of a tensor, a part without gradients: what autograd then gives are not
the derivatives of the network's values, which differences follow. Tangent features and kernels are
made of what autograd gives, and so are these products.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tangent.capture import evaluated_copy, picked
from tangent.kernel.engine.trust import tolerated
from tangent.models.propagation import ScaledDifference
from tangent.operations.elementary import TwiceBackwards
from tangent.operations.pointwise import called


def plain_output(network: nn.Module, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The network's own output at other weights, (b, k), to be differentiated twice."""
    with sdpa_kernel(SDPBackend.MATH), TwiceBackwards():
        return picked(called(network, weights, (x,))).reshape(len(x), -1)


def pushed_forward(network: nn.Module, x: Tensor, delta: dict[str, Tensor]) -> Tensor:
    """The Jacobian that autograd gives times a displacement, (b, k), by two backward passes."""
    own = dict(network.named_parameters())
    with torch.enable_grad():
        leaves = {name: own[name].detach().requires_grad_() for name in delta}
        out = plain_output(network, x, leaves)
        seeds = torch.zeros_like(out, requires_grad=True)
        if not out.requires_grad:
            return seeds.detach()
        pulled = torch.autograd.grad(
            out, list(leaves.values()), seeds, create_graph=True, materialize_grads=True
        )
        along = torch.stack([(g * d).sum() for g, d in zip(pulled, delta.values(), strict=True)])
        if not along.requires_grad:
            return seeds.detach()
        return torch.autograd.grad(along.sum(), seeds, materialize_grads=True)[0]


def cuts_gradients(linear: ScaledDifference, x: Tensor) -> bool:
    """Whether autograd gives other gradients than the derivatives of the network's values.

    One combination of the outputs at two inputs is compared, where the record has a reason.
    """
    x = torch.cat([x, x]) if len(x) == 1 else x[:2].clone()
    if not linear.suspect(x):
        return False
    with torch.enable_grad():
        twin = evaluated_copy(linear.network).eval()
        own = dict(twin.named_parameters())
        leaves = {name: own[name].requires_grad_() for name in linear.names}
        moving = {name: p.detach().requires_grad_() for name, p in leaves.items()}
        # Not at weights that are handed in: checkpoints run again, with those of the network.
        _differentiated(picked(called(twin, None, (x,))))
        _differentiated(linear.network_output(x, moving))
    return any(
        not (_gradient(p) - _gradient(moving[name])).norm()
        <= tolerated(p.dtype) * _gradient(p).norm()
        for name, p in leaves.items()
    )


def _differentiated(out: Tensor) -> None:
    out = out.reshape(len(out), -1)
    weights = torch.cos(torch.arange(out.shape[1]) + 1.0).to(out)
    if out.requires_grad:
        (out @ weights).sum().backward()  # reentrant checkpoints refuse torch.autograd.grad


def _gradient(p: Tensor) -> Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad
