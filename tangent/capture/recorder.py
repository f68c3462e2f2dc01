"""What a network does, written down while it runs: ATen operations without aliases.

Below autograd every spelling of an operation is one of a few hundred ATen operations, whoever
calls it: a module, a hook, a checkpoint, a derivative inside the network. Writes in place and
views are resolved here: the record is that of a network without either.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tangent.capture.graph import (
    Call,
    Custom,
    Value,
    apart,
    as_real,
    geometry,
    operation_name,
    positions,
    storage_id,
    values_in,
    whole,
)
from tangent.capture.writes import functional, materialized, written_by
from tangent.operations.arguments import flattened, leaves_of, rebuilt
from tangent.operations.batched import tensors_in
from tangent.operations.writing import gathered, scattered

__all__ = ["Recorder"]

aten = torch.ops.aten
# What is called where nothing wants a gradient, and what it stands for.
_DIFFERENTIABLE = {aten._embedding_bag_forward_only.default: aten._embedding_bag.default}


_TURNS = {aten._conj.default, aten._neg_view.default}


_SAME = {
    aten.detach.default,
    aten.alias.default,
    aten.as_strided.default,  # read where it is used, from the memory it looks at
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.new_empty.default,
}
_TURNED = {
    aten.transpose_.default: aten.transpose.int,
    aten.t_.default: aten.t.default,
    aten.squeeze_.default: aten.squeeze.default,
    aten.squeeze_.dim: aten.squeeze.dim,
    aten.unsqueeze_.default: aten.unsqueeze.default,
}
_RANDOM_TAG = torch.Tag.nondeterministic_seeded
_MASKS = {torch.bool, torch.uint8}
_INDEX = aten.index.Tensor
_READING_TAGS = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}


class _Memory:
    """A storage: its present value as the tensor that made it, and the views that were taken."""

    __slots__ = ("geometry", "root", "version", "views")

    def __init__(self, root: Value, where: tuple):
        self.root, self.geometry = root, where
        self.version = 0
        self.views: dict[tuple, tuple[int, Value]] = {where: (0, root)}

    def present(self, where: tuple) -> Value | None:
        version, value = self.views.get(where, (-1, None))
        if version == self.version:
            return value
        return self.root if where == self.geometry else None


_BY_FREQUENCY = {
    torch.ops.aten.embedding.default,
    torch.ops.aten._embedding_bag.default,
    torch.ops.aten._embedding_bag_forward_only.default,
}


class Recorder(TorchDispatchMode):
    """Runs every operation and writes down those that depend on inputs or weights."""

    def __init__(self, custom: bool = True, keep: bool = False):
        super().__init__()
        self.calls: list[Call] = []
        self.memories: dict[int, _Memory] = {}
        self.custom, self.keep = custom, keep
        self.reads = False
        self.read: list[Value] = []  # what was looked at
        self.suspect = False
        self.largest = 1  # numbers of a value that depends on the inputs
        self.random: str | None = None  # what draws values at random
        self.paused = False
        self.where: list[tuple[str, str, bool]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first operation imports all of torch._dynamo, for seconds

    # Leaves

    def leaf(self, tensor: Tensor, value: Value) -> None:
        """Let ``tensor`` be an input or a weight of the record."""
        self._remember(tensor, value)

    def _remember(self, tensor: Tensor, value: Value) -> None:
        """Let ``value`` be the root of a storage, for as long as that lives."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        self.memories[key] = _Memory(value, geometry(tensor))
        weakref.finalize(storage, self.memories.pop, key, None)

    def value(self, tensor: Tensor) -> Value:
        """The value that a tensor has at this moment."""
        memory = self.memories.get(storage_id(tensor))
        where = geometry(tensor)
        if memory is None:
            value = Value("constant", tensor=tensor.detach())
            self._remember(tensor, value)
            return value
        found = memory.present(where)
        if found is None:
            found = self._read(memory, tensor, where)
            memory.views[where] = (memory.version, found)
        return found

    def _read(self, memory: _Memory, tensor: Tensor, where: tuple) -> Value:
        root = memory.root
        if root.kind == "constant":
            # Views of constants are constants: the tensor itself has them, at this version.
            return Value("constant", tensor=tensor.detach().clone())
        real = self._in_real_numbers(memory, where)
        index = self._index_in_root(memory, as_real(where) if real else where, tensor.device)
        value = self._emit(gathered, (memory.root, index), {}, (memory.root,))
        if real:
            value = self._applied(aten.view_as_complex.default, value)
        return self._turned(value, (False, False) if real else memory.geometry[3][1:], where[3][1:])

    def _in_real_numbers(self, memory: _Memory, where: tuple) -> bool:
        """Whether complex numbers are to be found as real ones, once a memory is read as both."""
        kept, read = memory.geometry[3][0], where[3][0]
        if kept == read:
            return False
        if kept.is_complex and not read.is_complex:
            plain = self._turned(memory.root, memory.geometry[3][1:], (False, False))
            memory.root = self._applied(aten.view_as_real.default, plain)
            memory.geometry = as_real(memory.geometry)
        numbers = as_real(where)[3][0] if read.is_complex else read
        if numbers != memory.geometry[3][0]:
            raise TypeError(f"the network reads {kept} as {read} in place")
        return read.is_complex

    def _turned(self, value: Value, kept: tuple, read: tuple) -> Value:
        """A value kept in one way and read in another: conjugates and negatives are lazy."""
        if read[0] != kept[0]:
            value = self._applied(aten.conj_physical.default, value)
        return self._applied(aten.neg.default, value) if read[1] != kept[1] else value

    def _applied(self, op: Any, value: Value) -> Value:
        return self._emit(op, (value,), {}, (value,))

    def _index_in_root(self, memory: _Memory, where: tuple, device: torch.device) -> Value:
        """Positions of a view among the entries of the root, flattened."""
        shape, stride, offset, _ = memory.geometry
        spots = positions(shape, stride, offset, device).flatten()
        wanted = positions(where[0], where[1], where[2], device)
        size = int(max(spots.max().item(), wanted.max().item())) + 1 if len(spots) else 1
        back = torch.zeros(size, dtype=torch.int64, device=device)
        back[spots] = torch.arange(len(spots), device=device)
        return Value("constant", tensor=back[wanted])

    def _emit(self, op: Any, args: tuple, kwargs: dict, inputs: tuple[Value, ...]) -> Value:
        data = any(v.data for v in inputs)
        weights = any(v.weights for v in inputs)
        value = Value("call", data, weights)
        call = Call(op, args, kwargs, [value], *self._here())
        call.inputs = values_in((args, kwargs))
        value.call = call
        self.calls.append(call)
        return value

    # Calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        if func in _SAME:  # the same value by another name, or a constant of its shape
            return func(*args, **kwargs)
        if func is aten._convolution.default:  # of traced networks: with flags of cuDNN
            func, args = aten.convolution.default, args[:9]
        return self._run(func, args, kwargs)

    def _run(self, func: Any, args: tuple, kwargs: dict) -> Any:
        known = _known(func)
        turned = known.turned  # in place, but of the tensor's axes alone
        written = written_by(func, args, kwargs) if known.writes else []
        flat, structure = flattened((args, kwargs))
        tensors = [i for i, a in enumerate(flat) if isinstance(a, Tensor)]
        tracked = [storage_id(flat[i]) in self.memories for i in tensors]
        if not any(tracked):
            result = func(*args, **kwargs)
            if known.draws:
                self._drawn(result)
            return result
        self.suspect |= not torch.is_grad_enabled()
        if func in _BY_FREQUENCY and len(args) > 3 and args[3]:
            raise ValueError(
                f"scale_grad_by_freq must be False; it is True{self._place()}: gradients of an "
                "input then depend on the others of its batch, and there is no tangent kernel"
            )
        if written:
            self._prepare(written)
        values = {i: self.value(flat[i]) for i in tensors}
        live = any(v.data or v.weights for v in values.values())
        random = known.draws or any(v.random for v in values.values())
        if random and live and self.random is None:
            self.random = f"{operation_name(func)}{self._place()}"
        data = any(v.data for v in values.values())
        if data and (known.reads or (func is _INDEX and _by_mask(flat))):
            self.reads = True
            self.read += [v for v in values.values() if _decides(v, func)]
        result = func(*args, **kwargs)
        outputs = tensors_in(result)
        if not outputs:
            self.reads |= data
            self.read += [v for v in values.values() if v.data]
            return result
        if not live:
            for t in written:  # of constants alone
                memory = self.memories[storage_id(t)]
                memory.version += 1
                memory.root = Value("constant", tensor=whole(t, memory.geometry).clone())
                memory.views = {}
            if random:
                self._drawn(result)
            return result
        recorded = [values.get(i, a) for i, a in enumerate(flat)]
        op = turned or (functional(func) if written else _DIFFERENTIABLE.get(func, func))
        if func is aten.clone.default:
            op = materialized(args[0], result) or func
        self._write(op, (recorded, structure), outputs, written)
        return result

    def _drawn(self, result: Any) -> None:
        """Remember that a constant was drawn at random."""
        for t in leaves_of(result):
            if isinstance(t, Tensor):
                self._remember(t, Value("constant", tensor=t.detach(), random=True))

    def _here(self) -> tuple[str, str, bool]:
        return self.where[-1] if self.where else ("", "", False)

    def _place(self) -> str:
        name, kind, _ = self._here()
        return f" in {name} ({kind})" if name else f" in {kind}" if kind else ""

    def _prepare(self, written: list[Tensor]) -> None:
        """Before a write: what was there is kept, and what may not be written is refused."""
        for t in written:
            memory = self.memories.get(storage_id(t))
            if memory is None:
                numbers = t.untyped_storage().nbytes() // t.itemsize
                everything = whole(t, ((numbers,), (1,), 0, (t.dtype, False, False)))
                self._remember(everything, Value("constant", tensor=everything.clone()))
            elif memory.root.kind == "constant":
                if memory.root.tensor is not None:
                    memory.root.tensor = memory.root.tensor.clone()
                for _, value in memory.views.values():
                    if value.kind == "constant" and value.tensor is not None:
                        value.tensor = value.tensor.clone()
            elif memory.root.kind == "weight":
                raise ValueError(
                    f"parameter {memory.root.name!r} is written into by the network"
                    f"{self._place()}: it has no fixed weights; take that out of forward"
                )

    def _write(self, op: Any, flat: Any, outputs: Any, written: Any) -> None:
        inputs = [a for a in flat[0] if isinstance(a, Value)]
        data, weights = any(v.data for v in inputs), any(v.weights for v in inputs)
        args, kwargs = rebuilt(*flat)
        call = Call(op, args, kwargs, [], *self._here())
        call.inputs, call.flat = inputs, flat
        if data:
            self.largest = max(self.largest, *(t.numel() for t in outputs))
        self.calls.append(call)
        for t in outputs:
            value = Value("call", data, weights, call=call, mask=t.dtype in _MASKS)
            call.outputs.append(value)
            if self.keep:
                value.tensor = t.detach().clone() if written else t.detach()
            key, where = storage_id(t), geometry(t)
            memory = self.memories.get(key)
            if memory is None:
                self._remember(t, value)
            elif any(storage_id(w) == key for w in written):
                self._update(memory, where, value, t)
            elif op not in _TURNS or memory.present(where) is None:  # twice is not at all
                memory.views[where] = (memory.version, value)

    def _update(self, memory: _Memory, where: tuple, value: Value, tensor: Tensor) -> None:
        """A view got new entries: so did the memory under it."""
        if where == memory.geometry:
            memory.root = value
        else:
            real = self._in_real_numbers(memory, where)
            kept = (False, False) if real else memory.geometry[3][1:]
            new = self._turned(value, where[3][1:], kept)
            if real:
                new = self._applied(aten.view_as_real.default, new)
            index = self._index_in_root(memory, as_real(where) if real else where, tensor.device)
            memory.root = self._emit(scattered, (memory.root, index, new), {}, (memory.root, new))
        memory.version += 1
        present = {where: (memory.version, value), memory.geometry: (memory.version, memory.root)}
        for other, (version, kept) in memory.views.items():
            if version == memory.version - 1 and apart(other, where, memory.geometry):
                present.setdefault(other, (memory.version, kept))
        memory.views = present

    # Operations with a rule of the user's own

    def custom_call(self, custom: Custom, args: tuple, kwargs: dict) -> Any:
        """Run an operation as a whole and write it down as one call."""
        flat, structure = flattened((args, kwargs))
        values = [self.value(a) if isinstance(a, Tensor) else a for a in flat]
        self.paused = True
        try:
            result = custom.function(*args, **kwargs)
        finally:
            self.paused = False
        outputs = [t for t in leaves_of(result) if isinstance(t, Tensor)]
        # what the user's rule is told apart: constants stay plain tensors
        values = [v.tensor if isinstance(v, Value) and v.kind == "constant" else v for v in values]
        call_args, call_kwargs = rebuilt(values, structure)
        inputs = values_in((call_args, call_kwargs))
        inputs += [v for _, v in custom.weights if v is not None]
        call = Call(custom, call_args, call_kwargs, [], *self._here())
        call.inputs = inputs
        self.calls.append(call)
        for t in outputs:
            data, weights = any(v.data for v in inputs), any(v.weights for v in inputs)
            value = Value("call", data, weights, call=call)
            call.outputs.append(value)
            key, where = storage_id(t), geometry(t)
            memory = self.memories.get(key)
            if memory is None:
                self._remember(t, value)
            else:
                memory.views[where] = (memory.version, value)
        return result


class _Known(NamedTuple):
    """What is known of an operation, whatever it is called with."""

    turned: Any  # what it stands for, where it writes to a tensor's axes alone
    writes: bool
    draws: bool
    reads: bool  # whether the shape of what it returns depends on values


@cache
def _known(func: Any) -> _Known:
    turned = _TURNED.get(func)
    draws = _RANDOM_TAG in func.tags and not func._schema.name.endswith("rrelu_with_noise")
    # Of `index` that is so with masks only.
    reads = not _READING_TAGS.isdisjoint(func.tags) and func is not _INDEX
    return _Known(turned, turned is None and func._schema.is_mutable, draws, reads)


def _decides(value: Value, func: Any) -> bool:
    """Whether a value decides about shapes: not the entries that a mask chooses from."""
    return value.data and (func is not _INDEX or value.mask)


def _by_mask(arguments: list[Any]) -> bool:
    """Whether entries are chosen by a mask: how many is known from its values only."""
    return any(isinstance(a, Tensor) and a.dtype in _MASKS for a in arguments[1:])
