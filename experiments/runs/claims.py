"""Claims: a run is taken by one process at a time, on a folder that several share.

A claim is a lock on a file beside the result. The system takes it back when its process ends,
whatever ended it, so that a dead process holds nothing; the file alone says nothing. Should two
processes ever compute the same run (on a network folder without locks), they write the same
numbers, each file in one piece.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

import filelock

from experiments.files import OutputError, writing

_POLL = 0.2  # seconds between two looks at a run that another process computes


def _claim_path(path: Path) -> Path:
    return path.with_suffix(".claim")


def _taken(claim: Path, *, wait: bool) -> filelock.BaseFileLock | None:
    """The lock on a claim's file; None if another process holds it and we do not wait.

    Raises
    ------
    OutputError
        When the folder cannot be written, or when something else bears the claim's name.
    """
    with writing(claim):
        claim.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(claim.lstat().st_mode):
            raise OutputError(f"{claim} is in the way of a claim, and no file: remove it")
    lock = filelock.FileLock(claim)
    with writing(claim):
        try:
            lock.acquire(timeout=-1 if wait else 0, poll_interval=_POLL)
        except filelock.Timeout:  # an OSError as well
            return None
    return lock


def _given_back(claim: Path, lock: filelock.BaseFileLock) -> None:
    with contextlib.suppress(OSError):
        claim.unlink(missing_ok=True)  # while it is held: nobody has a lock without its name
    lock.release()


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold the claim of a run's path; gives False, and holds nothing, if another process does.

    Raises
    ------
    OutputError
        When the folder cannot be written.
    """
    claim = _claim_path(path)
    lock = _taken(claim, wait=False)
    if lock is None:
        yield False
        return
    try:
        yield True
    finally:
        _given_back(claim, lock)


def held(path: Path) -> bool:
    """Whether a process computes the run of ``path`` now."""
    claim = _claim_path(path)
    if not claim.exists():
        return False
    if (lock := _taken(claim, wait=False)) is None:
        return True
    _given_back(claim, lock)
    return False


def wait_for(path: Path) -> None:
    """Return when nobody computes the run of ``path`` any more."""
    claim = _claim_path(path)
    if claim.exists() and (lock := _taken(claim, wait=True)):
        _given_back(claim, lock)


def sweep(folder: Path) -> None:
    """Remove the files of claims that nobody holds: their processes were killed."""
    for claim in folder.glob("*.claim"):
        with contextlib.suppress(OSError):
            held(claim)
