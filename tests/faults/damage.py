"""Ways to damage a file."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

__all__ = ["DAMAGES"]

Damage = Callable[[Path, random.Random], None]


def cut_short(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def flip_a_bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(content))


def overwrite_a_part(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    content[start : start + 64] = rng.randbytes(len(content[start : start + 64]))
    path.write_bytes(bytes(content))


def empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def replace_with_noise(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(path.stat().st_size))


def replace_with_a_neighbour(path: Path, rng: random.Random) -> None:
    """With a file that is whole and is another one; of files without a neighbour, with zeros."""
    others = sorted(p for p in path.parent.glob(f"*{path.suffix}") if p != path)
    content = rng.choice(others).read_bytes() if others else bytes(path.stat().st_size)
    path.write_bytes(content)


def remove(path: Path, rng: random.Random) -> None:
    path.unlink()


DAMAGES: dict[str, Damage] = {
    "cut short": cut_short,
    "a bit flipped": flip_a_bit,
    "64 bytes overwritten": overwrite_a_part,
    "emptied": empty,
    "replaced by noise": replace_with_noise,
    "replaced by a neighbour": replace_with_a_neighbour,
    "removed": remove,
}
