"""The empirical tangent kernel of a network (Jacot et al. 2018; Chizat et al. 2019, eq. 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from tangent.capture import picking
from tangent.capture.functional import check_inputs, first_weight
from tangent.kernel.engine.blocks import (
    FactorCache,
    Reporter,
    block_list,
    default_budget,
    fitting_size,
    place,
)
from tangent.kernel.engine.cost import Problem
from tangent.kernel.engine.factors import Differing
from tangent.kernel.engine.passes import factors_of, planned_factors
from tangent.kernel.engine.plan import Network, network_of
from tangent.kernel.engine.sums import shares, total
from tangent.machine.modes import ordinary_mode, ordinary_network, ordinary_tensor
from tangent.solve.system import GIB

__all__ = ["tangent_kernel"]

_ALWAYS_FITS = 16  # inputs; asking how much memory a network takes would cost more
_NAMED = ("full", "diagonal", "trace", "pseudo")


@overload
def tangent_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = ...,
    *,
    per_layer: Literal[False] = ...,
    **options: Any,
) -> Tensor: ...
@overload
def tangent_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = ...,
    *,
    per_layer: Literal[True],
    **options: Any,
) -> dict[str, Tensor]: ...
@ordinary_mode
def tangent_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: str | int = "full",
    parameters: str | Sequence[str] | None = None,
    output: Any = None,
    per_layer: bool = False,
    batch_size: int | None = None,
    memory_budget: int | None = None,
    dtype: torch.dtype | None = None,
    accumulate: torch.dtype | None = None,
    progress: bool | Callable[[int, int], Any] = False,
    distributed: bool = False,
) -> Tensor | dict[str, Tensor]:
    """Inner products of the tangent features of all pairs of inputs.

    With phi = ``tangent_features(model, x)`` of shape (n, k, p), k the number of outputs:

    ========== ================= ======================================================
    outputs    shape             value
    ========== ================= ======================================================
    "full"     (n1, k, n2, k)    ``einsum("iap,jbp->iajb", phi1, phi2)``
    "diagonal" (n1, n2, k)       ``einsum("iap,jap->ija", phi1, phi2)``
    "trace"    (n1, n2)          the sum of "diagonal" over the k outputs (not the mean)
    "pseudo"   (n1, n2)          the kernel of the sum of the outputs divided by sqrt(k)
    a (int)    (n1, n2)          the kernel of output a, ``full[:, a, :, a]``
    ========== ================= ======================================================

    Parameters
    ----------
    model : nn.Module
        Any network that treats the inputs of a batch independently. Read at its present weights,
        in evaluation mode, and left as found. Outputs with several axes are flattened to k.
    x1 : Tensor of shape (n1, *input)
    x2 : Tensor of shape (n2, *input), optional
        ``x1`` by default; the kernel is then exactly symmetric and costs half.
    outputs : {"full", "diagonal", "trace", "pseudo"} or int
    parameters : str or sequence of str, optional
        Names of parameters, of modules for all parameters below them, or patterns of names with
        ``*`` and ``?``. All by default, whatever their ``requires_grad``.
    output : str, int, callable or sequence of such, optional
        Which of the network's outputs counts, where it returns a dict or a tuple ("logits").
    per_layer : bool
        Return a dict from parameter name to its share; the shares sum to the kernel.
    batch_size : int, optional
        Inputs whose factors are held at once, on either side. Bounds the memory; the result
        does not depend on it beyond rounding.
    memory_budget : int, optional
        Bytes the working arrays may take beside the result; chooses ``batch_size``. Half of
        what is free by default.
    dtype : torch.dtype, optional
        Of the factors; that of the weights by default, but float32 for float16 weights, whose
        inner products float16 does not hold.
    accumulate : torch.dtype, optional
        In which the layers are summed, and of the result; ``dtype`` by default. float64 where
        the kernel is to be solved with.
    progress : bool or callable
        True shows a bar with the time left; a callable gets (pairs done, pairs in all).
    distributed : bool
        Share the rows of blocks among the processes of the default group of
        ``torch.distributed`` (under ``torchrun``); every process calls this with the same
        arguments and gets the whole kernel.

    Returns
    -------
    Tensor, or dict of Tensors
        On the device of the weights, in dtype ``accumulate``.

    Raises
    ------
    TypeError
        If the model returns no tensor, or several, none of them named logits or ``output``.
    ValueError
        If an argument breaks its rule, the model returns no row for each input, or the kernel is
        not finite: its entries exceed the range of its dtype, or the gradients are NaN.
    MemoryError
        If the result is more than is free, before it is computed.

    Notes
    -----
    In float32 on a CPU, cotangents pass small 3x3 convolutions by Winograd's algorithm, whose
    rounding is ten times that of the direct one; in the benchmarks' kernels it moves no more than
    the seventh digit. ``dtype=torch.float64`` does without.
    """
    model = picking(ordinary_network(model), output)
    x1 = ordinary_tensor(check_inputs(model, x1, "x1"))
    x2 = x2 if x2 is None else ordinary_tensor(check_inputs(model, x2, "x2"))
    check_outputs(outputs)
    dtype = factor_dtype(model) if dtype is None else dtype
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    problem = Problem(n1, n2, symmetric=x2 is None, full=outputs == "full")
    network = network_of(model, outputs, parameters, dtype, accumulate)
    free = _check_memory(network, x1, (n1, n2), len(network.names) if per_layer else 1)
    limits = batch_size, memory_budget, free
    names = network.names if per_layer else ()

    def found_by(alike: bool) -> dict[str, Tensor]:
        cache, size = _prepared(network, problem, (x1, x2), limits, distributed, alike)
        if distributed:
            # At least as many rows of blocks as processes, whatever the memory allows.
            size = min(size, -(-n1 // (2 * torch.distributed.get_world_size())))
            size = _agreed(size, network.device)
        return _assembled(cache, size, progress, distributed, names)

    try:
        found = found_by(alike=not distributed)
    except Differing:
        found = found_by(alike=False)
    if per_layer:
        return {name: _shaped(share, outputs) for name, share in found.items()}
    return _shaped(found[""], outputs)


def _agreed(size: int, device: torch.device) -> int:
    """The smallest of the processes' block sizes: what is free differs, the blocks must not."""
    smallest = torch.tensor(size, device=device)
    torch.distributed.all_reduce(smallest, torch.distributed.ReduceOp.MIN)
    return int(smallest)


