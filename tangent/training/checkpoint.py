"""Checkpoints of training: written whole or not at all, checksummed, loaded without code.

A file is one line (what it is, and the SHA-256 of all that follows) and a `torch.save` archive of
tensors, numbers and strings.
"""

from __future__ import annotations

import glob
import hashlib
import io
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import psutil
import torch
from torch import Tensor

from tangent.machine.storage import replacing

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_MAGIC = b"tangent checkpoint 1 "
_HEADER = len(_MAGIC) + 64 + 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the reason and the way out."""


@dataclass
class Checkpoint:
    """Where training keeps its state and how often.

    Parameters
    ----------
    path : Path
        Training goes on from this file if it exists, and replaces it as it proceeds.
    every : float
        Seconds between two writings, or more where one takes longer than a twentieth of that; the
        end of training is always written.
    measured : dict
        What was measured before training and settled it, its learning rate say. Measured again it
        could differ in its last bit (with another number of threads), and the checkpoint would be
        that of another training.
    """

    path: Path
    every: float = 60.0
    measured: dict[str, float] = field(default_factory=dict)
    _written: float = field(default_factory=time.monotonic, repr=False)
    _took: float = field(default=0.0, repr=False)
    _read: dict[str, Any] | None = field(default=None, repr=False)  # once for both who ask
    # CPU time of this process at the start, and of those before it; of some files nobody knows.
    _cpu: float = field(default_factory=time.process_time, repr=False)
    _spent: float | None = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        if not self.every >= 0:
            raise ValueError(f"every must be at least 0 seconds; got {self.every!r}")
        self.path = Path(self.path)

    def due(self) -> bool:
        """Whether the last writing is longer ago than ``every``, and than 20 times its own time."""
        return time.monotonic() - self._written >= max(self.every, 20 * self._took)

    def measurements(self) -> dict[str, float] | None:
        """Return what the training in the file was settled by; None when there is no file."""
        self._read = self._file()
        if self._read is None:
            return None
        self.measured = dict(self._read.get("measured", {}))
        return self.measured

    def _file(self) -> dict[str, Any] | None:
        return load_checkpoint(self.path) if self.path.exists() else None

    def load(self, of: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the saved state of the training called ``of``, None when there is no file."""
        state, self._read = self._read or self._file(), None
        if state is None:
            return None
        saved = state.get("of", {})
        for key in sorted({*of, *saved}):
            if saved.get(key) != of.get(key):
                raise CheckpointError(
                    f"{self.path} belongs to another training: its {key} is {saved.get(key)!r}, "
                    f"here it is {of.get(key)!r}; take another path, or remove the file"
                )
        self._spent = state.get("cpu_seconds")
        return state

    def save(self, of: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write the state of the training called ``of``."""
        start = time.monotonic()
        spent = None if self._spent is None else self._spent + time.process_time() - self._cpu
        beside = {"measured": dict(self.measured), "cpu_seconds": spent}
        save_checkpoint(self.path, {"of": dict(of), **beside, **state})
        self._written = time.monotonic()
        self._took = self._written - start if self.every else 0.0


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of values, shapes and dtypes, whatever their layout in memory and their device."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous()
        flat = flat.as_strided((flat.numel(),), (1,))  # one value may have any stride
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


class _Hashed(io.RawIOBase):
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: ReadableBuffer) -> int:
        self.sha.update(content)
        return self.file.write(content)


class _Behind(io.RawIOBase):
    """A file as it is behind its header."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = _HEADER if whence == io.SEEK_SET else 0
        return self.file.seek(offset + start, whence) - _HEADER

    def tell(self) -> int:
        return self.file.tell() - _HEADER

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self.file.readinto(buffer)  # type: ignore[attr-defined]


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists, dicts) beside ``path`` and rename.

    Nothing is copied in memory, and an interruption leaves the earlier file as it was.

    Raises
    ------
    CheckpointError
        When the file cannot be written.
    """
    _sweep(path)
    try:
        with replacing(path) as file:
            file.write(bytes(_HEADER))
            hashed = _Hashed(file)
            sink: Any = hashed
            torch.save(dict(state), sink)
            file.seek(0)
            file.write(_MAGIC + hashed.sha.hexdigest().encode() + b"\n")
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot write the checkpoint {path}: {error}; make room or take another folder"
        ) from error


def _sweep(path: Path) -> None:
    """Remove what processes of this machine that were killed left of this checkpoint."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.{socket.gethostname()}.*.part"):
        pid = part.name.split(".")[-2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            part.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, its checksum first, on the CPU.

    Raises
    ------
    CheckpointError
        When it is missing, no checkpoint, cut short or changed.
    """
    way_out = "remove it to start anew, or put the intact file in its place"
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER)
            if not header.startswith(_MAGIC) or len(header) < _HEADER:
                raise CheckpointError(f"{path} is no checkpoint of this project; {way_out}")
            sha = hashlib.file_digest(file, "sha256").hexdigest()
            if sha.encode() != header[len(_MAGIC) : -1]:
                raise CheckpointError(
                    f"{path} is damaged, cut short or changed: its checksum does not fit; {way_out}"
                )
            behind: Any = _Behind(file)
            return torch.load(behind, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
