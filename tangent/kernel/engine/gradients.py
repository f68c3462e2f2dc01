"""Per-example gradients, one parameter after the other, from the same factors as the kernel."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tangent.kernel.engine.engine import Engine

__all__ = ["gradient_batches"]


def gradient_batches(
    engine: Engine, x: Tensor, batch_size: int | None, held: int, budget: int = 2**28
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, gradients of shape (b, o, p)) of consecutive batches.

    Every parameter is there once a batch. Without ``batch_size`` as many inputs are taken at
    once as have gradients of ``held`` numbers in ``budget`` bytes.
    """
    x = x.to(engine.run_dtype) if x.is_floating_point() else x
    start, o = 0, 1
    while start < len(x):
        size = batch_size or 1
        if engine.reads:
            size = 1
        elif batch_size is None and start:
            size = max(1, min(engine.fitting(x), budget // (o * held * engine.tensors_size)))
        part = x[start : start + size]
        for name, gradients in _of_batch(engine, part, first=start == 0):
            o = gradients.shape[1]
            yield name, gradients
        start += len(part)


def _of_batch(engine: Engine, x: Tensor, first: bool) -> Iterator[tuple[str, Tensor]]:
    if len(x) > 1 and engine.record(x).reads:
        for one in x.split(1):
            yield from _of_batch(engine, one, first)
        return
    pieces = engine.pieces(x)
    if first and engine.record(x).suspect:
        engine.check(pieces, x)
    opaque = engine.opaque_factors(x)
    for name in engine.names:
        if name in engine.opaque:
            yield name, opaque[name].gradients
        elif name in pieces:
            uses = pieces.pop(name)
            total = uses[0].dense()
            for use in uses[1:]:
                total = total + use.dense()
            yield name, total.to(engine.kept)
        else:
            shape = (len(x), engine.carried, engine.tensors[name].numel())
            yield name, torch.zeros(shape, dtype=engine.kept, device=engine.device)
