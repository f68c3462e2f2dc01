"""Many finished runs in one file: a line of JSON each, compressed.

``experiments pack`` puts the JSON files of an experiment's ``runs`` folder into ``runs.jsonl.xz``
beside them and removes them. Whoever reads a run by its path finds it there when there is no such
file; a file, being newer, counts before the line. Long arrays stay in their ``.npz`` files.
"""

from __future__ import annotations

import functools
import json
import lzma
from pathlib import Path

from experiments.files import write_file

Stamp = tuple[int, int]


class ResultError(ValueError):
    """A result file that cannot be read; the message names it."""


_NO_RUNS = (ValueError, TypeError, AttributeError, RecursionError)  # JSON of another kind


def pack_of(path: Path) -> Path:
    """The packed file that the run of this path may be in."""
    return path.parent.parent / f"{path.parent.name}.jsonl.xz"


def run_text(path: Path) -> str:
    """Text of a run's JSON file, from the file or from the pack.

    Raises
    ------
    OSError
        When it is in neither.
    ResultError
        When the pack is damaged.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        lines = _lines(pack_of(path))
        if path.name not in lines:
            raise
        return lines[path.name]


def kept(path: Path) -> bool:
    """Whether there is a result of this path, in a file or in a pack."""
    return path.exists() or path.name in _lines(pack_of(path))


def stamp(path: Path) -> Stamp | None:
    """What tells a result from a later one of the same path; None where there is none."""
    for place in (path, pack_of(path)):
        if place.exists() and kept(path):
            status = place.stat()
            return status.st_mtime_ns, status.st_ino
    return None


def run_paths(folder: Path) -> list[Path]:
    """Paths of all runs in ``runs`` folders below ``folder``, packed ones too, in order."""
    found = set(folder.rglob("runs/*.json"))
    for packed in folder.rglob("runs.jsonl.xz"):
        found |= {packed.parent / "runs" / name for name in _lines(packed)}
    return sorted(found)


def pack(folder: Path) -> int:
    """Put the runs of ``folder`` into its pack, beside it; how many files it took in.

    Raises
    ------
    ResultError
        When a file cannot be read or would not come back as it is, byte for byte, or the pack is
        damaged; nothing is removed then.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        return 0
    target = pack_of(files[0])
    lines = dict(_lines(target))
    for path in files:
        lines[path.name] = _packable(path)
    content = "".join(_line(name, text) for name, text in sorted(lines.items()))
    compressed = lzma.compress(content.encode(), check=lzma.CHECK_SHA256, preset=9)
    write_file(target, compressed)
    if dict(_lines(target)) != lines:
        raise ResultError(f"{target} does not hold what was put into it; nothing was removed")
    for path in files:
        path.unlink()
    return len(files)


def _packable(path: Path) -> str:
    """Text of a file that comes back from a line as it is."""
    try:
        text = path.read_text(encoding="utf-8")
        alike = _text(dict(json.loads(text))) == text
    except (OSError, *_NO_RUNS) as error:
        raise ResultError(f"{path} cannot be read as a result ({error}); remove it") from error
    if not alike:
        raise ResultError(f"{path} is not laid out as this version writes it; left as it is")
    return text


def _line(name: str, text: str) -> str:
    return json.dumps({"name": name, **json.loads(text)}, allow_nan=False) + "\n"


def _text(document: object) -> str:
    """As `experiments.runs.results` lays a result out."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _lines(packed: Path) -> dict[str, str]:
    try:
        status = packed.stat()
    except FileNotFoundError:
        return {}
    return _read(packed, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=64)
def _read(packed: Path, changed: int, size: int) -> dict[str, str]:
    """Name and text of every run; read again when the file is another (``changed``, ``size``)."""
    try:
        with lzma.open(packed, "rt", encoding="utf-8") as lines:
            documents = [json.loads(line) for line in lines]
        return {document.pop("name"): _text(document) for document in documents}
    except (lzma.LZMAError, OSError, EOFError, LookupError, *_NO_RUNS) as error:
        raise ResultError(
            f"{packed} is damaged ({error}); remove it, and the same commands compute its runs "
            "again"
        ) from error
