"""Files whole or not at all; arrays allocated before they are written; one process at a time."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from tangent.machine.optional import optional

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_HERE = (errno.EOPNOTSUPP, errno.EINVAL)  # a file system without allocation


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to be written beside ``path`` and renamed: a reader sees the whole file or none.

    Where writing it fails, ``path`` is as it was and nothing is left behind.
    """
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file ``path``, which is free again when this process ends, however it ends.

    Raises
    ------
    OSError
        With ``busy`` as its words, if another process holds it.
    ModuleNotFoundError
        If filelock is not installed.
    """
    filelock = optional("filelock", "a kernel on disk")
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise OSError(errno.EBUSY, busy, str(path.parent)) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # while it is held: nobody has a lock without its name
        lock.release()


def allocate_array(path: Path, shape: tuple[int, ...], dtype: np.dtype, instead: str) -> None:
    """Give a ``.npy`` file its header and all of its space; the entries it holds already stay.

    A write into the memory map of a file with holes ends the process when the disk is full.

    Raises
    ------
    OSError
        If there is no room, with ``instead`` as the way out; nothing new is left behind.
    """
    header = _header(shape, dtype)
    size = len(header) + math.prod(shape) * dtype.itemsize
    new = not path.exists()
    there = 0 if new else getattr(path.stat(), "st_blocks", 0) * 512
    free = shutil.disk_usage(path.parent).free
    if size - there > free:
        _no_room(path, size, free, instead)
    try:
        with path.open("w+b" if new else "r+b") as file:
            _allocate(file, size)
            file.truncate(size)
            if file.read(len(header)) != header:
                file.seek(0)
                file.write(header)
    except OSError as error:
        if new:
            path.unlink(missing_ok=True)
        if error.errno not in _FULL:
            raise
        _no_room(path, size, free, instead, error)


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    buffer = io.BytesIO()
    about = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()


def _allocate(file: Any, size: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:  # not on every system, nor on every file system
        if isinstance(error, OSError) and error.errno not in _NOT_HERE:
            raise
        zeros = bytes(2**20)
        for start in range(file.seek(0, os.SEEK_END), size, len(zeros)):
            file.write(zeros[: size - start])
        file.flush()
        file.seek(0)


def _no_room(
    path: Path, size: int, free: int, instead: str, error: OSError | None = None
) -> NoReturn:
    raise OSError(
        errno.ENOSPC if error is None else error.errno,
        f"{path.name} takes {size} bytes and {free} are free; {instead}",
        str(path.parent),
    ) from error
