"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

_FORGOTTEN = 86400.0  # seconds without a change: what another machine left is taken away


class OutputError(OSError):
    """A folder or file that cannot be written; the message names it."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` met in writing ``path`` into an `OutputError` that says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}; make room or give another folder with --out "
            "(finished runs are kept)"
        ) from error


def part_name(name: str) -> str:
    """Name of what becomes ``name`` when it is whole: it says whose it is, for `sweep`."""
    return f".{name}.{socket.gethostname()}.{os.getpid()}.part"


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in ``folder``: files and folders.

    Of other machines (and of earlier versions), what has not changed for a day.
    """
    for part in (*folder.glob(".*.part"), *folder.glob(".part-*")):
        with contextlib.suppress(OSError):
            if _left(part):
                _remove(part)


def _left(part: Path) -> bool:
    changed = part.lstat().st_mtime
    if part.match(f".*.{socket.gethostname()}.*.part"):
        pid = part.name.split(".")[-2]
        return pid.isdigit() and not _alive(int(pid), changed)
    return time.time() - changed > _FORGOTTEN


def _alive(pid: int, then: float) -> bool:
    """Whether this process of this machine lives, and did already at a time (pids come again)."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < then + 2
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _remove(part: Path) -> None:
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path`` and rename: a reader sees the whole file or none.

    Raises
    ------
    OutputError
        When the folder cannot be written or the disk is full; nothing is left behind.
    """
    beside = path.with_name(part_name(path.name))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
