"""The empirical tangent kernel of a network (Jacot et al. 2018; Chizat et al. 2019, eq. 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tangent.engine.cost import Problem
from tangent.engine.engine import Engine
from tangent.engine.functional import check_inputs

__all__ = ["tangent_kernel"]

_NAMED = ("full", "diagonal", "trace", "pseudo")


def tangent_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: str | int = "full",
    parameters: Sequence[str] | None = None,
    per_layer: bool = False,
    batch_size: int | None = None,
    memory_budget: int | None = None,
    dtype: torch.dtype | None = None,
    accumulate: torch.dtype | None = None,
    progress: bool | Callable[[int, int], Any] = False,
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
    parameters : sequence of str, optional
        Names of parameters, or of modules for all parameters below them. All by default,
        whatever their ``requires_grad``.
    per_layer : bool
        Return a dict from parameter name to its share; the shares sum to the kernel.
    batch_size : int, optional
        Inputs whose factors are held at once, on either side. Bounds the memory; the result
        does not depend on it beyond rounding.
    memory_budget : int, optional
        Bytes the working arrays may take beside the result; chooses ``batch_size``.
    dtype : torch.dtype, optional
        Of the factors; that of the weights by default.
    accumulate : torch.dtype, optional
        In which the layers are summed, and of the result; ``dtype`` by default. float64 where
        the kernel is to be solved with.
    progress : bool or callable
        True shows a bar with the time left; a callable gets (pairs done, pairs in all).

    Returns
    -------
    Tensor, or dict of Tensors
        On the device of the weights, in dtype ``accumulate``.

    Raises
    ------
    ValueError
        If an argument breaks its rule.
    """
    x1 = check_inputs(model, x1, "x1")
    x2 = x2 if x2 is None else check_inputs(model, x2, "x2")
    _check_outputs(outputs)
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    problem = Problem(n1, n2, symmetric=x2 is None, full=outputs == "full")
    engine = Engine(model, outputs, problem, parameters, dtype, accumulate)
    left = engine.factors(x1)
    right = None if x2 is None else engine.factors(x2)
    if per_layer:
        return {n: _shaped(share, outputs) for n, share in engine.shares(left, right)}
    return _shaped(engine.total(left, right), outputs)


def _shaped(total: Tensor, outputs: str | int) -> Tensor:
    if outputs == "full":
        return total
    return total.permute(1, 2, 0) if outputs == "diagonal" else total[0]


def _check_outputs(outputs: str | int) -> None:
    if outputs in _NAMED or (isinstance(outputs, int) and not isinstance(outputs, bool)):
        return
    raise ValueError(
        f"outputs must be one of {', '.join(map(repr, _NAMED))} or the index of an output; "
        f"got {outputs!r}"
    )
