"""Centring of the tangent features during SGD: their mean subtracted, a constant in its place.

The matrix's side, and why it helps: `tangent.solve.centring`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vjp

from tangent.capture.functional import evaluating, model_outputs
from tangent.capture.outputs import output_shape
from tangent.machine.modes import ordinary_mode, ordinary_network, ordinary_tensor


@ordinary_mode
def mean_tangent_features(
    model: nn.Module, batches: Iterable[Tensor], *, dtype: torch.dtype | None = None
) -> list[Float[Tensor, " k *parameter"]]:
    """Mean over the inputs of every output's gradient, one tensor a parameter.

    Parameters
    ----------
    model : nn.Module
        Read at its present weights and left as found. Parameters with ``requires_grad=False``
        stay where they are, as in `tangent.linearize`, and have no features.
    batches : iterable of Tensor of shape (b, *image)
        The training inputs, in parts that fit in memory.
    dtype : torch.dtype, optional
        Of the sums; that of the weights by default.

    Returns
    -------
    list of Tensor of shape (k, *parameter.shape)
        In the order of the trainable ``model.parameters()``. k times the memory of the model.

    Notes
    -----
    One forward and k backward passes over the inputs: the mean needs no gradient of one input.
    """
    model = ordinary_network(model)
    params = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not params:
        raise ValueError("model has no parameter with requires_grad=True: nothing can move")
    sums: list[Tensor] | None = None
    count = 0
    for x in batches:
        x = ordinary_tensor(x)
        output_shape(model, x)
        with evaluating(model):
            outputs, pullback = vjp(lambda p, x=x: model_outputs(model, p, x), params)
        k = outputs.shape[1]
        rows = []
        for a in range(k):
            cotangent = torch.zeros_like(outputs)
            cotangent[:, a] = 1
            rows.append(list(pullback(cotangent)[0].values()))
        parts = [
            torch.stack(column).to(dtype or column[0].dtype) for column in zip(*rows, strict=True)
        ]
        sums = parts if sums is None else [s + p for s, p in zip(sums, parts, strict=True)]
        count += len(x)
    if sums is None:
        raise ValueError("batches must hold at least one batch of inputs; got none")
    if not all(s.isfinite().all() for s in sums):
        raise ValueError(
            "the tangent features must be finite; their sum is not: check the inputs for NaN, "
            "scale them down, or pass dtype=torch.float64"
        )
    return [s / count for s in sums]


class CentredModel(nn.Module):
    """A linearized network with the mean of its training outputs subtracted, for SGD.

    ``forward(x)`` is ``linear(x) - m . delta + constant``: delta are the parameters of
    ``linear``, m the mean tangent features, and ``constant`` a buffer, the mean of the targets.
    For a network linear in its parameters that is the exact elimination of the constant; at
    finite alpha it is its leading order.

    Parameters
    ----------
    linear : nn.Module
        With the displacement as its trainable parameters, ``tangent.linearize(model)``; those with
        ``requires_grad=False`` are constants.
    means : list of Tensor of shape (k, *parameter.shape)
        From `mean_tangent_features` of the network that was linearized, in the order of
        the trainable ``linear.parameters()``.
    constant : Tensor of shape (k,), optional
        Zero by default.
    """

    def __init__(self, linear: nn.Module, means: list[Tensor], constant: Tensor | None = None):
        super().__init__()
        self.linear = linear
        shapes = [tuple(p.shape) for p in self._displacement()]
        if [tuple(m.shape[1:]) for m in means] != shapes:
            raise ValueError(
                "means must hold one tensor (k, *shape) for each trainable parameter of linear, of "
                "shapes "
                f"{shapes}; got {[tuple(m.shape) for m in means]}"
            )
        for i, mean in enumerate(means):
            self.register_buffer(f"mean_{i}", mean.flatten(1))
        self.register_buffer(
            "constant", means[0].new_zeros(len(means[0])) if constant is None else constant
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the centred outputs for a batch."""
        shift = self.get_buffer("constant")
        for i, delta in enumerate(self._displacement()):
            shift = shift - self.get_buffer(f"mean_{i}") @ delta.flatten()
        return self.linear(x) + shift

    def _displacement(self) -> list[nn.Parameter]:
        return [p for p in self.linear.parameters() if p.requires_grad]
