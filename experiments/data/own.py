"""Data sets of the user's own: a tree of image files with a folder a class, or an ``.npz``.

``folder:PATH`` or ``folder:PATH@SIDE``
    ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``, or ``<class>/*.jpg`` alone, of which a fifth
    of every class is kept for testing; a folder or an archive of one. Images of any size are
    resized to SIDE x SIDE (32 when left out; bilinear, the short way of an image decides and what
    hangs over is cut on both sides).
``npz:PATH``
    Arrays ``x_train``, ``y_train``, ``x_test``, ``y_test``, or ``X`` and ``y``, of which a fifth is
    kept for testing. Images are uint8 of shape (n, h, w), (n, h, w, c) or (n, c, h, w) with one or
    three channels; labels are integers or words.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.data import archive
from experiments.data.datasets import DataError, ImageData, image_data
from experiments.data.scikit import for_testing

_SIDE = 32

_Rows = tuple[np.ndarray, list[str]]


def load_own(name: str) -> ImageData:
    """Return the data set that ``folder:PATH`` or ``npz:PATH`` names.

    Raises
    ------
    DataError
        When it is missing or cannot be read as one; the message says where.
    """
    kind, _, where = name.partition(":")
    place, _, side = where.partition("@") if kind == "folder" else (where, "", "")
    path = Path(place).expanduser()
    if not path.exists():
        raise DataError(f"--dataset {name}: {path} does not exist")
    if kind == "folder":
        if side and not (side.isdigit() and int(side) > 0):
            raise DataError(f"--dataset {name}: the side behind @ must be a number; got {side!r}")
        train, test = _from_folder(path, int(side or _SIDE))
    else:
        train, test = _from_npz(path)
    if test is None:
        train, test = _split(train)
    classes = sorted({*train[1], *test[1]}, key=_order)
    if len(classes) < 2:
        raise DataError(f"--dataset {name}: there must be two classes at least; got {classes}")
    label = f"{path.name.partition('.')[0]}, {'x'.join(map(str, train[0].shape[2:]))}"
    return image_data(
        name, label, tuple(classes), _numbered(train, classes), _numbered(test, classes)
    )


def _order(word: str) -> tuple[int, str]:
    return (int(word), "") if word.isdigit() else (-1, word)


def _numbered(rows: _Rows, classes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    number = {word: i for i, word in enumerate(classes)}
    return rows[0], np.array([number[word] for word in rows[1]], dtype=np.int64)


def _split(rows: _Rows) -> tuple[_Rows, _Rows]:
    """Every class's last fifth for testing, in an order drawn with a fixed seed."""
    images, labels = rows
    test, order = for_testing(np.array(labels))
    train, held = order[~test[order]], order[test[order]]
    return tuple((images[i], [labels[j] for j in i]) for i in (train, held))  # type: ignore[return-value]


def _from_folder(path: Path, side: int) -> tuple[_Rows, _Rows | None]:
    parts: dict[str, list[tuple[str, str, np.ndarray]]] = {"train": [], "test": [], "": []}
    for inside, image in _images(path, side):
        split = inside.parts[-3] if len(inside.parts) > 2 else ""
        kept = parts[split if split in parts else ""]
        kept.append((inside.parts[-2], inside.name, image))
    if parts["train"] and parts["test"]:
        return _rows(parts["train"]), _rows(parts["test"])
    if parts["train"] or parts["test"]:
        missing = "test" if parts["train"] else "train"
        raise DataError(f"{path} holds no image {missing}/<class>/<name>.jpg")
    if not parts[""]:
        raise DataError(f"{path} holds no image <class>/<name>.jpg (or .png, .bmp, .webp)")
    return _rows(parts[""]), None


def _images(path: Path, side: int) -> Iterator[tuple[Path, np.ndarray]]:
    from experiments.data.cifar10 import IMAGES, read_image

    for inside, content in archive.files(path):
        if inside.suffix.lower() in IMAGES and len(inside.parts) > 1:
            yield inside, read_image(content, f"{path}: {inside}", side)[0]


def _rows(found: list[tuple[str, str, np.ndarray]]) -> _Rows:
    found = sorted(found, key=lambda item: item[:2])  # the order in an archive does not matter
    return np.stack([image for *_, image in found]), [kind for kind, *_ in found]


def _from_npz(path: Path) -> tuple[_Rows, _Rows | None]:
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(part.file_size for part in packed.infolist())
        if size > archive.LARGEST_IN_ALL:
            raise DataError(f"{path} holds {size} bytes, too many")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except DataError:
        raise
    except Exception as error:  # damage takes any form: headers are read as Python, for one
        raise DataError(f"{path} cannot be read as an .npz of arrays ({error!s:.200})") from error
    if {"x_train", "y_train", "x_test", "y_test"} <= found.keys():
        return tuple(_checked(path, found[f"x_{s}"], found[f"y_{s}"]) for s in ("train", "test"))  # type: ignore[return-value]
    if {"X", "y"} <= found.keys():
        return _checked(path, found["X"], found["y"]), None
    raise DataError(
        f"{path} must hold x_train, y_train, x_test and y_test, or X and y; it holds "
        f"{', '.join(sorted(found)) or 'nothing'}"
    )


def _checked(path: Path, images: np.ndarray, labels: np.ndarray) -> _Rows:
    """Images as (n, c, h, w), labels as words."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"{path}: images must be uint8 of shape (n, h, w), (n, h, w, c) or (n, c, h, w) with "
            f"one or three channels; got {images.dtype} of shape {images.shape}; for "
            "values from 0 to 1 take (255 * images).round().astype(np.uint8)"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iuUS" or not len(labels):
        raise DataError(
            f"{path}: labels must be integers or words, one for each of the {len(images)} images; "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    return np.ascontiguousarray(images), [str(word) for word in labels.tolist()]
