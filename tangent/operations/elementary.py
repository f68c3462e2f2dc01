"""Bags of embeddings and layer norms in operations that torch differentiates more than once.

torch 2.14.1 has no derivative of the gradient of ``embedding_bag``. Rows that are looked up and
then summed, averaged or compared are the same function.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["ElementaryEmbeddingBag", "ElementaryLayerNorm"]


class ElementaryEmbeddingBag(TorchFunctionMode):
    """Within it, bags of equal length are embeddings and a reduction; others stay as they are."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.embedding_bag:
            found = _bags(*args, **kwargs)
            if found is not None:
                return found
        return func(*args, **kwargs)


def _bags(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None,
    norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean",
    sparse: bool = False, per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor | None:  # fmt: skip
    plain = offsets is None and max_norm is None and padding_idx is None
    if input.ndim != 2 or not plain or scale_grad_by_freq:
        return None
    rows = F.embedding(input, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    if mode == "max":
        return rows.amax(1)
    return rows.mean(1) if mode == "mean" else rows.sum(1)


class ElementaryLayerNorm(TorchFunctionMode):
    """Within it, layer norms are sums and products: torch 2.14.1 derives its own wrongly twice.

    ``jvp`` of ``jvp`` of ``layer_norm`` is off by a fifth on random inputs.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.layer_norm:
            return _layer_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    dims = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(dims, keepdim=True)
    out = centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
    out = out if weight is None else out * weight
    return out if bias is None else out + bias
