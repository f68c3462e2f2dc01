"""Per-example gradients, one parameter after the other, from the same passes as the kernel."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from tangent.kernel.engine.passes import backward, plain_jacobians, zero_gradient
from tangent.kernel.engine.plan import Network
from tangent.kernel.engine.trust import mistaken
from tangent.operations.pieces import Piece

__all__ = ["gradient_batches"]


def gradient_batches(
    network: Network, x: Tensor, batch_size: int | None, held: int, budget: int = 2**28
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, gradients of shape (b, o, p)) of consecutive batches.

    Every parameter is there once a batch. Without ``batch_size`` as many inputs are taken at
    once as have gradients of ``held`` numbers in ``budget`` bytes.
    """
    x = network.cast(x)
    network.records.of(x)  # which checks what two inputs give
    start, o = 0, 1
    opaque: set[str] = set()
    while start < len(x):
        size = batch_size or 1
        if network.records.reads:
            size = 1
        elif batch_size is None and start:
            fitting = network.fitting(x, network.working)
            size = max(1, min(fitting, budget // (o * held * network.run_dtype.itemsize)))
        part = x[start : start + size]
        for name, gradients in _of_batch(network, part, start == 0, opaque):
            o = gradients.shape[1]
            yield name, gradients
        start += len(part)


def _of_batch(
    network: Network, x: Tensor, first: bool, opaque: set[str]
) -> Iterator[tuple[str, Tensor]]:
    """Gradients of a batch; what the ``first`` one's record got wrong is added to ``opaque``."""
    if len(x) > 1 and network.records.of(x).reads:
        for one in x.split(1):
            yield from _of_batch(network, one, first, opaque)
        return
    pieces: dict[str, list[Piece]] = {}
    carried = backward(network, x, pieces.__setitem__, opaque)
    if first and network.records.of(x).suspect:
        opaque |= mistaken(network, pieces, x[:2])
    jacobians = plain_jacobians(network, opaque, x)
    for name in network.names:
        if name in jacobians:
            yield name, jacobians[name]
        elif name in pieces:
            uses = pieces.pop(name)
            total = uses[0].dense()
            for use in uses[1:]:
                total = total + use.dense()
            yield name, total.to(network.kept)
        else:
            yield name, zero_gradient(network, name, (len(x), carried)).to(network.kept)
