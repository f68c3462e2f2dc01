"""Factors of a set of inputs: patches and cotangents of every layer, laid out for its order."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from tangent.engine.cost import Problem, Rates, Shape, cheapest
from tangent.engine.pages import fresh
from tangent.engine.patches import Patches
from tangent.engine.pieces import Piece

__all__ = ["Factor", "Layer", "Store", "planned"]

# Layouts of a piece's cotangents (b, o, c, P).
_LAYOUTS = {
    "jacobian": (0, 1, 2, 3),
    "half": (0, 1, 2, 3),
    "gram": (0, 3, 1, 2),
    "gram-full": (3, 0, 1, 2),
}


@dataclass(frozen=True)
class Layer:
    """The plan of a parameter: its order, and the sizes it was chosen for."""

    name: str
    order: str  # "dense", "jacobian", "half" or "gram"
    full: bool
    scale: float = 1.0
    shifted: bool = False
    shape: Shape | None = None


@dataclass
class Factor:
    """A parameter's factors over n inputs, ready to be contracted."""

    layer: Layer
    patches: Patches
    cotangents: Tensor
    gradients: Tensor

    @property
    def order(self) -> str:
        """Name of the contraction order."""
        return self.layer.order

    @property
    def inputs(self) -> int:
        """n."""
        return len(self.gradients) if self.order == "dense" else len(self.patches)

    @property
    def outputs(self) -> int:
        """Cotangents that were carried."""
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
        return sum(a.numel() * a.element_size() for a in arrays)

    @property
    def working_bytes(self) -> int:
        """Memory of what is made from them for a contraction."""
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

    def __getitem__(self, part: slice) -> Factor:
        """Return the factors of some of the inputs."""
        if self.order == "dense":
            return Factor(self.layer, self.patches, self.cotangents, self.gradients[part])
        axis = 1 if self.order == "gram" and self.layer.full else 0
        cotangents = self.cotangents[:, part] if axis else self.cotangents[part]
        patches = self.patches.with_inputs(self.patches.x[part])
        return Factor(self.layer, patches, cotangents, self.gradients)


def planned(name: str, uses: list[Piece], problem: Problem, rates: Rates) -> Layer:
    """Choose the order of a parameter from its pieces in one batch."""
    piece = _as_one(uses)
    if piece is None:
        return Layer(name, "dense", problem.full)
    assert piece.patches is not None
    assert piece.cotangent is not None
    _, o, c, p = piece.cotangent.shape
    patches = piece.patches
    rows = patches.kernel[0] if patches.shifts else 1
    shape = Shape(p, patches.size, c, o, rows)
    order = cheapest(shape, problem, rates, one_hot=patches.kind == "index")
    if order == "jacobian" and patches.size <= p:
        return Layer(name, "dense", problem.full)
    return Layer(name, order, problem.full, piece.scale, rows > 1, shape)


def _as_one(uses: list[Piece]) -> Piece | None:
    """Pieces of a shared parameter as one, side by side along the positions; None if dense."""
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


@dataclass
class Store:
    """Collects the factors of one parameter, batch after batch, in arrays made for n inputs."""

    layer: Layer
    n: int
    dtype: torch.dtype
    filled: int = 0
    arrays: dict[str, Tensor] = field(default_factory=dict)
    patches: Patches | None = None

    def add(self, uses: list[Piece]) -> None:
        """Append a batch."""
        if self.layer.order == "dense":
            total = uses[0].dense()
            for use in uses[1:]:
                total = total + use.dense()
            self._write("gradients", total, 0)
            self.filled += len(total)
            return
        piece = _as_one(uses)
        assert piece is not None
        assert piece.patches is not None
        assert piece.cotangent is not None
        key = "gram-full" if self.layer.order == "gram" and self.layer.full else self.layer.order
        layout = _LAYOUTS[key]
        self._write("cotangents", piece.cotangent.permute(layout), layout.index(0))
        self._write("x", piece.patches.x, 0, keep=not piece.patches.x.is_floating_point())
        self.patches = piece.patches
        self.filled += len(piece.patches)

    def _write(self, name: str, values: Tensor, axis: int, keep: bool = False) -> None:
        if name not in self.arrays:
            shape = list(values.shape)
            shape[axis] = self.n
            dtype = values.dtype if keep else self.dtype
            self.arrays[name] = fresh(shape, dtype, values.device)
        target = self.arrays[name].narrow(axis, self.filled, values.shape[axis])
        target.copy_(values)

    def factor(self) -> Factor:
        """Return the factors; the store is full by now."""
        assert self.filled == self.n
        empty = torch.empty(0)
        if self.layer.order == "dense":
            return Factor(self.layer, Patches("tokens", empty), empty, self.arrays["gradients"])
        assert self.patches is not None
        patches = self.patches.with_inputs(self.arrays["x"])
        return Factor(self.layer, patches, self.arrays["cotangents"], empty)
