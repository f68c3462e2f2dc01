"""Claims: a run is taken by one process at a time, on a folder that several share.

A claim is a file beside the result, made with ``O_EXCL`` and touched while its owner lives. It is
stale when its owner ran on this host and is gone, or has not touched it for ten minutes. Should
two processes ever compute the same run, they write the same numbers, each file in one piece.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.files import said

__all__ = ["claimed", "owner", "release", "sweep", "wait_for"]

_BEAT = 30.0  # seconds between touches
_STALE = 600.0  # seconds without a touch: twenty beats, for a slow network folder


def _claim_path(path: Path) -> Path:
    return path.with_suffix(".claim")


def _started(pid: int) -> str | None:
    """When a process of this host started, in the kernel's words; pids are used again."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def _alive(pid: int, started: str | None) -> bool:
    if os.name == "nt":  # there os.kill ends the process; its touches have to tell
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return started is None or _started(pid) in (None, started)


def owner(path: Path) -> str | None:
    """Who computes the run of ``path`` now, as "process 7 on host"; None if nobody does."""
    claim = _claim_path(path)
    try:
        age = _now(claim.parent) - claim.stat().st_mtime
        content = claim.read_text()
    except OSError:
        return None
    try:
        document: dict[str, Any] = json.loads(content)
        pid, host, started = int(document["pid"]), document["host"], document.get("started")
    except (ValueError, KeyError, TypeError):
        # Cut short: its owner died while writing it, or writes it just now.
        return "a starting process" if age < _BEAT else None
    if age > _STALE or (host == socket.gethostname() and not _alive(pid, started)):
        return None
    return f"process {pid} on {host}"


def _now(folder: Path) -> float:
    """The clock of the file system, which need not be ours."""
    probe = folder / f".clock.{os.getpid()}.{threading.get_ident()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _take(path: Path) -> bool:
    """Make the claim's file; False if another process was first."""
    claim = _claim_path(path)
    if claim.exists():
        if owner(path) is not None:
            return False
        # Renamed first, so that of two processes one alone takes a stale claim away.
        away = claim.with_name(f".{claim.name}.{os.getpid()}.stale")
        try:
            claim.rename(away)
        except FileNotFoundError:
            return False
        away.unlink(missing_ok=True)
    with said(claim):
        claim.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "w") as file:
                me = {"pid": os.getpid(), "host": socket.gethostname()}
                json.dump({**me, "started": _started(os.getpid())}, file)
        except BaseException:
            claim.unlink(missing_ok=True)
            raise
    return True


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold the claim of a run's path; gives False, and holds nothing, if another process does.

    Raises
    ------
    OutputError
        When the folder cannot be written.
    """
    if not _take(path):
        yield False
        return
    claim = _claim_path(path)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT):
            with contextlib.suppress(OSError):
                os.utime(claim, (now := _now(claim.parent), now))

    thread = threading.Thread(target=beat, daemon=True, name="claim")
    thread.start()
    try:
        yield True
    finally:
        done.set()
        with contextlib.suppress(OSError):
            claim.unlink(missing_ok=True)


def wait_for(path: Path, *, seconds: float = 1.0) -> None:
    """Return when nobody computes the run of ``path`` any more."""
    while owner(path) is not None:
        time.sleep(seconds)


def release(path: Path) -> None:
    """Take this process's claim of a run away, if one was left by an interrupt.

    Ctrl-C can come between any two instructions, also before `claimed` has entered its block.
    """
    if owner(path) == f"process {os.getpid()} on {socket.gethostname()}":
        _claim_path(path).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what processes of this host that were killed left half-written in ``folder``."""
    for part in folder.glob(f".*.{socket.gethostname()}.*.part"):
        pid = part.name.split(".")[-2]
        if pid.isdigit() and not _alive(int(pid), None):
            part.unlink(missing_ok=True)