def _check_memory(network: Network, x: Tensor, sizes: tuple[int, int], copies: int) -> int:
    """Bytes that are free beside the result; not asked for where it is small.

    Raises
    ------
    MemoryError
        If the result itself is more than is free, before any of it is allocated.
    """
    n1, n2 = sizes
    if max(n1, n2) <= _ALWAYS_FITS:
        return 0  # not looked up: it takes a tenth of a small kernel's time
    free = 2 * default_budget(network.device)
    k = network.output_count(x) if network.outputs in ("full", "diagonal") else 1
    values = copies * (k * k if network.outputs == "full" else k)
    each = values * torch.empty((), dtype=network.summed).element_size()
    if n1 * n2 * each <= free:
        return free - n1 * n2 * each
    fits = int(min(n2, (free / each) ** 0.5))
    instead = "outputs='trace' or 'pseudo', whose kernel is smaller, " if values > 1 else ""
    raise MemoryError(
        f"the kernel of {n1} by {n2} inputs with outputs={network.outputs!r} needs "
        f"{n1 * n2 * each / GIB:.1f} GiB and {free / GIB:.1f} GiB are free; {fits} by {fits} "
        f"inputs would fit; take {instead}stored_tangent_kernel, which writes it to disk, or "
        "conjugate_gradients (solver='cg' of the estimators), which never forms it"
    )


