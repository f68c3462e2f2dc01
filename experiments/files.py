"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

__all__ = ["OutputError", "said", "write_file"]


class OutputError(OSError):
    """A folder or file that cannot be written; the message names it."""


@contextlib.contextmanager
def said(path: Path):
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


def write_file(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path`` and rename: a reader sees the whole file or none.

    Raises
    ------
    OutputError
        When the folder cannot be written or the disk is full; nothing is left behind.
    """
    # The owner is in the name: `claims.sweep` removes what a killed process left.
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    with said(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
