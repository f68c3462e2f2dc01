"""Matrix products of long rows, on a CPU by whichever of torch's two libraries does them faster.

``torch.mm`` goes to the BLAS that torch was built with, convolutions and compiled models to
oneDNN. Of products with few rows and long sums, oneDNN does a third more a second on the processors
that were tried (AVX-512, MKL as the BLAS); where it is not built in, or the arrays are not as it
takes them, `torch.mm` is used.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

__all__ = ["add_product", "product"]

_LONG = 256  # entries of a row; below, the calls' own time weighs more
_LITTLE = 2**18  # multiply-adds; likewise


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T``."""
    long = a.shape[1] >= _LONG and a.shape[0] * b.numel() >= _LITTLE
    # Rows of ``b`` with gaps between them would be multiplied a thousand times slower.
    if long and _suited(a) and _suited(b) and b.is_contiguous() and _has_onednn():
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return torch.mm(a, b.t())


def add_product(total: Tensor, a: Tensor, b: Tensor, alpha: float) -> None:
    """``total += alpha * a @ b.T``, the product in the factors' dtype."""
    if total.dtype == a.dtype and not (_suited(a) and _has_onednn()):
        total.addmm_(a, b.t(), alpha=alpha)
    else:
        total.add_(product(a, b), alpha=alpha)


def _suited(a: Tensor) -> bool:
    return a.device.type == "cpu" and a.dtype == torch.float32 and a.stride(1) == 1


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