def _prepared(
    network: Network,
    problem: Problem,
    inputs: tuple[Tensor, Tensor | None],
    limits: tuple[int | None, int | None, int],
    distributed: bool,
    alike: bool,
) -> tuple[FactorCache, int]:
    """The plan, in a cache that has the factors it was made from; and the size of a block.

    ``limits`` are the batch size and the budget that were asked for, and the bytes that are free.
    """
    (x1, x2), (size, budget, free) = inputs, limits
    if size is not None and size < 1:
        raise ValueError(f"batch_size must be at least 1; got {size}")
    n = max(problem.n1, problem.n2)
    if size is None and budget is None and n <= _ALWAYS_FITS:
        size = n
    if size is not None and not distributed:
        plan, factors = planned_factors(network, problem, x1[:size], alike=alike)
        return FactorCache(plan, x1, x2, factors), size
    plan, factors = planned_factors(network, problem, x1[:1], alike=alike)
    if size is None:
        budget = free // 2 if budget is None else budget
        size = fitting_size(plan, factors, problem.n1, problem.n2, budget)
    return FactorCache(plan, x1, x2), size


def _assembled(
    cache: FactorCache,
    size: int,
    progress: bool | Callable[[int, int], Any],
    distributed: bool,
    names: Sequence[str],
) -> dict[str, Tensor]:
    """Compute block by block; the sum over the parameters goes by the name ``""``."""
    plan, problem = cache.plan, cache.plan.problem
    blocks = block_list(problem.n1, problem.n2, size, problem.symmetric)
    if distributed:
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        blocks = [b for b in blocks if (b.start1 // size) % world == rank]
    report = Reporter(progress, sum(b.pairs for b in blocks))
    totals: dict[str, Tensor] = {}
    for block in blocks:
        left, right = cache.pair(block)
        parts = dict(shares(plan, left, right)) if names else {"": total(plan, left, right)}
        if len(blocks) == 1 and not distributed:
            totals = parts
        for name, part in parts.items():
            if name not in totals:
                totals[name] = _empty(problem, part)
            if totals[name] is not part:
                place(totals[name], block, part, problem.full, problem.symmetric)
            check_finite(part)
        report.add(block.pairs)
    report.close()
    if distributed:
        _reduce(cache, totals, names or [""])
    return totals


def _empty(problem: Problem, part: Tensor) -> Tensor:
    n1, n2 = problem.n1, problem.n2
    shape = (n1, part.shape[1], n2, part.shape[1]) if problem.full else (len(part), n1, n2)
    return part.new_zeros(shape)


def _reduce(cache: FactorCache, totals: dict[str, Tensor], names: Sequence[str]) -> None:
    """Sum over the processes; one without blocks of its own takes part with zeros."""
    for name in names:
        if name not in totals:
            part = total(cache.plan, factors_of(cache.plan, cache.inputs[0][:1]))
            totals[name] = _empty(cache.plan.problem, part)
        torch.distributed.all_reduce(totals[name])


def factor_dtype(model: nn.Module) -> torch.dtype | None:
    """float32 for weights in float16, which ends at 65504; None for those of other dtypes."""
    weight = first_weight(model)
    return torch.float32 if weight is not None and weight.dtype == torch.float16 else None


def check_finite(part: Tensor) -> None:
    """Raise a ValueError where an entry of a kernel is infinite or NaN."""
    if torch.isfinite(part).all():
        return
    largest = torch.finfo(part.dtype).max
    raise ValueError(
        f"the kernel must be finite; in {str(part.dtype).removeprefix('torch.')}, which ends at "
        f"{largest:.3g}, it has infinite or NaN entries; check that the network's gradients are "
        "finite, scale the inputs or weights down, or pass dtype=torch.float64"
    )


def _shaped(total: Tensor, outputs: str | int) -> Tensor:
    if outputs == "full":
        return total
    return total.permute(1, 2, 0) if outputs == "diagonal" else total[0]


def check_outputs(outputs: str | int) -> None:
    """Raise ValueError unless ``outputs`` is a name or an index."""
    if outputs in _NAMED or (isinstance(outputs, int) and not isinstance(outputs, bool)):
        return
    raise ValueError(
        f"outputs must be one of {', '.join(map(repr, _NAMED))} or the index of an output; "
        f"got {outputs!r}"
    )
