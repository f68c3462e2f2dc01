"""What one step of training will need in memory, found without allocating any of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tangent.machine.copies import copied
from tangent.models import ScaledDifference
from tangent.models.direct import DirectScaling


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one training step."""

    weights: int
    """Frozen and trainable weights, gradients and momenta: there throughout."""
    activations: int
    """What the step needs beside them at its peak: activations, and temporaries of one layer."""
    scratch: int
    """Allowance for the convolution library's copies of the largest weight in its own layout."""

    @property
    def total(self) -> int:
        """All together; the Python process and the data come on top."""
        return self.weights + self.activations + self.scratch

    def __str__(self) -> str:
        parts = [f"{n / 2**30:.2f} GiB" for n in (self.weights, self.activations, self.scratch)]
        return (
            f"{self.total / 2**30:.2f} GiB: weights, gradients and momenta {parts[0]}, "
            f"activations {parts[1]}, scratch {parts[2]}"
        )


def training_memory(
    model: nn.Module,
    batch_size: int,
    input_shape: tuple[int, ...] = (3, 32, 32),
    *,
    alpha: float = 1e7,
    momentum: float = 0.9,
    parametrization: Literal["difference", "direct"] = "difference",
    input_dtype: torch.dtype | None = None,
) -> TrainingMemory:
    """Memory of a training step, before anything is allocated.

    The step is run on tensors without values, and every allocation and release is counted.

    Parameters
    ----------
    model : nn.Module
        Read for its shapes only; may live on the ``meta`` device
        (``with torch.device("meta"): vgg11(width=8)``).
    batch_size : int
        Inputs that pass the network at once (the micro-batch, where there are such).
    input_shape : tuple of int
    alpha, momentum
        As in training.
    parametrization : {"difference", "direct"}
    input_dtype : torch.dtype, optional
        That of the weights by default.

    Returns
    -------
    TrainingMemory
        Bytes. The peak of the process was within 10% of it, plus the interpreter and its
        libraries, for VGG-11 at widths 2 and 8 on a CPU.

    Notes
    -----
    The model that `ScaledDifference` copies is not counted: let go of it before training.
    """
    meta = _without_values(model)
    kind = ScaledDifference if parametrization == "difference" else DirectScaling
    module = kind(meta, alpha)
    weights = sum(_size(t) for t in (*module.parameters(), *module.buffers()))
    trained = [p for p in module.parameters() if p.requires_grad]
    moving = sum(_size(p) for p in trained)
    weights += moving * (1 + (momentum > 0))
    dtype = trained[0].dtype
    with _Ledger() as ledger:
        x = torch.empty(batch_size, *input_shape, device="meta", dtype=input_dtype or dtype)
        module(x).sum().backward()
    # The gradients are in the ledger and in the weights.
    activations = max(ledger.peak - moving, 0)
    largest = max(_size(p) for p in trained)
    return TrainingMemory(weights, activations, 2 * largest)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _without_values(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with all tensors on the meta device."""
    memo: dict[int, Any] = {}
    for p in model.parameters():
        empty = torch.empty_like(p, device="meta")
        memo[id(p)] = nn.Parameter(empty, requires_grad=p.requires_grad)
    for b in model.buffers():
        memo[id(b)] = torch.empty_like(b, device="meta")
    return copied(model, memo)


class _Ledger(TorchDispatchMode):
    """Bytes of the storages that operations make, now and at the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        known = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if _is_meta(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not _is_meta(tensor):
                continue
            storage = tensor.untyped_storage()
            if id(storage) not in known and storage not in self._seen:
                self._seen.add(storage)
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta
