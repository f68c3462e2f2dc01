"""Matrix products, on a CPU by whichever of torch's two libraries does them faster.

``torch.mm`` goes to the BLAS that torch was built with, convolutions and compiled models to
oneDNN. Where the product is not small, oneDNN does a third more a second on the processors with
AVX-512 from Intel that were tried, and twice as much on those from AMD (torch 2.14.1 with MKL
2024.2); where it is not built in, or the arrays are not as it takes them, `torch.mm` is used.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

_LONG = 256  # entries of a row, from which it pays earlier
_LITTLE = 2**18  # multiply-adds of such rows; below, the calls' own time weighs more
_ENOUGH = 2**20  # multiply-adds of any


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a @ b.T``, plus ``bias`` of shape (columns,)."""
    count = a.shape[0] * b.numel()
    small = count < (_LITTLE if a.shape[1] >= _LONG else _ENOUGH)
    # Rows of ``b`` with gaps between them would be multiplied a thousand times slower.
    dense = b.is_contiguous() or b.t().is_contiguous()
    if small or not dense or not _suited(a) or b.dtype != a.dtype or not _has_onednn():
        return torch.mm(a, b.t()) if bias is None else torch.addmm(bias, a, b.t())
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")


_SUMMED = 32  # entries at least that a batched product sums, to pay for the copy of the results


def batched_product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """``a @ b`` of matrices (n, m, p) and (n, p, k), into ``out`` where it is given."""
    n, m, p = a.shape
    k = b.shape[2]
    large = p >= _SUMMED and m * p * k >= _ENOUGH
    if not large or not _suited(a[0]) or not _has_onednn():
        return torch.bmm(a, b, out=out)
    if out is None:
        out = a.new_empty(n, m, k)
    for one, two, to in zip(a, b, out, strict=True):
        to.copy_(product(one, two.t()))
    return out


def add_product(total: Tensor, a: Tensor, b: Tensor, alpha: float) -> None:
    """``total += alpha * a @ b.T``, the product in the factors' dtype."""
    if total.dtype == a.dtype and not (_suited(a) and _has_onednn()):
        total.addmm_(a, b.t(), alpha=alpha)
    else:
        total.add_(product(a, b), alpha=alpha)


def _suited(a: Tensor) -> bool:
    dense = a.stride(1) == 1 or a.stride(0) == 1
    return a.device.type == "cpu" and a.dtype == torch.float32 and dense


@cache
def _has_onednn() -> bool:
    """Whether the operation is there and right: it is one of torch's own, for compiled models."""
    if not torch.backends.mkldnn.is_available():
        return False
    a = torch.arange(6.0).view(2, 3)
    try:
        found = torch.ops.mkldnn._linear_pointwise(a, a, None, "none", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.equal(found, a @ a.T)
