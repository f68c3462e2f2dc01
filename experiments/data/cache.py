"""Decoded data sets on disk, checked by their fingerprint when read.

Kept as ``.npy`` files in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``), outside
any repository. A folder is written under another name and renamed, so one that exists is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.datasets import ImageData, fingerprint
from experiments.files import part_name, sweep

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_FORMAT = 2  # raise when the decoding of images changes


def default_folder() -> Path:
    """The user's cache folder for this project."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tangent-lazy"


def source_key(source: Path) -> str:
    """A key that changes with the source: an archive's content, or a folder's listing.

    A folder's files are known by name, size and time of change; 60,000 are listed in a second.
    """
    digest = hashlib.sha256(str(_FORMAT).encode())
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if not path.exists():  # a link that leads nowhere is no image either
                continue
            about = path.stat()
            digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    else:
        with source.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:20]


def read(folder: Path) -> ImageData | None:
    """Return the data set kept in ``folder``, or None where there is none or it is damaged.

    Damage is said in a warning; the caller decodes the source again.
    """
    if not folder.exists():
        return None
    try:
        about = json.loads((folder / "about.json").read_text())
        arrays = [np.load(folder / f"{name}.npy", allow_pickle=False) for name in _ARRAYS]
        names = tuple(about["class_names"])
        whole = about.pop("sha256") == _digest(about)
        whole = whole and fingerprint(names, *arrays) == about["fingerprint"]
        data = ImageData(about["name"], about["label"], about["fingerprint"], names, *arrays)
    except Exception:  # damage takes any form: headers of .npy files are read as Python, for one
        whole = False
    if not whole:
        warnings.warn(f"the cache {folder} is damaged and is made again", stacklevel=2)
        return None
    return data


def write(folder: Path, data: ImageData) -> None:
    """Keep ``data`` in ``folder``; a cache that cannot be written is a warning."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent)
        before, after = part_name(folder.name).split(folder.name)
        beside = Path(tempfile.mkdtemp(after, before + folder.name, folder.parent))
    except OSError as error:
        _not_kept(folder, error)
        return
    try:
        for name in _ARRAYS:
            np.save(beside / f"{name}.npy", getattr(data, name), allow_pickle=False)
        about = {k: getattr(data, k) for k in ("name", "label", "fingerprint", "class_names")}
        (beside / "about.json").write_text(json.dumps({**about, "sha256": _digest(about)}))
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        beside.rename(folder)
    except OSError as error:
        if not folder.exists():  # else another process was first
            _not_kept(folder, error)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _not_kept(folder: Path, error: OSError) -> None:
    warnings.warn(
        f"decoded images are not kept: cannot write {folder} ({error.strerror}); "
        "give another folder with --cache-dir",
        stacklevel=3,
    )
