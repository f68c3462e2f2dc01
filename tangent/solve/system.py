"""What every solver asks of a kernel and its targets, checked and brought into one shape.

A kernel is shared by all outputs, (n, n), or full, (n, k, n, k). Either way the solvers see one
square matrix and columns of targets: a full kernel has n*k rows and a single column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from jaxtyping import Float
from torch import Tensor

GIB = 2.0**30

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_VERSION_1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)
_VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))


@dataclass(frozen=True)
class System:
    """A symmetric kernel matrix in float64 and how targets fold into its columns.

    ``k`` is None for a kernel shared across outputs. ``rounding`` is the relative spacing of
    the numbers that the kernel came in, before it was converted.
    """

    matrix: Float[Tensor, "m m"]
    n: int
    k: int | None
    rounding: float

    def columns(self, y: Tensor, name: str = "y") -> Float[Tensor, "m r"]:
        """Return targets of shape (n,) or (n, k) as float64 columns of the system."""
        y = torch.as_tensor(y)
        _check_finite(y, name)
        allowed = "(n,) or (n, k)" if self.k is None else f"(n, k) with k = {self.k}"
        wrong = y.ndim not in (1, 2) or len(y) != self.n
        if self.k is not None:
            wrong = wrong or y.shape != (self.n, self.k)
        if wrong:
            raise ValueError(
                f"{name} must have shape {allowed} for a kernel of n = {self.n} inputs; "
                f"got {tuple(y.shape)}"
            )
        y = y.to(self.matrix)
        return y.reshape(-1, 1) if self.k is not None or y.ndim == 1 else y

    def unfold(self, columns: Tensor, like: Tensor) -> Tensor:
        """Undo `columns`: the last two axes become those of ``like``."""
        return columns.reshape(*columns.shape[:-2], *like.shape)

    def cross(self, kernel: Tensor, name: str = "cross_kernel") -> Float[Tensor, "q m"]:
        """Return the kernel between new inputs and these as a float64 matrix."""
        _check_finite(kernel, name)
        tail = (self.n,) if self.k is None else (self.k, self.n, self.k)
        if kernel.ndim != len(tail) + 1 or tuple(kernel.shape[1:]) != tail:
            raise ValueError(
                f"{name} must have shape (n_new, {', '.join(map(str, tail))}): new inputs first, "
                f"the inputs that were fitted second; got {tuple(kernel.shape)}"
            )
        return kernel.to(self.matrix).reshape(-1, self.matrix.shape[0])


def system(kernel: Tensor, name: str = "kernel") -> System:
    """Return ``kernel`` checked (shape, finite, symmetric), symmetrized and in float64.

    Raises
    ------
    ValueError
        If the kernel is not of shape (n, n) or (n, k, n, k), not finite, or not symmetric.
    """
    kernel = torch.as_tensor(kernel)
    shape = tuple(kernel.shape)
    if kernel.ndim not in (2, 4) or shape[: kernel.ndim // 2] != shape[kernel.ndim // 2 :]:
        raise ValueError(
            f"{name} must have shape (n, n), shared by all outputs, or (n, k, n, k); got {shape}"
        )
    if kernel.numel() == 0:
        raise ValueError(f"{name} must have at least one input; got shape {shape}")
    _check_finite(kernel, name)
    n, k = (shape[0], None) if kernel.ndim == 2 else shape[:2]
    rounding = torch.finfo(kernel.dtype).eps if kernel.is_floating_point() else 2.0**-52
    matrix = kernel.reshape(n * (k or 1), -1).to(torch.float64)
    # Blocks of rows: a second whole matrix of differences would double the memory.
    asymmetry = max(
        float((rows - columns.T).abs().max())
        for rows, columns in zip(matrix.split(1024), matrix.split(1024, dim=1), strict=True)
    )
    largest = float(matrix.diagonal().abs().max())
    if asymmetry > 1e-4 * largest:
        raise ValueError(
            f"{name} must be symmetric; its entries and their mirror images differ by up to "
            f"{asymmetry:.3g} while its diagonal reaches {largest:.3g}; pass the kernel of the "
            "training inputs with themselves"
        )
    if asymmetry:
        matrix = (matrix + matrix.T) / 2
    return System(matrix, n, k, rounding)


def check_ridge(ridge: float, name: str = "ridge") -> float:
    """Return ``ridge`` as a float, at least 0 and finite."""
    ridge = float(ridge)
    if not 0 <= ridge < float("inf"):
        raise ValueError(f"{name} must be at least 0 and finite; got {ridge}")
    return ridge


def check_memory(rows: int, copies: int, what: str, instead: str) -> None:
    """Raise MemoryError if ``copies`` float64 matrices of ``rows`` rows exceed what is free."""
    free = available_bytes()
    needed = 8 * copies * rows**2
    if needed > free:
        fits = int((free / (8 * copies)) ** 0.5)
        raise MemoryError(
            f"{what} on {rows} rows needs {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are "
            f"free; {fits} rows would fit (a row is an input, or an input and output of a full "
            f"kernel); {instead}"
        )


_ASKED = re.compile(r"you tried to allocate (\d+) bytes|Tried to allocate ([\d.]+) GiB")


@contextmanager
def allocations_of(what: str, instead: str) -> Iterator[None]:
    """Raise MemoryError in our words where torch, within, cannot allocate what is asked of it.

    For what a user's own network does, whose needs nobody knows beforehand.
    """
    try:
        yield
    except RuntimeError as error:
        found = _ASKED.search(str(error))
        if found is None:
            raise
        asked = float(found[1]) / GIB if found[1] else float(found[2])
        raise MemoryError(
            f"{what} asked for {asked:,.1f} GiB in one piece and {available_bytes() / GIB:.1f} GiB "
            f"of memory are free; {instead}"
        ) from error


def available_bytes() -> float:
    """Memory that can still be had: the machine's, or that of a control group where it is less.

    Pages of files that are kept in memory count as available: the system gives them up.
    """
    free = float(psutil.virtual_memory().available)
    return max(0.0, min([free, *_group_rooms(_CGROUPS, _MEMBERSHIP)]))


def _group_rooms(mount: Path, membership: Path) -> Iterator[float]:
    """Bytes left in every control group (version 1 or 2) that this process is in, or below."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        kinds, _, group = rest.partition(":")
        if kinds == "":
            root, names = mount, _VERSION_2
        elif "memory" in kinds.split(","):
            root, names = mount / "memory", _VERSION_1
        else:
            continue
        inner = Path(group.lstrip("/"))
        # In a container the path may be that of the host; the mount then is the group itself.
        for folder in (inner, *inner.parents):
            room = _room(root / folder, *names)
            if room is not None:
                yield room


def _room(folder: Path, limit: str, used: str, files: tuple[str, ...]) -> float | None:
    """Bytes between what a group uses, files in memory apart, and what it may."""
    try:
        allowed = int((folder / limit).read_text())  # "max" is no limit, and no number
        taken = int((folder / used).read_text())
        entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    kept = sum(int(entries.get(name, 0)) for name in files)
    return float(allowed - max(0, taken - kept))


def _check_finite(values: Tensor, name: str) -> None:
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(
            f"{name} must be finite; {bad} of its {values.numel()} entries are NaN or infinite; "
            "check the inputs and the weights that it was computed from"
        )
