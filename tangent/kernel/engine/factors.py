"""Factors of a set of inputs: patches and cotangents of every layer, laid out for its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from tangent.kernel.engine.cost import Problem, Rates, Shape, cheapest
from tangent.machine.pages import fresh
from tangent.operations.patches import Patches
from tangent.operations.pieces import Piece

__all__ = ["Differing", "Factor", "Layer", "Store", "planned", "stacked"]

_GROUPS = 8  # of a convolution, at most, to be contracted one by one

# Layouts of a piece's cotangents (b, o, c, P).
_LAYOUTS = {
    "jacobian": (0, 1, 2, 3),
    "jacobian-tokens": (0, 1, 3, 2),
    "half": (0, 1, 2, 3),
    "gram": (0, 3, 1, 2),
    "gram-full": (3, 0, 1, 2),
}


class Differing(Exception):
    """Inputs use a parameter in other ways than those that its order was chosen for."""


@dataclass(frozen=True)
class Layer:
    """The plan of a parameter: its order, and the sizes it was chosen for."""

    name: str
    order: str  # "dense", "jacobian", "half" or "gram"
    full: bool
    scale: float = 1.0
    shifted: bool = False
    shape: Shape | None = None
    groups: int = 1  # of a convolution, each of that shape


@dataclass
class Factor:
    """A parameter's factors over n inputs, ready to be contracted.

    A grouped convolution has one in ``parts`` for each of its groups, and none of its own.
    """

    layer: Layer
    patches: Patches
    cotangents: Tensor
    gradients: Tensor
    parts: tuple[Factor, ...] = ()

    @property
    def order(self) -> str:
        """Name of the contraction order."""
        return self.layer.order

    @property
    def inputs(self) -> int:
        """n."""
        if self.parts:
            return self.parts[0].inputs
        return len(self.gradients) if self.order == "dense" else len(self.patches)

    @property
    def outputs(self) -> int:
        """Cotangents that were carried."""
        if self.parts:
            return self.parts[0].outputs
        if self.order == "dense":
            return self.gradients.shape[1]
        assert self.layer.shape is not None
        return self.layer.shape.cotangents

    @property
    def shifted(self) -> bool:
        """Whether the patch Gram matrix is a sum over shifts."""
        return self.layer.shifted

    @property
    def alpha(self) -> float:
        """Factor of the layer's share: the square of the weight's scale."""
        return self.layer.scale**2

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        arrays = (self.patches.x, self.cotangents, self.gradients)
        if self.parts:
            return sum(part.bytes for part in self.parts)
        return sum(a.numel() * a.element_size() for a in arrays)

    @property
    def working_bytes(self) -> int:
        """Memory of what is made from them for a contraction."""
        if self.parts:
            return sum(part.working_bytes for part in self.parts)
        if self.order == "dense" or self.patches.kind == "index":
            return 0
        size = self.patches.size // (self.patches.kernel[0] if self.shifted else 1)
        return self.inputs * self.patches.positions * size * self.cotangents.element_size()

    @cached_property
    def operand(self) -> Tensor:
        """What the patch Gram matrix is made of; dropped by `release`."""
        return self.patches.operand(self.shifted).to(self.cotangents.dtype)

    def release(self) -> None:
        """Drop what can be made again."""
        self.__dict__.pop("operand", None)
        for part in self.parts:
            part.release()

    def __getitem__(self, part: slice) -> Factor:
        """Return the factors of some of the inputs."""
        if self.parts:
            parts = tuple(one[part] for one in self.parts)
            return Factor(self.layer, self.patches, self.cotangents, self.gradients, parts)
        if self.order == "dense":
            return Factor(self.layer, self.patches, self.cotangents, self.gradients[part])
        axis = 1 if self.order == "gram" and self.layer.full else 0
        cotangents = self.cotangents[:, part] if axis else self.cotangents[part]
        patches = self.patches.with_inputs(self.patches.x[part])
        return Factor(self.layer, patches, cotangents, self.gradients)


def stacked(factors: Sequence[Factor]) -> Factor:
    """Several parameters' gradients as those of one."""
    first = factors[0]
    gradients = torch.cat([factor.gradients for factor in factors], dim=2)
    return Factor(first.layer, first.patches, first.cotangents, gradients)


def planned(name: str, uses: list[Piece], problem: Problem, rates: Rates) -> Layer:
    """Choose the order of a parameter from its pieces in one batch."""
    groups = uses[0].groups if len(uses) == 1 else 1
    if groups > _GROUPS:  # many small products: one large one of their gradients is faster
        return Layer(name, "dense", problem.full)
    piece = uses[0].split()[0] if groups > 1 else _as_one(uses)
    d = None if piece is None else piece.cotangent
    if piece is None or d is None or not d.numel():  # no factors, or no position that uses it
        return Layer(name, "dense", problem.full)
    assert piece.patches is not None
    _, o, c, p = d.shape
    patches = piece.patches
    rows = patches.kernel[0] if patches.shifts else 1
    shape = Shape(p, patches.size, c, o, rows)
    table = patches.kind == "index"
    order = cheapest(shape, problem, rates, one_hot=table)
    if order == "jacobian" and (table or patches.size <= p):
        return Layer(name, "dense", problem.full, groups=groups)
    return Layer(name, order, problem.full, piece.scale, rows > 1, shape, groups)


def _as_one(uses: list[Piece]) -> Piece | None:
    """Pieces of a shared parameter as one, side by side along the positions; None if dense."""
    if len(uses) > 1 and any(u.order is not None for u in uses):
        return None
    if any(u.patches is None or u.groups > 1 for u in uses):
        return None
    if len(uses) == 1:
        return uses[0]
    patches = [u.patches for u in uses if u.patches is not None]
    if any(q.kind == "index" for q in patches) or len({q.size for q in patches}) > 1:
        return None
    tokens = [u.scale * q.columns().transpose(1, 2) for u, q in zip(uses, patches, strict=True)]
    cotangents = [u.cotangent for u in uses if u.cotangent is not None]
    together = Patches("tokens", torch.cat(tokens, dim=1))
    return Piece(uses[0].name, 1.0, together, torch.cat(cotangents, dim=3))


def _form(piece: Piece) -> tuple:
    """What pieces of the same parameter have in common where their factors go together."""
    if piece.patches is None or piece.cotangent is None:
        return ()
    geometry = replace(piece.patches, x=piece.patches.x[:0])
    shapes = piece.patches.x.shape[1:], piece.cotangent.shape[1:]
    return repr(geometry), shapes, piece.groups, piece.scale, piece.turned, piece.order is None


@dataclass
class Store:
    """Collects the factors of one parameter, batch after batch, in arrays made for n inputs."""

    layer: Layer
    n: int
    dtype: torch.dtype
    filled: int = 0
    arrays: dict[str, Tensor] = field(default_factory=dict)
    patches: Patches | None = None
    parts: list[Store] = field(default_factory=list)  # of the groups of a convolution
    form: tuple | None = None  # of what the first batch gave

    def __post_init__(self) -> None:
        if self.layer.groups > 1:
            one = replace(self.layer, groups=1)
            self.parts = [Store(one, self.n, self.dtype) for _ in range(self.layer.groups)]

    def add(self, uses: list[Piece]) -> None:
        """Append a batch.

        Raises
        ------
        Differing
            If the layer's order does not suit it.
        """
        if self.parts:
            if len(uses) > 1 or uses[0].groups != self.layer.groups:
                raise Differing(self.layer.name)
            for part, piece in zip(self.parts, uses[0].split(), strict=True):
                part.add([piece])
            self.filled = self.parts[0].filled
        elif self.layer.order == "dense":
            self._add_gradients(uses)
        else:
            self._add_factors(uses)

    def _add_gradients(self, uses: list[Piece]) -> None:
        one = uses[0]
        d, patches = one.cotangent, one.patches
        plain = (
            len(uses) == one.groups == 1
            and one.order is None
            and patches is not None
            and patches.kind != "index"
        )
        if plain and d is not None and patches is not None and d.dtype == self.dtype:
            b, o, c, _ = d.shape
            one.dense(out=self._rows("gradients", (b, o, c * patches.size), 0, d))
            self.filled += b
            return
        total = one.dense()
        for use in uses[1:]:
            total = total + use.dense()
        self._write("gradients", total, 0)
        self.filled += len(total)

    def _add_factors(self, uses: list[Piece]) -> None:
        piece = _as_one(uses)
        form = None if piece is None else _form(piece)
        self.form = self.form or form
        if piece is None or piece.patches is None or piece.cotangent is None or form != self.form:
            raise Differing(self.layer.name)
        layout = _LAYOUTS[self._key(piece.patches)]
        self._write("cotangents", piece.cotangent.permute(layout), layout.index(0))
        self._write("x", piece.patches.x, 0, keep=not piece.patches.x.is_floating_point())
        self.patches = piece.patches
        self.filled += len(piece.patches)

    def _key(self, patches: Patches) -> str:
        order = self.layer.order
        if order == "gram" and self.layer.full:
            return "gram-full"
        return "jacobian-tokens" if order == "jacobian" and patches.kind == "tokens" else order

    def _write(self, name: str, values: Tensor, axis: int, keep: bool = False) -> None:
        if self._whole(values, axis, keep):
            self.arrays[name] = values
            return
        self._rows(name, values.shape, axis, values, keep).copy_(values)

    def _whole(self, values: Tensor, axis: int, keep: bool) -> bool:
        """Whether values are of all inputs, and as they will be read: nothing to be copied."""
        return (
            values.shape[axis] == self.n
            and (keep or values.dtype == self.dtype)
            and values.is_contiguous()
            and values.untyped_storage().nbytes() == values.nbytes
        )

    def _rows(
        self, name: str, shape: Sequence[int], axis: int, like: Tensor, keep: bool = False
    ) -> Tensor:
        """The place of the next batch in an array, which is made for all inputs."""
        if name not in self.arrays:
            whole = [self.n if i == axis else length for i, length in enumerate(shape)]
            dtype = like.dtype if keep else self.dtype
            self.arrays[name] = fresh(whole, dtype, like.device)
        return self.arrays[name].narrow(axis, self.filled, shape[axis])

    def factor(self) -> Factor:
        """Return the factors; the store is full by now."""
        assert self.filled == self.n
        empty = torch.empty(0)
        if self.parts:
            parts = tuple(part.factor() for part in self.parts)
            return Factor(self.layer, Patches("tokens", empty), empty, empty, parts)
        if self.layer.order == "dense":
            return Factor(self.layer, Patches("tokens", empty), empty, self.arrays["gradients"])
        assert self.patches is not None
        patches = self.patches.with_inputs(self.arrays["x"])
        return Factor(self.layer, patches, self.arrays["cotangents"], empty)
