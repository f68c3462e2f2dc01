"""Fit by conjugate gradients on products that never form the kernel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tangent.estimators._dual import DualFit
from tangent.estimators._ensemble import EnsembleKernel
from tangent.kernel.products import KernelProduct
from tangent.solve.conjugate import Iteration, conjugate_gradients
from tangent.solve.nystrom import NystromPreconditioner, nystrom_preconditioner
from tangent.solve.system import available_bytes
from tangent.training.distributed import ONE, Share

_PASSES = 16  # of one product from which on the kernel is formed where it fits
_SUBSET = 2000  # rows of the exact problem on which ridge and temperature are chosen


@dataclass(frozen=True)
class PrimalFit:
    """As `DualFit`, from conjugate gradients.

    ``displacements`` holds, network by network, one displacement of the weights for every column
    of the coefficients; None where predictions go through the kernel with the training inputs.
    """

    coefficients: Float[Tensor, "n k"]
    constant: Float[Tensor, " k"]
    error: float
    ridge: float
    unit: float
    condition_number: float
    temperature: float | None
    log: list[Iteration]
    displacements: list[list[dict[str, Tensor]]] | None


def subset_size(n: int, width: int) -> int:
    """Rows of an exact problem small enough to choose the ridge on."""
    return min(n, max(50, _SUBSET // width))


@dataclass(frozen=True)
class Iterated:
    """How a fit by conjugate gradients is made."""

    tolerance: float
    max_iterations: int
    rank: int  # of the preconditioner; none at 0
    batch_size: int
    device: torch.device
    share: Share = ONE  # of the inputs: each process multiplies with the features of its own


@dataclass(frozen=True)
class _Weighting:
    """Weighted, centred features' coefficients, and those of the features themselves."""

    root: Float[Tensor, " n"]
    shares: Float[Tensor, " n"] | None  # None without an intercept

    def by_input(self, v: Tensor) -> Tensor:
        return v.reshape(len(self.root), -1, v.shape[-1])

    def raw(self, v: Tensor) -> Tensor:
        """Coefficients of the features from those of the weighted, centred ones."""
        u = self.root[:, None, None] * self.by_input(v)
        if self.shares is not None:
            u = u - self.shares[:, None, None] * u.sum(0)
        return u.reshape(v.shape)

    def weighted(self, v: Tensor) -> Tensor:
        """Outputs of the weighted, centred features from those of the features."""
        u = self.by_input(v)
        if self.shares is not None:
            u = u - torch.tensordot(self.shares, u, dims=1)
        return (self.root[:, None, None] * u).reshape(v.shape)


def primal_fit(
    kernel: EnsembleKernel,
    x: Tensor,
    y: Float[Tensor, "n k"],
    weights: Float[Tensor, " n"],
    chosen: DualFit,
    how: Iterated,
    *,
    intercept: bool,
    generator: torch.Generator,
) -> PrimalFit:
    """Weighted kernel ridge regression with a free constant, at the ridge of ``chosen``.

    ``chosen`` is the exact fit on a subset; its ridge is taken in absolute units. Of several
    processes each multiplies with the features of its share of the inputs; vectors are whole in
    all of them.
    """
    products = _products(kernel, how.share.of(x)[0], how)
    n, width = len(x), products[0].width
    passes = products[0].k if kernel.outputs == "trace" else 1  # a column and product
    matrix = None
    if kernel.outputs != "full" and _cheaper_formed(n, y.shape[1] * passes):
        matrix = kernel(x, device=how.device, distributed=how.share.size > 1)
    shares = weights / weights.sum()
    weighting = _Weighting(weights.sqrt(), shares if intercept else None)
    constant = shares @ y if intercept else torch.zeros(y.shape[1]).to(y)

    def plain(v: Tensor) -> Tensor:
        if matrix is not None:
            return matrix @ v
        total = products[0](v)
        for product in products[1:]:
            total = total + product(v)
        return total / (len(products) * passes)

    def system(v: Tensor) -> Tensor:
        return weighting.weighted(plain(weighting.raw(v)))

    ridge = chosen.ridge * chosen.unit
    target = (weighting.root[:, None] * (y - constant)).reshape(n * width, -1)
    preconditioner = None
    if how.rank:
        preconditioner = nystrom_preconditioner(
            system, len(target), rank=min(how.rank, len(target)), ridge=ridge, generator=generator
        )
    solved = conjugate_gradients(
        system,
        target,
        ridge=ridge,
        preconditioner=preconditioner,
        tolerance=how.tolerance,
        max_iterations=how.max_iterations,
        method="block" if target.shape[1] > 1 else "columns",
    )
    coefficients = weighting.raw(solved.coefficients)
    if intercept:
        moved = weighting.by_input(plain(coefficients))
        constant = constant - torch.tensordot(shares, moved, dims=1).reshape(-1)
    displacements = None
    if kernel.outputs != "trace" and matrix is None:
        displacements = [
            [
                {name: d.cpu() / len(products) for name, d in product.displacement(c).items()}
                for c in coefficients.T
            ]
            for product in products
        ]
    for network in kernel.networks:
        network.to("cpu")
    return PrimalFit(
        coefficients.reshape(n, -1),
        constant,
        chosen.error,
        chosen.ridge,
        chosen.unit,
        _condition_number(preconditioner),
        chosen.temperature,
        solved.log,
        displacements,
    )


def _products(kernel: EnsembleKernel, x: Tensor, how: Iterated) -> list[KernelProduct]:
    """Products with the kernel of every network; of the rows ``x`` of this process."""
    share = how.share
    return [
        KernelProduct(
            network.to(how.device),
            x.to(how.device),
            outputs=kernel.outputs,
            parameters=kernel.parameters,
            batch_size=how.batch_size,
            group=None if share.size == 1 else (share.group or "world"),
        )
        for network in kernel.networks
    ]


def _cheaper_formed(n: int, passes: int) -> bool:
    """Whether to hold the kernel: it fits, and one product would take many passes over the data.

    To form it takes as many passes as there are outputs, once for all columns and iterations.
    """
    return passes > _PASSES and 4 * 8 * n**2 < available_bytes()


def _condition_number(preconditioner: NystromPreconditioner | None) -> float:
    """By the leading eigenvalue and the ridge alone; infinite without a ridge."""
    if preconditioner is None:
        return float("nan")
    top, ridge = float(preconditioner.eigenvalues[0]), float(preconditioner.ridge)
    return (top + ridge) / ridge if ridge else float("inf")


def primal_outputs(
    kernel: EnsembleKernel, fit: PrimalFit, x: Tensor, batch_size: int, device: torch.device
) -> Tensor:
    """Return the predictions (n_new, k) of the displaced, linearized networks."""
    assert fit.displacements is not None
    total = fit.constant.expand(len(x), -1).clone()
    for network, columns in zip(kernel.networks, fit.displacements, strict=True):
        product = KernelProduct(
            network.to(device),
            x[:1].to(device),
            outputs=kernel.outputs,
            parameters=kernel.parameters,
            batch_size=batch_size,
        )
        for j, delta in enumerate(columns):
            on_device = {name: d.to(device) for name, d in delta.items()}
            moved = product.linear_outputs(on_device, x.to(device)).to(total)
            if kernel.outputs == "full":
                total += moved
            else:
                total[:, j] += moved
        network.to("cpu")
    return total
