"""Files of a folder or of an archive, one after the other, and nothing from outside it."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from experiments.data.datasets import DataError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz")

_LARGEST = 64 * 2**20  # bytes of one entry: a batch of CIFAR-10 has 31 MB
LARGEST_IN_ALL = 4 * 2**30  # bytes: CIFAR-10 has 0.2 GB, in files of whatever kind
_BROKEN = (
    tarfile.TarError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RecursionError,
    zlib.error,
    lzma.LZMAError,
)


def is_archive(path: Path) -> bool:
    """Whether the name says that this is an archive."""
    return path.name.lower().endswith(SUFFIXES)


def archives_in(folder: Path) -> list[Path]:
    """Archives that lie in ``folder`` itself, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_archive(path))


def files(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Give the relative path and the content of every file of a folder or an archive.

    An archive is read as a stream and unpacks nothing to disk. Every entry passes tarfile's
    ``data`` filter first, as if it were to be unpacked.

    Raises
    ------
    DataError
        When the archive or a file cannot be read to its end, when an entry points out of it, or
        when there is more in it than any data set has (archives can hold a thousand times their
        size).
    """
    total = 0
    for name, content in _of_folder(source) if source.is_dir() else _of_archive(source):
        total += len(content)
        if total > LARGEST_IN_ALL:
            raise DataError(f"{source} holds more than {LARGEST_IN_ALL} bytes, too many")
        yield name, content


def _of_folder(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    for path in sorted(source.rglob("*")):
        if not path.is_file():  # a folder, a link that leads nowhere, a pipe
            continue
        try:
            if (size := path.stat().st_size) > _LARGEST:
                raise DataError(f"{path} has {size} bytes, too many")
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error})") from error
        yield PurePosixPath(path.relative_to(source).as_posix()), content


def _of_archive(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    try:
        with tarfile.open(source, "r|*") as archive:
            for member in archive:
                _check(member, source)
                if member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None  # a regular file has content
                    yield PurePosixPath(member.name), content.read()
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(
            f"{source} cannot be read as an archive ({error}); it may be cut short: fetch it again"
        ) from error


def _check(member: tarfile.TarInfo, source: Path) -> None:
    """Refuse an entry that would land outside the folder it is unpacked in."""
    name = PurePosixPath(member.name)
    try:
        # The filter would strip a leading slash; an absolute path is refused as well.
        if name.is_absolute() or ".." in name.parts:
            raise tarfile.OutsideDestinationError(member, member.name)
        tarfile.data_filter(member, "/destination")
    except tarfile.FilterError as error:
        raise DataError(
            f"{source}: the entry {member.name!r} points out of the archive or is not a plain "
            f"file ({type(error).__name__}); nothing was read from it, take another archive"
        ) from error
    if member.size > _LARGEST:
        raise DataError(f"{source}: the entry {member.name!r} has {member.size} bytes, too many")
