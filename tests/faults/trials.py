"""Trials: one fault each, and the same work again; what it must come to is asserted.

A trial gives the words for what happened, which the table counts. Children are forked from a
server that has torch already: a kill costs milliseconds, not an import.
"""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
import torch

from tests.faults.damage import DAMAGES
from tests.faults.study import held_study, study_as_read
from tests.faults.works import WORKS, Work
from tests.processes import server

__all__ = ["FILES", "claims_trial", "damage_trial", "disk_trial", "kill_trial", "room"]

_HANG = 800  # seconds: a bound against hangs
# A kill loses no less there than on a disk, and flushing costs nothing.
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
_LEFT = (".claim", ".part", ".lock", ".tmp")

# Files that a finished work leaves: which work's, and the pattern of their names.
FILES: dict[str, tuple[str, str]] = {
    "result (JSON)": ("study", "out/toy/runs/*.json"),
    "arrays of a result (npz)": ("study", "out/toy/runs/*.npz"),
    "study (JSON)": ("study", "out/toy/faults/study.json"),
    "checkpoint": ("training with checkpoints", "training.ckpt"),
    "kernel (npy)": ("stored kernel", "kernel/kernel.npy"),
    "kernel's settings (JSON)": ("stored kernel", "kernel/settings.json"),
    "kernel's journal": ("stored kernel", "kernel/journal-0.jsonl"),
    "moments (npy)": ("normal equations", "moments/*.npy"),
    "moments' state (JSON)": ("normal equations", "moments/state.json"),
    "cached images (npy)": ("cache of images", "images/*.npy"),
    "cache's description (JSON)": ("cache of images", "images/about.json"),
}


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new folder, and one thread of torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(dir=_MEMORY) as place:
            yield Path(place)
    finally:
        torch.set_num_threads(threads)


@lru_cache
def whole(name: str) -> tuple[str, float, int]:
    """Digest of a work without any fault, its seconds and the bytes of its files."""
    with folder() as place:
        found = WORKS[name](place, _silent)
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    with folder() as place:
        start = time.perf_counter()
        assert WORKS[name](place, _silent) == found, f"{name}: two runs give two digests"
        return found, time.perf_counter() - start, size


def _silent(line: str) -> None:
    pass


def _child(work: Work, place: Path, begun: Any, answer: Any, limit: int | None = None) -> None:
    """Do the work in this process; its digest, or what went wrong, is the answer."""
    torch.set_num_threads(1)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    begun.set()
    try:
        answer.put(("digest", work(place, _silent)))
    except Exception as error:
        answer.put((type(error).__name__, str(error)))


class _Started:
    """A child at its work."""

    def __init__(self, work: Work, place: Path, limit: int | None = None):
        forked = server()
        begun, self.answer = forked.Event(), forked.SimpleQueue()
        arguments = (work, place, begun, self.answer, limit)
        self.process = forked.Process(target=_child, args=arguments)
        self.process.start()
        assert begun.wait(_HANG)

    def kill(self) -> bool:
        """Kill it; whether it was at work still. What it had started must end too."""
        children = []
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
            children = psutil.Process(self.process.pid).children(recursive=True)
        at_work = self.process.exitcode is None and self.answer.empty()
        self.process.kill()
        self.process.join()
        _, orphans = psutil.wait_procs(children, timeout=_HANG)
        assert not orphans, f"processes go on without the one that started them: {orphans}"
        return at_work

    def ended(self) -> tuple[str, str]:
        """Its answer."""
        self.process.join(_HANG)
        assert self.process.exitcode == 0, f"the process ended with {self.process.exitcode}"
        return self.answer.get()


def _check_again(name: str, place: Path, log: Callable[[str], None] = _silent) -> None:
    """The same work ends with the same bits and leaves nothing half-written."""
    found = WORKS[name](place, log)
    assert found == whole(name)[0], f"{name}: other bits after the fault"
    left = [str(path) for path in place.rglob("*") if path.name.endswith(_LEFT)]
    assert not left, f"{name}: left behind {left}"


def kill_trial(name: str, rng: random.Random) -> str:
    """Kill a work at a random moment of the time that it takes, and do it again.

    Of a study in two processes, the command or one of its workers.
    """
    seconds = whole(name)[1]
    with folder() as place:
        child = _Started(WORKS[name], place)
        time.sleep(rng.uniform(0, seconds))
        workers = _python_children(child.process.pid) if "processes" in name else []
        if workers and rng.random() < 0.5:
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(workers).kill()
            assert child.ended() == ("digest", whole(name)[0])  # the run was done again
            words = "a worker killed"
        else:
            words = "killed" if child.kill() else "had ended"
        _check_again(name, place)
    return words


