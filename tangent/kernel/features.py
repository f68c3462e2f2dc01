"""Tangent features: gradients of every output in every parameter, input by input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tangent.capture import picking
from tangent.capture.functional import check_inputs, selected_parameters
from tangent.kernel.engine.gradients import gradient_batches
from tangent.kernel.engine.plan import network_of
from tangent.machine.modes import ordinary_mode, ordinary_network, ordinary_tensor

__all__ = ["tangent_features"]

_SLICE = 2**22  # entries of a sketching matrix drawn at once


@ordinary_mode
def tangent_features(
    model: nn.Module,
    x: Tensor,
    *,
    parameters: str | Sequence[str] | None = None,
    output: Any = None,
    batch_size: int | None = None,
    project: int | None = None,
    sketch: Literal["rademacher", "gaussian", "count"] = "rademacher",
    generator: torch.Generator | None = None,
    per_layer: bool = False,
) -> Float[Tensor, "n k p"] | dict[str, Tensor]:
    """Gradient of every output with respect to every parameter, one input at a time.

    The empirical tangent kernel is ``einsum("iap,jbp->iajb", phi, phi)`` (Jacot et al. 2018).

    Parameters
    ----------
    model : nn.Module
        Read at its present weights, in evaluation mode, and left as found. May not mix the
        inputs of a batch.
    x : Tensor of shape (n, *input)
        Cast to the dtype and device of the weights where it is floating.
    parameters : str or sequence of str, optional
        Names of parameters or of modules, or patterns of names with ``*`` and ``?``; all by
        default.
    output : str, int, callable or sequence of such, optional
        Which of the network's outputs counts, where it returns a dict or a tuple ("logits").
    batch_size : int, optional
        Inputs handled at once; bounds the working memory, not the result.
    project : int, optional
        Return a random sketch of this dimension instead of the whole gradient: its inner
        products are those of the features without bias, with an error of order
        1 / sqrt(project). Applied parameter by parameter to the gradients of one batch, with the
        sketching matrix drawn in slices, so that the Jacobian is never held. The matrix is drawn
        again for every batch: take as large a batch as the memory allows.
    sketch : {"rademacher", "gaussian", "count"}
        Distribution of the entries of the sketching matrix; or ``"count"``, a matrix with one
        entry of random sign a row (Charikar, Chen and Farach-Colton 2002): it costs as much for
        every ``project`` as reading the gradients, and the error is of the same order.
    generator : torch.Generator, optional
        A CPU generator that seeds the sketch: the same seed gives the same sketch for any
        inputs, batch size and device, so that features of two sets can be compared.
    per_layer : bool
        Return a dict from parameter name to its features.

    Returns
    -------
    phi : Tensor of shape (n, k, p), or dict of such
        In dtype and device of the weights, no graph, order of ``model.named_parameters()``;
        p is ``project`` where that is given (with ``per_layer``, for every parameter).

    Raises
    ------
    TypeError
        If the model returns no tensor, or several, none of them named logits or ``output``.
    ValueError
        If an argument breaks its rule, or the model returns no row for each input.
    """
    model = picking(ordinary_network(model), output)
    x = ordinary_tensor(check_inputs(model, x))
    params = selected_parameters(model, parameters)
    _check_options(batch_size, project, sketch)
    seed = _seed(generator) if project is not None else 0
    seeds = {name: seed + index for index, name in enumerate(params)}
    network = network_of(model, "full", parameters)
    whole = sum(p.numel() for p in params.values())
    held = whole if project is None else max(p.numel() for p in params.values())
    batches: dict[str, list[Tensor]] = {name: [] for name in params}
    for name, gradients in gradient_batches(network, x, batch_size, held):
        _check_range(name, gradients)
        if project is not None:
            gradients = _sketched(gradients, project, sketch, seeds[name])
        batches[name].append(gradients)
    layers = {name: torch.cat(parts) for name, parts in batches.items()}
    if per_layer:
        return layers
    if project is not None:
        return torch.stack(list(layers.values())).sum(0)
    return torch.cat(list(layers.values()), dim=2)


def _check_options(batch_size: int | None, project: int | None, sketch: str) -> None:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if project is not None and project < 1:
        raise ValueError(f"project must be at least 1; got {project}")
    if sketch not in ("rademacher", "gaussian", "count"):
        raise ValueError(f"sketch must be 'rademacher', 'gaussian' or 'count'; got {sketch!r}")


def _check_range(name: str, gradients: Tensor) -> None:
    """float16 ends at 65504, which a gradient may well exceed."""
    if gradients.dtype == torch.float16 and not torch.isfinite(gradients).all():
        raise ValueError(
            f"gradients of {name} exceed float16, which ends at 65504; pass model.float()"
        )


def _seed(generator: torch.Generator | None) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def _sketched(
    jacobian: Float[Tensor, "n k p"], size: int, sketch: str, seed: int
) -> Float[Tensor, "n k m"]:
    """``jacobian @ S / sqrt(size)``, with S drawn from ``seed`` some rows at a time."""
    n, k, p = jacobian.shape
    generator = torch.Generator().manual_seed(seed % 2**63)
    flat = jacobian.reshape(n * k, p)
    total = flat.new_zeros(n * k, size)
    if sketch == "count":
        place = torch.randint(size, (p,), generator=generator)
        signs = torch.randint(0, 2, (p,), generator=generator).mul_(2).sub_(1)
        total.index_add_(1, place.to(flat.device), flat * signs.to(flat))
        return total.reshape(n, k, size)
    rows = max(1, _SLICE // size)
    for start in range(0, p, rows):
        part = flat[:, start : start + rows]
        shape = (part.shape[1], size)
        if sketch == "gaussian":
            matrix = torch.randn(shape, generator=generator, dtype=torch.float32)
        else:
            bits = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8)
            matrix = bits.mul_(2).sub_(1)
        total.addmm_(part, matrix.to(total))
    return total.div_(size**0.5).reshape(n, k, size)
