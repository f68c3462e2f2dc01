"""Contraction orders: three equal ways to sum a layer's gradients' inner products over pairs.

With patches A_i (P, K) and cotangents D_i^a (P, C), the gradient of output a at input i is
(D_i^a)^T A_i. The inner product of two of them is, equally,

- ``jacobian``: the product of the gradients themselves, made in slices of A's columns;
- ``half``: A_i A_j^T applied to D_j^b, then the product with D_i^a;
- ``gram``: the elementwise product of A_i A_j^T with D_i^a (D_j^b)^T, summed.

Where both sides are the same inputs, only pairs with j <= i are computed (in blocks of rows):
`mirrored` fills in the rest, once for all layers.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tangent.kernel.engine.factors import Factor
from tangent.machine.pages import fresh
from tangent.machine.products import add_product, batched_product, product

__all__ = ["add_contribution", "mirrored"]

_SLICE = 2**24  # bytes of gradients made at once on a CPU
_TOKENS = 2**24  # bytes of such gradients of a matrix that tokens are multiplied with
_ENOUGH = 2**20  # multiply-adds of one input's gradients, to be made input by input
_WIDE = 512  # entries of a patch that make a product fast
_ROWS = 256  # of positions whose patches are multiplied at once
_CHUNK = 2**22  # bytes of the half-contracted array: a few inputs' worth


def add_contribution(
    total: Tensor, left: Factor, right: Factor, *, symmetric: bool, full: bool
) -> None:
    """Add a layer's share of the kernel to ``total``, in place.

    Parameters
    ----------
    total : Tensor
        Shape (n1, o, n2, o) where ``full``, else (groups, n1, n2), with one group that sums over
        the outputs or one group an output.
    left, right : Factor
        Of the two sides; the same object where ``symmetric``.
    """
    if left.parts:
        for one, two in zip(left.parts, right.parts, strict=True):
            add_contribution(total, one, two, symmetric=symmetric, full=full)
            one.release()
            two.release()
    elif left.order == "dense":
        _dense(total, left, right, symmetric, full)
    elif left.order == "jacobian":
        _jacobian(total, left, right, symmetric, full)
    elif left.order == "half":
        _half(total, left, right, symmetric)
    elif full:
        _gram_full(total, left, right, symmetric)
    else:
        _gram_paired(total, left, right, symmetric)


def mirrored(total: Tensor, full: bool) -> Tensor:
    """Copy the pairs j < i of a symmetric kernel onto the pairs j > i, in place.

    Within a pair (i, i) the outputs below the diagonal are copied above it.
    """
    if full:
        n, o = total.shape[:2]
        matrices = [total.view(n * o, n * o)]
    else:
        matrices = list(total)
    for matrix in matrices:
        step = 1024
        for start in range(0, len(matrix), step):
            stop = min(len(matrix), start + step)
            matrix[start:stop, stop:] = matrix[stop:, start:stop].t()
            block = matrix[start:stop, start:stop]
            block.copy_(block.tril() + block.tril(-1).t())
    return total


def _add_gradients(
    total: Tensor, g1: Tensor, g2: Tensor, alpha: float, symmetric: bool, full: bool
) -> None:
    """Inner products of gradients (n, o, p); rows in blocks, so that half of them are enough."""
    if full:
        products = [(total.flatten(2).flatten(0, 1), g1.flatten(0, 1), g2.flatten(0, 1))]
    elif len(total) == 1:
        products = [(total[0], g1.flatten(1), g2.flatten(1))]
    else:
        products = [(t, g1[:, a], g2[:, a]) for a, t in enumerate(total)]
    for matrix, a, b in products:
        if symmetric:
            _add_lower(matrix, a, alpha)
        else:
            add_product(matrix, a, b, alpha)


def _add_lower(total: Tensor, a: Tensor, alpha: float, smallest: int = 96) -> None:
    """Add ``alpha * a @ a.T`` on and below the diagonal, half of the work at every halving."""
    n = len(a)
    if n <= smallest:
        add_product(total, a, a, alpha)
        return
    half = n // 2
    _add_lower(total[:half, :half], a[:half], alpha)
    add_product(total[half:, :half], a[half:], a[:half], alpha)
    _add_lower(total[half:, half:], a[half:], alpha)


def _dense(total: Tensor, left: Factor, right: Factor, symmetric: bool, full: bool) -> None:
    _add_gradients(total, left.gradients, right.gradients, 1.0, symmetric, full)


def _jacobian(total: Tensor, left: Factor, right: Factor, symmetric: bool, full: bool) -> None:
    """Gradients in slices of input and output channels, so that they take little memory."""
    if left.patches.kind == "tokens":
        _token_jacobian(total, left, right, symmetric, full)
        return
    n, o, c, p = left.cotangents.shape
    inputs = max(n, len(right.cotangents))
    budget = _SLICE if total.device.type == "cpu" else 2**29
    numbers = max(1, budget // (inputs * o * left.cotangents.element_size()))
    # Products with narrow patches are slow: take few output channels rather than few entries.
    widest = max(1, 4 * budget // (inputs * p * left.cotangents.element_size()))
    entries = min(max(_WIDE, numbers // c), widest)
    buffers: dict[str, Tensor] = {}
    for start, stop in left.patches.slices(entries):
        columns1 = _columns(left, start, stop)
        columns2 = columns1 if symmetric else _columns(right, start, stop)
        step = max(1, numbers // columns1.shape[1])
        step = -(-c // -(-c // step))  # slices of one size
        for first in range(0, c, step):
            channels = slice(first, min(c, first + step))
            g1 = _gradient_slice(left, channels, columns1, "left", buffers)
            g2 = g1 if symmetric else _gradient_slice(right, channels, columns2, "right", buffers)
            _add_gradients(total, g1, g2, left.alpha, symmetric, full)


def _token_jacobian(
    total: Tensor, left: Factor, right: Factor, symmetric: bool, full: bool
) -> None:
    """Of a matrix that tokens are multiplied with. Cotangents are laid out (n, o, P, C)."""
    n, o, _, c = left.cotangents.shape
    k = left.patches.size
    inputs = max(n, len(right.cotangents))
    budget = _TOKENS if total.device.type == "cpu" else 2**29
    numbers = max(1, budget // (inputs * o * left.cotangents.element_size()))
    step = max(1, numbers // k)
    step = -(-c // -(-c // step))  # slices of one size
    buffers: dict[str, Tensor] = {}
    for first in range(0, c, step):
        channels = slice(first, min(c, first + step))
        g1 = _token_gradients(left, channels, "left", buffers)
        g2 = g1 if symmetric else _token_gradients(right, channels, "right", buffers)
        _add_gradients(total, g1, g2, left.alpha, symmetric, full)


def _token_gradients(
    factor: Factor, channels: slice, side: str, buffers: dict[str, Tensor]
) -> Float[Tensor, "n o p"]:
    """Gradients with entries in the order (k, c)."""
    d = factor.cotangents[..., channels]
    x = factor.patches.x.to(d.dtype)
    n, o, p, c = d.shape
    shape = (n, o, x.shape[2], c)
    if side not in buffers or buffers[side].shape != shape:
        buffers[side] = fresh(shape, d.dtype, d.device)
    if d.device.type != "cpu" or o * c * p * x.shape[2] < _ENOUGH:
        found = torch.bmm(x.transpose(1, 2), d.transpose(1, 2).reshape(n, p, o * c))
        buffers[side].copy_(found.unflatten(2, (o, c)).transpose(1, 2))
        return buffers[side].flatten(2)
    for one, cots, to in zip(x, d, buffers[side], strict=True):
        found = product(one.t(), cots.transpose(0, 1).reshape(p, o * c).t())
        to.copy_(found.view(-1, o, c).transpose(0, 1))
    return buffers[side].flatten(2)


def _columns(factor: Factor, start: int, stop: int) -> Float[Tensor, "n k p"]:
    return factor.patches.columns(start, stop).to(factor.cotangents.dtype)


def _gradient_slice(
    factor: Factor, channels: slice, columns: Tensor, side: str, buffers: dict[str, Tensor]
) -> Float[Tensor, "n o p"]:
    d = factor.cotangents[:, :, channels]
    n, o, c, p = d.shape
    shape = (n, o * c, columns.shape[1])
    if side not in buffers or buffers[side].shape != shape:
        buffers[side] = fresh(shape, d.dtype, d.device)
    rows = d.reshape(n, o * c, p)
    return batched_product(rows, columns.transpose(1, 2), buffers[side]).view(n, o, -1)


def _half(total: Tensor, left: Factor, right: Factor, symmetric: bool) -> None:
    """Row by row: one batched product over j, then one product for all pairs of outputs."""
    n1, o, c, p = left.cotangents.shape
    n2 = len(right.cotangents)
    a1 = left.operand
    a2 = a1 if symmetric else right.operand
    d2 = right.cotangents.view(n2, o * c, p)
    cpu = total.device.type == "cpu"
    chunk = max(1, (_CHUNK if cpu else 2**28) // (o * c * p * d2.element_size()))
    buffer = d2.new_empty(min(chunk, n2), o * c, p)
    # Products of the patches of several rows at once are faster than one by one; the columns'
    # cotangents stay in the cache while all rows pass by.
    rows = max(1, _ROWS // p)
    for start in range(0, n2, chunk):
        for first in range(start - start % rows if symmetric else 0, n1, rows):
            last = min(n1, first + rows)
            stop = min(n2, start + chunk, last if symmetric else n2)
            gram = left.patches.gram(a1[first:last], a2[start:stop], left.shifted).to(d2.dtype)
            for i in range(first, last):
                end = min(stop, i + 1) if symmetric else stop
                if end <= start:
                    continue
                row = gram[: end - start, :, i - first].contiguous()
                applied = torch.bmm(d2[start:end], row, out=buffer[: end - start])
                add_product(
                    total[i].view(o, -1)[:, start * o : end * o],
                    left.cotangents[i].view(o, c * p),
                    applied.view((end - start) * o, c * p),
                    left.alpha,
                )


def _gram_full(total: Tensor, left: Factor, right: Factor, symmetric: bool) -> None:
    """For few positions. Cotangents are laid out (P, n, o, C)."""
    p, n1, o, c = left.cotangents.shape
    n2 = right.cotangents.shape[1]
    a1 = left.operand
    a2 = a1 if symmetric else right.operand
    # A row of pairs has P^2 Gram entries, those once more for every output, and o^2 products.
    size = 4 * n2 * (p * p * (o + 2) + 2 * o * o)
    rows = max(1, (_SLICE if total.device.type == "cpu" else 2**28) // size)
    for first in range(0, n1, rows):
        last = min(n1, first + rows)
        end = last if symmetric else n2
        gram = left.patches.gram(a1[first:last], a2[:end], left.shifted)  # j q i p
        gram = gram.to(left.cotangents.dtype)
        weights = gram.permute(3, 1, 2, 0).repeat_interleave(o, dim=3).unsqueeze(3)
        block = total[first:last].view(last - first, o, n2 * o)[:, :, : end * o]
        for u in range(p):
            d1 = left.cotangents[u, first:last].reshape(-1, c)
            for v in range(p):
                part = product(d1, right.cotangents[v, :end].reshape(-1, c))
                part = part.view(last - first, o, end * o)
                if total.dtype == part.dtype:
                    block.addcmul_(part, weights[u, v], value=left.alpha)
                else:
                    block.add_(part * weights[u, v], alpha=left.alpha)


def _gram_paired(total: Tensor, left: Factor, right: Factor, symmetric: bool) -> None:
    """Sums over outputs inside the product. Cotangents are laid out (n, P, o, C)."""
    n1, p = left.cotangents.shape[:2]
    n2 = len(right.cotangents)
    groups = len(total)
    a1 = left.operand
    a2 = a1 if symmetric else right.operand
    budget = _CHUNK if total.device.type == "cpu" else 2**28
    rows = max(1, 64 // p)
    chunk = max(1, budget // (rows * p * p * left.cotangents.element_size()))
    for first in range(0, n1, rows):
        last = min(n1, first + rows)
        for start in range(0, last if symmetric else n2, chunk):
            end = min(start + chunk, last if symmetric else n2)
            gram = left.patches.gram(a1[first:last], a2[start:end], left.shifted)
            gram = gram.reshape((end - start) * p, -1).to(left.cotangents.dtype)
            for g in range(groups):
                one = slice(None) if groups == 1 else slice(g, g + 1)
                d1 = left.cotangents[first:last, :, one].reshape((last - first) * p, -1)
                d2 = right.cotangents[start:end, :, one].reshape((end - start) * p, -1)
                products = product(d2, d1).mul_(gram)
                products = products.view(end - start, p, last - first, p)
                summed = products.sum((1, 3), dtype=total.dtype).t()
                total[g, first:last, start:end].add_(summed, alpha=left.alpha)