def _python_children(pid: int) -> list[psutil.Process]:
    """Workers, not the tracker of shared resources that spawning starts."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(pid).children()
        return [c for c in children if any("spawn_main" in word for word in c.cmdline())]
    return []


def damage_trial(kind: str, damage: str, rng: random.Random) -> str:
    """Damage a file of a finished work and do the work again, or read it where it is only read."""
    name, pattern = FILES[kind]
    with folder() as place:
        shutil.copytree(_finished(name), place / "work")
        place = place / "work"
        path = rng.choice(sorted(place.glob(pattern)))
        before = path.read_bytes()
        DAMAGES[damage](path, rng)
        changed = not path.exists() or path.read_bytes() != before
        named = False
        if name == "study":
            try:
                assert study_as_read(place) == whole(name)[0], f"{path}: other numbers are read"
            except (ValueError, OSError) as error:
                named = path.stem in str(error)
                if not named:
                    raise AssertionError(f"{path} is damaged, its name not said") from error
        said: list[str] = []
        _check_again(name, place, said.append)
        named = named or any(path.stem in line or path.parent.name in line for line in said)
    if not changed:
        return "nothing changed"
    return "named" if named else "made again"


@lru_cache
def _finished(name: str) -> Path:
    place = Path(tempfile.mkdtemp(prefix="faults-", dir=_MEMORY))
    WORKS[name](place, _silent)
    return place


@contextlib.contextmanager
def room(size: int) -> Iterator[tuple[Path, Callable[[], None]] | None]:
    """A file system of ``size`` bytes and what enlarges it; None where nothing may be mounted."""
    with tempfile.TemporaryDirectory() as place:
        mounted = _mount(place, f"size={size}")
        try:
            yield (
                (Path(place), lambda: _check_mount(place, "remount,size=64m")) if mounted else None
            )
        finally:
            if mounted:
                subprocess.run(["umount", place], check=True)


def _mount(place: str, options: str) -> bool:
    if shutil.which("mount") is None:
        return False
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place]
    return subprocess.run(words, capture_output=True).returncode == 0


def _check_mount(place: str, options: str) -> None:
    assert _mount(place, options)


def disk_trial(name: str, rng: random.Random, *, mount: bool = True) -> str:
    """Do a work where there is room for a part of its files only, and again where there is room.

    Where nothing may be mounted (or with ``mount`` false), no file may grow beyond a limit.
    """
    size = whole(name)[2]
    part = int(rng.uniform(0.02, 1.0) * size)
    with contextlib.ExitStack() as stack:
        small = stack.enter_context(room(max(part, 4096))) if mount else None
        place = stack.enter_context(folder()) if small is None else small[0]
        child = _Started(WORKS[name], place, part // 2 if small is None else None)
        kind, words = child.ended()
        if kind == "digest":
            assert words == whole(name)[0], f"{name}: other bits on a full disk"
        else:
            full = ("No space left", "File too large", "are free", "make room")
            assert any(word in words for word in full), f"{name}: {kind}: {words}"
        if small is not None:
            small[1]()
        _check_again(name, place)
    return "went on" if kind == "digest" else "said"


def claims_trial(count: int, rng: random.Random) -> str:
    """Have processes share a study, and kill one of them while it holds a claim."""
    from functools import partial

    with folder() as place:
        begun = place / "begun"
        begun.touch()
        holder = _Started(partial(held_study, begun=begun, hold=True), place)
        others = [
            _Started(partial(held_study, begun=begun, hold=False), place) for _ in range(count - 1)
        ]
        victim = str(holder.process.pid)
        end = time.monotonic() + _HANG
        # The victim may find every run taken; it has none then, and ends as the others do.
        while not any(line.startswith(f"{victim} ") for line in begun.read_text().splitlines()):
            if holder.process.exitcode is not None or time.monotonic() > end:
                break
            time.sleep(0.002)
        held = holder.kill()
        for other in others:
            assert other.ended() == ("digest", whole("study")[0])
        lines = [line.split() for line in begun.read_text().splitlines()]
        mine = [number for pid, number in lines if pid == victim]
        rest = [number for pid, number in lines if pid != victim]
        assert len(rest) == len(set(rest)), "a run was computed twice"
        assert set(mine) <= set(rest), "the run of the killed process was not taken over"
        _check_again("study", place)
    return "killed with a claim" if held and mine else "had no claim"
