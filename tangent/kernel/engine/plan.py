"""What is known of a kernel before it is computed: network, records, the plan of the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tangent.capture import unwrapped
from tangent.capture.functional import selected_parameters
from tangent.capture.outputs import outputs_of_two
from tangent.capture.separate import check_separate, gives_rows, kept_apart
from tangent.kernel.engine.cost import Problem, Rates
from tangent.kernel.engine.factors import Layer
from tangent.kernel.engine.record import Record, Run

__all__ = ["Network", "Plan", "Records", "network_of"]


class Records:
    """What a network does to its inputs: captured once a shape, where it does not read them."""

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor], names: list[str]):
        self._network = (model, tensors, names)
        self._known: dict[Any, Record] = {}  # by shape of an input
        self._apart = kept_apart(model)  # whether a batch's inputs are known to be kept apart
        self._together: tuple[Tensor, Tensor] | None = None  # two inputs, what they gave as a batch
        self.reads = False  # whether the network looks at values: input by input, then

    def of(self, x: Tensor) -> Record:
        """What the network does to an input of ``x``, which has one where it reads its values.

        Raises
        ------
        TypeError, ValueError
            As `tangent.capture.outputs.output_shape`.
        """
        key = tuple(x.shape[1:]), x.dtype
        if key not in self._known:
            model, tensors, names = self._network
            record = Record(model, tensors, names, x[:1])
            if not (self.reads or gives_rows(model, x)):
                self._together = x[:2], outputs_of_two(record.network, x)
            if record.reads:
                if not self._apart:
                    self._apart = check_separate(model, (x,), tensors=tensors)
                self.reads = True
                return record
            self._known[key] = record
        return self._known[key]

    def run(self, x: Tensor) -> Run:
        """Run a batch; of the first one with two inputs, check that it keeps them apart."""
        record = self.of(x)
        run = record.run(x)
        if not self._apart and len(x) > 1:
            self._apart = True
            self._check_apart(record.network, run.output, x)
        return run

    def release(self) -> None:
        """Drop what batches have in common and can be made again."""
        for record in self._known.values():
            record.shared.clear()

    def _check_apart(self, network: nn.Module, outputs: Tensor, x: Tensor) -> None:
        """Compare what two inputs give together with what each gave alone."""
        model, tensors, _ = self._network
        known = self._together is not None and torch.equal(self._together[0], x[:2])
        found = self._together[1] if known and self._together else outputs_of_two(network, x)
        together = found.reshape(2, -1)
        apart = outputs[:2].reshape(2, -1).to(together)
        scale = apart.abs().amax().clamp(min=1e-30)
        alike = together.shape == apart.shape
        if not (alike and bool(((together - apart).abs() <= 1e-3 * scale).all())):
            check_separate(model, (x,), tensors=tensors)


@dataclass(frozen=True, eq=False)
class Network:
    """A network at its weights, and the part of its kernel that is wanted; see `network_of`."""

    model: nn.Module
    outputs: str | int
    names: list[str]  # of the parameters
    tensors: Mapping[str, Tensor]  # parameters and buffers, in ``run_dtype``
    device: torch.device
    run_dtype: torch.dtype  # of the passes
    kept: torch.dtype  # of the factors
    summed: torch.dtype  # of the kernel
    records: Records

    @property
    def single(self) -> bool:
        """Whether one cotangent is carried back, whatever the number of outputs."""
        return self.outputs == "pseudo" or isinstance(self.outputs, int)

    def cast(self, x: Tensor) -> Tensor:
        """Inputs as the network takes them."""
        return x.to(self.run_dtype) if x.is_floating_point() else x

    def output_count(self, x: Tensor) -> int:
        """Outputs of the network for one input."""
        return self.records.of(self.cast(x[:2])).outputs

    def fitting(self, x: Tensor, working: int) -> int:
        """Inputs whose backward pass keeps to ``working`` bytes an array."""
        record = None if self.records.reads else self.records.of(x)
        if record is None or record.reads:
            return 1
        numbers = record.largest * (1 if self.single else record.outputs)
        return max(1, working // (numbers * self.run_dtype.itemsize))

    @property
    def working(self) -> int:
        """Bytes of the largest array of a backward pass that suit the device."""
        return 2**25 if self.device.type == "cpu" else 2**29


def network_of(
    model: nn.Module,
    outputs: str | int,
    parameters: str | Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    accumulate: torch.dtype | None = None,
) -> Network:
    """A network as it is, to be run in the wider of the dtypes of its weights and its factors.

    Parameters
    ----------
    model, outputs, parameters
        As in `tangent.tangent_kernel`.
    dtype, accumulate : torch.dtype, optional
        Of the factors (by default that of the weights) and of the kernel (that of the factors).
    """
    model = unwrapped(model)
    names = list(selected_parameters(model, parameters))
    tensors = {
        **{n: p.detach() for n, p in model.named_parameters()},
        **{n: b.detach() for n, b in model.named_buffers()},
    }
    weight = tensors[names[0]]
    kept = dtype or weight.dtype
    run_dtype = torch.promote_types(weight.dtype, kept)
    tensors = {n: t.to(run_dtype) if t.is_floating_point() else t for n, t in tensors.items()}
    records = Records(model, tensors, names)
    summed = accumulate or kept
    return Network(model, outputs, names, tensors, weight.device, run_dtype, kept, summed, records)


@dataclass(frozen=True, eq=False)
class Plan:
    """How a network's kernel is computed: chosen from its first inputs, the same for all others.

    Parameters
    ----------
    problem : Problem
        What the orders were chosen for.
    rates : Rates
        Speeds of the device that they were chosen by.
    working : int
        Bytes of the largest array of the backward pass.
    layers : tuple of Layer
    opaque : frozenset of str
        Parameters that are left to plain Jacobians.
    """

    network: Network
    problem: Problem
    rates: Rates
    working: int
    layers: tuple[Layer, ...]
    opaque: frozenset[str]
