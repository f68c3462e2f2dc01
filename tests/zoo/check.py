"""What this project says of a network beside plain autograd and subtraction in float64."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from tangent import ScaledDifference, describe, tangent_features, tangent_kernel
from tangent.kernel.products import KernelProduct
from tests.zoo.networks import Entry

__all__ = ["Outcome", "outcome_of"]

ALPHAS = (1.0, 1e3, 1e7, math.inf)
ALLOWED = 1e-4


@dataclass
class Outcome:
    """Relative errors of one network, by what was asked of it; or its refusal."""

    name: str
    source: str
    parameters: int = 0
    errors: dict[str, float] = field(default_factory=dict)
    generic: tuple[str, ...] = ()
    refusal: str = ""
    right: bool = False
    cuts: bool = False  # gradients: at infinity it moves as its values do
    oracle: str = ""  # why plain PyTorch gives none

    def row(self) -> dict:
        """As JSON has it."""
        return asdict(self)


def outcome_of(name: str, entry: Entry, n: int = 2) -> Outcome:
    """Build the network and compare.

    Where an error is that of one gate which float32 decides otherwise, other inputs are taken.
    """
    torch.manual_seed(0)
    model = _scattered(entry.build().eval()).requires_grad_(True)
    found = Outcome(name, entry.source, sum(p.numel() for p in model.parameters()))
    x = entry.inputs(3 * n)
    for start in range(0, 3 * n, n):
        part = x[start : start + n]
        try:
            found.generic = describe(copied(model), part).generic
            tangent_kernel(copied(model), part, outputs="pseudo")
            found.errors = _errors(model, part)
            found.cuts = found.errors.pop("values", 0.0) > ALLOWED
        except (ValueError, TypeError) as error:
            found.refusal = str(error)
        if entry.refused:
            found.right = entry.refused in found.refusal
        else:
            found.right = not found.refusal and all(e < ALLOWED for e in found.errors.values())
        if found.right or found.refusal:
            break
    return found


def copied(model: nn.Module) -> nn.Module:
    """A copy: some networks keep what they made at an earlier call."""
    return copy.deepcopy(model)


def _scattered(model: nn.Module) -> nn.Module:
    """Weights that no symmetry hides: zeros of an initialization are moved away."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape))
        for m in model.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None:
                m.running_mean.normal_(0, 0.1)
                m.running_var.uniform_(0.8, 1.25)
    return model


def _errors(model: nn.Module, x: Tensor) -> dict[str, float]:
    wide = copied(model).double()
    x_wide = x.double() if x.is_floating_point() else x
    phi = _gradients(copied(wide), x_wide)
    kernel = _products(phi)
    found = tangent_kernel(copied(wide), x_wide).flatten(2).flatten(0, 1)
    errors = {"kernel": _relative(found, kernel)}
    trace = kernel.view(len(x), -1, len(x), kernel.shape[0] // len(x))
    trace = trace.diagonal(dim1=1, dim2=3).sum(-1)
    errors["trace"] = _relative(tangent_kernel(copied(wide), x_wide, outputs="trace"), trace)
    names = [name for name, _ in wide.named_parameters()]
    some = sorted({names[0], names[len(names) // 2], names[-1]}, key=names.index)
    whole = dict(zip(names, zip(*phi, strict=True), strict=True))
    features = tangent_features(copied(wide), x_wide, parameters=some, per_layer=True)
    for part in some:
        expected = torch.stack([g.flatten() for g in whole[part]])
        errors[f"features of {part}"] = _relative(features[part].flatten(0, 1), expected, kernel)
    v = torch.cos(torch.arange(len(kernel), dtype=torch.float64) + 1)
    errors["product"] = _relative(KernelProduct(copied(wide), x_wide)(v), kernel @ v)
    for alpha in ALPHAS:
        found = _difference(copied(model), wide, x, x_wide, alpha, whole)
        errors[f"alpha {alpha:g}"] = found
    if found > ALLOWED:  # gradients that are cut are no derivatives of the values
        errors["values"] = found
        errors["alpha inf"] = _difference(copied(model), wide, x, x_wide, math.inf, None)
    return errors


class Wide(TorchFunctionMode):
    """Within it, what a network casts to float32 is cast to float64: for the reference."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.float:
            func = Tensor.double
        args, kwargs = tree_map(
            lambda a: torch.float64 if a is torch.float32 else a, (args, kwargs or {})
        )
        return func(*args, **kwargs)


def _difference(model, wide, x, x_wide, alpha: float, phi: dict | None) -> float:
    """Error of the difference; at infinity beside the gradients, or else a central difference."""
    module = ScaledDifference(model.requires_grad_(True), alpha)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for delta, w in zip(module.delta, module.initial_weights(), strict=True):
            size = 0.1 * float(w.norm()) / max(w.numel(), 1) ** 0.5 + 1e-3
            delta.copy_(size * torch.randn(delta.shape, generator=generator))
        got = module(x).double().flatten()
    if math.isinf(alpha) and phi is None:
        sides = []
        for step in (1e-5, -1e-5):
            moved = copied(wide)
            with torch.no_grad(), Wide():
                for p, delta in zip(moved.parameters(), module.delta, strict=True):
                    p.add_(step * delta.double())
                sides.append(moved(x_wide).flatten())
        return _relative(got, (sides[0] - sides[1]) / 2e-5)
    if math.isinf(alpha):
        parts = zip(module.names, module.delta, strict=True)
        expected = sum(
            torch.stack([(g * d.double()).sum() for g in phi[name]]) for name, d in parts
        )
        return _relative(got, expected)
    moved, still = copied(wide), copied(wide)
    with torch.no_grad():
        for p, delta in zip(moved.parameters(), module.delta, strict=True):
            p.add_(delta.double() / alpha)
        with Wide():
            expected = alpha * (moved(x_wide) - still(x_wide)).flatten()
    return _relative(got, expected)


def _gradients(model: nn.Module, x: Tensor) -> list[list[Tensor]]:
    """Of every output of every input in every parameter, one backward pass each."""
    model.requires_grad_(True)
    rows = []
    for one in x:
        # Twice: of one input alone, the backward pass of torch 2.14's batch norm is wrong for
        # some strides. Through train mode, which clears what a network keeps.
        model.train().eval()
        with Wide():
            outputs = model(torch.stack([one, one]))
        outputs = outputs.reshape(2, -1)[0]
        for output in outputs:
            model.zero_grad()
            output.backward(retain_graph=True)
            rows.append(
                [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
            )
            for p in model.parameters():
                p.grad = None
    return rows


def _products(phi: list[list[Tensor]]) -> Tensor:
    return torch.stack(
        [
            torch.stack([sum((a * b).sum() for a, b in zip(r, s, strict=True)) for s in phi])
            for r in phi
        ]
    )


def _relative(got: Tensor, expected: Tensor, floor: Tensor | None = None) -> float:
    scale = expected.abs().max()
    if floor is not None:  # features that are zero beside the others
        scale = torch.maximum(scale, 1e-6 * floor.diagonal().max().sqrt())
    return float((got.detach().double() - expected).abs().max() / scale.clamp(min=1e-300))
