"""The engine: from a network and inputs to factors, and from factors to blocks of the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tangent.capture import picked, unwrapped
from tangent.capture.functional import selected_parameters
from tangent.capture.separate import check_separate, kept_apart
from tangent.kernel.engine.contractions import add_contribution, mirrored
from tangent.kernel.engine.cost import Problem, Rates, calibrated
from tangent.kernel.engine.factors import Factor, Layer, Store, planned, stacked
from tangent.kernel.engine.jacobians import jacobians
from tangent.kernel.engine.record import Record
from tangent.kernel.engine.trust import mistaken
from tangent.machine.pages import keep_freed_memory
from tangent.operations.pieces import Piece
from tangent.operations.pointwise import called

__all__ = ["Engine"]

Factors = dict[str, Factor]

_SMALL = 1024  # entries of gradients that are contracted with others
_STACKED = 2**24  # bytes of those that are


def _even(n: int, size: int) -> int:
    """Size of the first of as few and as equal batches as can be, of at most ``size`` each."""
    return -(-n // -(-n // size))


def _together(factors: Factors) -> tuple[list[str], list[str]]:
    """Names of small gradients, which are contracted in one product, and all other names."""
    small, room = [], _STACKED
    for name, factor in factors.items():
        if factor.order == "dense" and not factor.parts and factor.gradients.shape[2] <= _SMALL:
            room -= factor.bytes
            if room > 0:
                small.append(name)
    small = small if len(small) > 1 else []
    return small, [name for name in factors if name not in small]


@dataclass
class Engine:
    """A network, the part of its kernel that is wanted, and how it will be computed.

    Parameters
    ----------
    model : nn.Module
    outputs : str or int
        As in `tangent.tangent_kernel`.
    problem : Problem
        What the orders are chosen for.
    parameters : sequence of str, optional
    dtype, accumulate : torch.dtype, optional
        Of the factors (by default that of the weights) and of the kernel (that of the factors).
    rates : Rates, optional
        Speeds of the device, measured by default.
    working : int
        Bytes of the largest array of the backward pass; by default what suits the device.
    """

    model: nn.Module
    outputs: str | int
    problem: Problem
    parameters: str | Sequence[str] | None = None
    dtype: torch.dtype | None = None
    accumulate: torch.dtype | None = None
    rates: Rates | None = None
    working: int = 0
    layers: list[Layer] | None = None
    opaque: set[str] = field(default_factory=set)
    carried: int = 0  # cotangents
    records: dict[Any, Record] = field(default_factory=dict)  # by shape of an input
    reads: bool = False  # whether the network looks at values: input by input, then
    separate: bool = False  # whether the inputs of a batch are known to be kept apart

    def __post_init__(self) -> None:
        self.model = unwrapped(self.model)
        self.names = list(selected_parameters(self.model, self.parameters))
        tensors = {
            **{n: p.detach() for n, p in self.model.named_parameters()},
            **{n: b.detach() for n, b in self.model.named_buffers()},
        }
        weight = tensors[self.names[0]]
        self.device = weight.device
        self.working = self.working or (2**25 if self.device.type == "cpu" else 2**29)
        self.kept: torch.dtype = self.dtype or weight.dtype
        self.summed: torch.dtype = self.accumulate or self.kept
        # The network itself runs in the wider of the two dtypes, its factors are kept in `dtype`.
        self.run_dtype = torch.promote_types(weight.dtype, self.kept)
        self.tensors = {
            n: t.to(self.run_dtype) if t.is_floating_point() else t for n, t in tensors.items()
        }
        self.rates = self.rates or calibrated(self.device, self.kept)

    # Factors

    def factors(self, x: Tensor) -> Factors:
        """Factors of every parameter over the inputs ``x``."""
        x = x.to(self.run_dtype) if x.is_floating_point() else x
        keep_freed_memory(self.device)
        found = self._structured(x)
        found.update(self.opaque_factors(x))
        return {layer.name: found[layer.name] for layer in self.layers or []}

    def output_count(self, x: Tensor) -> int:
        """Outputs of the network for one input."""
        x = x[:1].to(self.run_dtype) if x.is_floating_point() else x[:1]
        return self.record(x).outputs

    def bytes_per_input(self, x: Tensor) -> int:
        """Memory that the factors of one input take, and what its widest layer takes besides."""
        factors = self.factors(x[:1])
        kept = sum(factor.bytes for factor in factors.values())
        return kept + max((factor.working_bytes for factor in factors.values()), default=0)

    def _structured(self, x: Tensor) -> Factors:
        """Factors of the parameters that the backward rules know, in batches."""
        planned = {layer.name: layer for layer in self.layers or []}
        if self.layers is None and self.record(x[:1]).reads:
            # other inputs may use what these do not
            planned = {name: self._layer(name, []) for name in self.names}
        stores = {
            name: Store(layer, len(x), self.kept)
            for name, layer in planned.items()
            if name not in self.opaque
        }

        def take(name: str, uses: list[Piece]) -> None:
            # At once, so that the next layer's cotangents have their memory.
            if name not in planned:
                planned[name] = self._layer(name, uses)
            if name not in stores and self.layers is None:
                stores[name] = Store(planned[name], len(x), self.kept)
            if name in stores:
                stores[name].add(uses)

        start = 0
        while start < len(x):
            part = x[start : start + _even(len(x) - start, self.fitting(x))]
            if self.layers is None and self.record(part).suspect:
                pieces = self.pieces(part)
                self.check(pieces, part)
                for name in list(pieces):
                    take(name, pieces.pop(name))
            else:
                self.pieces(part, take)
            start += len(part)
            for name in self.opaque:
                stores.pop(name, None)
            if self.layers is None:
                self.layers = self._plan(planned)
            for name, store in stores.items():
                if store.filled < start:  # a parameter that these inputs do not use
                    missing = start - store.filled
                    store.add([self._unused(name, missing)])
        for record in self.records.values():
            record.shared.clear()
        return {name: store.factor() for name, store in stores.items()}

    def _unused(self, name: str, inputs: int) -> Piece:
        shape = (inputs, self.carried, self.tensors[name].numel())
        return Piece(name, gradient=torch.zeros(shape, dtype=self.run_dtype, device=self.device))

    def fitting(self, x: Tensor) -> int:
        """Inputs whose backward pass keeps to ``working`` bytes an array."""
        if self.reads or self.record(x).reads:
            return 1
        record = self.record(x)
        single = self.outputs == "pseudo" or isinstance(self.outputs, int)
        numbers = record.largest * (1 if single else record.outputs)
        return max(1, self.working // (numbers * self.tensors_size))

    def pieces(
        self, x: Tensor, take: Callable[[str, list[Piece]], None] | None = None
    ) -> dict[str, list[Piece]]:
        """Run a batch forward and backward; what is met without a rule becomes opaque.

        Pieces go to ``take(name, pieces)`` as soon as a parameter has all of its own, or are
        returned by name.
        """
        pieces: dict[str, list[Piece]] = {}
        if not set(self.names) - self.opaque:
            return pieces
        record = self.record(x)
        run = record.run(x)
        if not self.separate and len(x) > 1:
            self._check_separate(record, run.output, x)
        seeds = self._seeds(run.output)
        self.carried = seeds.shape[1]

        def visit(name: str, piece: Piece) -> None:
            piece.name = name
            pieces.setdefault(name, []).append(piece)

        def done(name: str) -> None:
            if take is not None and name in pieces and name not in self.opaque:
                take(name, pieces.pop(name))

        record.back(run, seeds, visit, done)
        for name in self.opaque:
            pieces.pop(name, None)
        if take is not None:
            for name in list(pieces):
                take(name, pieces.pop(name))
        return pieces

    def _check_separate(self, record: Record, outputs: Tensor, x: Tensor) -> None:
        """Compare what two inputs give together with what each gave alone."""
        self.separate = True
        if kept_apart(self.model):
            return
        try:
            with torch.inference_mode(False), torch.no_grad():
                both = picked(called(record.network, None, (x[:2].clone(),)))
            apart = outputs[:2].reshape(2, -1).to(both)
            scale = apart.abs().amax().clamp(min=1e-30)
            near = both.numel() == apart.numel() and bool(
                ((both.reshape(2, -1) - apart).abs() <= 1e-3 * scale).all()
            )
        except Exception:
            near = False
        if not near:
            check_separate(self.model, (x,), tensors=self.tensors)

    def record(self, x: Tensor) -> Record:
        """What the network does to an input of ``x``, which has one where it reads its values."""
        key = tuple(x.shape[1:]), x.dtype
        if key not in self.records:
            record = Record(self.model, self.tensors, self.names, x[:1])
            if record.reads:
                if not self.separate:
                    self.separate = check_separate(self.model, (x,), tensors=self.tensors)
                self.reads = True
                return record
            self.records[key] = record
        return self.records[key]

    @property
    def tensors_size(self) -> int:
        """Bytes of a number of the backward pass."""
        return self.run_dtype.itemsize

    def _seeds(self, output: Tensor) -> Tensor:
        """Cotangents (n, o, *output) to carry back."""
        n, k = len(output), output[0].numel()
        if isinstance(self.outputs, int) and not -k <= self.outputs < k:
            raise ValueError(f"outputs must be below the {k} outputs; got {self.outputs}")
        if self.outputs == "diagonal":
            self.problem = replace(self.problem, groups=k)
        if self.outputs == "pseudo":
            seeds = torch.full((1, k), k**-0.5, dtype=output.dtype)
        elif isinstance(self.outputs, int):
            seeds = torch.zeros(1, k)
            seeds[:, self.outputs] = 1
        else:
            seeds = torch.eye(k)
        seeds = seeds.to(output).expand(n, *seeds.shape)
        return seeds.reshape(n, -1, *output.shape[1:])

    # Plan

    def check(self, pieces: dict[str, list[Piece]], x: Tensor) -> None:
        """Leave what the record got wrong to the Jacobian: it is taken out of ``pieces``."""
        self.opaque |= mistaken(self.model, self.tensors, self.names, pieces, x[:2], self.outputs)
        for name in self.opaque:
            pieces.pop(name, None)

    def _layer(self, name: str, uses: list[Piece]) -> Layer:
        assert self.rates is not None
        if self.reads:  # other inputs may use the parameter elsewhere, or not at all
            return Layer(name, "dense", self.problem.full)
        return planned(name, uses, self.problem, self.rates)

    def _plan(self, planned: dict[str, Layer]) -> list[Layer]:
        """All layers in order; what the record got wrong, or cannot do, is made opaque."""
        if not self.opaque and not planned:
            self.opaque.update(self.names)
        dense = {name: Layer(name, "dense", self.problem.full) for name in self.opaque}
        both = {**planned, **dense}
        return [both[name] for name in self.names if name in both]

    def opaque_factors(self, x: Tensor) -> Factors:
        """Jacobians of the parameters without a rule."""
        if not self.opaque:
            return {}
        chosen = {n: self.tensors[n] for n in self.names if n in self.opaque}
        parts: dict[str, list[Tensor]] = {name: [] for name in chosen}
        for one in jacobians(self.model, chosen, x, self.tensors):
            for name, j in one.items():
                if self.outputs == "pseudo":
                    j = j.sum(1, keepdim=True) / j.shape[1] ** 0.5
                elif isinstance(self.outputs, int):
                    j = j[:, self.outputs].unsqueeze(1)
                elif self.outputs == "diagonal":
                    self.problem = replace(self.problem, groups=j.shape[1])
                parts[name].append(j.to(self.kept))
        factors = {}
        for name, js in parts.items():
            store = Store(Layer(name, "dense", self.problem.full), len(x), self.kept or js[0].dtype)
            store.arrays["gradients"] = torch.cat(js)
            store.filled = len(x)
            factors[name] = store.factor()
        return factors

    # Blocks

    def total(self, left: Factors, right: Factors | None = None) -> Tensor:
        """Sum over the parameters; symmetric where ``right`` is left out."""
        total = self._empty(left, right)
        small, others = _together(left)
        if small:
            two = None if right is None else stacked([right[name] for name in small])
            self._add(total, stacked([left[name] for name in small]), two)
        for name in others:
            self._add(total, left[name], None if right is None else right[name])
        return mirrored(total, self.problem.full) if right is None else total

    def shares(self, left: Factors, right: Factors | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, share) of every parameter, zero where it is not used."""
        for name in self.names:
            total = self._empty(left, right)
            if name in left:
                self._add(total, left[name], None if right is None else right[name])
            yield name, mirrored(total, self.problem.full) if right is None else total

    def _add(self, total: Tensor, left: Factor, right: Factor | None) -> None:
        symmetric = right is None
        other = left if right is None else right
        add_contribution(total, left, other, symmetric=symmetric, full=self.problem.full)
        left.release()
        other.release()

    def _empty(self, left: Factors, right: Factors | None) -> Tensor:
        one = next(iter(left.values()))
        two = one if right is None else next(iter(right.values()))
        n1, n2, o = one.inputs, two.inputs, one.outputs
        shape = (n1, o, n2, o) if self.problem.full else (self.problem.groups, n1, n2)
        return torch.zeros(shape, dtype=self.summed, device=self.device)
