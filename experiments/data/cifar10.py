"""CIFAR-10 from what torchvision downloads, from a tree of image files, or from an archive."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import archive, cache
from experiments.data.batches import BatchError, read_batch
from experiments.data.datasets import DataError, ImageData, image_data

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
_FOLDER = "cifar-10-batches-py"
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
_WHAT_TO_DO = (
    "give --data-dir a folder with cifar-10-batches-py (as torchvision leaves it), a tree "
    "train/<class>/*.jpg and test/<class>/*.jpg, or an archive of one (.tar, .tar.gz, .tar.xz); "
    "or let torchvision fetch it with --download"
)


def load_cifar10(
    data_dir: Path | None = None, *, download: bool = False, cache_dir: Path | None = None
) -> ImageData:
    """Return CIFAR-10; see `experiments.data.load_dataset`."""
    cache_dir = cache_dir or cache.default_folder()
    if download:
        data_dir = _download(data_dir or cache_dir / "downloads")
    if data_dir is None:
        raise DataError(f"cifar10 does not come with this package: {_WHAT_TO_DO}")
    source = _source(data_dir.expanduser())
    kept = cache_dir.expanduser() / f"cifar10-{cache.source_key(source)}"
    data = cache.read(kept)
    if data is None:
        data = _decode(source)
        cache.write(kept, data)
    return data


def _source(path: Path) -> Path:
    """The folder or archive that ``--data-dir`` means."""
    if not path.exists():
        raise DataError(f"--data-dir {path} does not exist: {_WHAT_TO_DO}")
    if path.is_file():
        if not archive.is_archive(path):
            kinds = ", ".join(archive.SUFFIXES)
            raise DataError(f"--data-dir {path} is a file, but no archive by its name ({kinds})")
        return path
    if (path / _FOLDER).is_dir():
        return path / _FOLDER
    if (path / _BATCHES[0]).is_file() or (path / "train").is_dir():
        return path
    found = archive.archives_in(path)
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise DataError(f"--data-dir {path} holds {len(found)} archives ({names}): name one")
    if not found:
        raise DataError(f"there is no CIFAR-10 in --data-dir {path}: {_WHAT_TO_DO}")
    return found[0]


def _download(folder: Path) -> Path:
    """Let torchvision fetch CIFAR-10 into ``folder``; nothing is fetched twice."""
    from torchvision.datasets import CIFAR10

    try:
        CIFAR10(root=str(folder), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"torchvision could not fetch CIFAR-10 into {folder} ({error})") from error
    return folder


def _decode(source: Path) -> ImageData:
    """Read the whole source once and tell by the names what it is."""
    batches: dict[str, dict] = {}
    images: dict[str, list[tuple[str, str, np.ndarray]]] = {"train": [], "test": []}
    label = "CIFAR-10"
    for path, content in archive.files(source):
        if path.name in (*_BATCHES, "test_batch"):
            batches[path.name] = _batch(content, f"{source}: {path}")
        elif path.suffix.lower() in IMAGES and len(path.parts) > 2 and path.parts[-3] in images:
            array, encoding = read_image(content, f"{source}: {path}")
            images[path.parts[-3]].append((path.parts[-2], path.name, array))
            label = f"CIFAR-10, {encoding}" if encoding else label
    if batches:
        return _from_batches(batches, source)
    return _from_images(images, label, source)


def _from_batches(batches: dict[str, dict], source: Path) -> ImageData:
    missing = sorted({*_BATCHES, "test_batch"} - batches.keys())
    if missing:
        raise DataError(f"{source} lacks {', '.join(missing)}: fetch it again")

    def part(names: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        data = np.concatenate([batches[name]["data"] for name in names])
        labels = np.concatenate([batches[name]["labels"] for name in names])
        return data.reshape(-1, 3, 32, 32), labels

    return image_data("cifar10", "CIFAR-10", CLASSES, part(_BATCHES), part(["test_batch"]))


def _from_images(
    images: dict[str, list[tuple[str, str, np.ndarray]]], label: str, source: Path
) -> ImageData:
    for split, found in images.items():
        if not found:
            raise DataError(f"{source} holds no image {split}/<class>/<name>.jpg: {_WHAT_TO_DO}")
        names = {kind for kind, _, _ in found}
        if names != set(CLASSES):
            raise DataError(
                f"{source}: the class folders of {split} are {', '.join(sorted(names))}; "
                f"CIFAR-10's are {', '.join(CLASSES)}"
            )

    def part(split: str) -> tuple[np.ndarray, np.ndarray]:
        # Sorted, so that the order in the archive does not matter.
        found = sorted(images[split], key=lambda item: item[:2])
        labels = np.array([CLASSES.index(kind) for kind, _, _ in found], dtype=np.int64)
        return np.stack([array for _, _, array in found]), labels

    return image_data("cifar10", label, CLASSES, part("train"), part("test"))


def read_image(
    content: bytes, where: str, side: int | None = None
) -> tuple[np.ndarray, str | None]:
    """The image as (3, 32, 32) uint8, and how it was re-encoded if it was.

    Of another size it is refused; with ``side`` it is cut to a square and resized to that.

    Eight bits a channel and no transparency: of more bits, and of what shows through, nobody could
    say which colours were meant. Pillow is asked for the formats of `_FORMATS` alone: one of the
    others starts an interpreter of PostScript.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are refused below, and odd entries
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                if side is None and image.size != (32, 32):
                    size = f"{image.size[0]}x{image.size[1]}"
                    raise DataError(f"{where} is {size}; CIFAR-10 is 32x32")
                encoding = _jpeg(image) if image.format == "JPEG" else None
                pixels = _colours(image, where)
                if side is not None:
                    square, way = (side, side), Image.Resampling.BILINEAR
                    pixels = np.asarray(ImageOps.fit(Image.fromarray(pixels), square, way))
                return pixels.transpose(2, 0, 1), encoding
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kinds = ", ".join(_FORMATS)
        raise DataError(f"{where} cannot be read as an image, {kinds} ({error!s:.200})") from error


def _colours(image: Any, where: str) -> np.ndarray:
    """The pixels as (h, w, 3) uint8.

    Raises
    ------
    DataError
        For several frames, more bits than eight a channel, other colours than RGB or grey, and
        transparency anywhere in the image.
    """
    frames, deep = getattr(image, "n_frames", 1), any(";16" in str(tile[3]) for tile in image.tile)
    if frames > 1 or deep or image.mode not in _MODES:
        found = f"{frames} frames" if frames > 1 else "16 bits a channel" if deep else image.mode
        raise DataError(f"{where} has {found}; one image of RGB or grey with 8 bits is needed")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getextrema()[3] != (255, 255):
            raise DataError(f"{where} is transparent in places: save it without transparency")
    return np.asarray(image.convert("RGB"))


def _jpeg(image: Any) -> str:
    """ "JPEG-75" where the tables are those of quality 75, else "JPEG"."""
    quality = _qualities().get(_tables(image))
    return f"JPEG-{quality}" if quality else "JPEG"


def _tables(image: Any) -> tuple:
    return tuple(tuple(image.quantization[key]) for key in sorted(image.quantization))


@lru_cache
def _qualities() -> dict[tuple, int]:
    """The standard quantization tables of every quality, from Pillow's own encoder."""
    from PIL import Image

    qualities = {}
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as image:
            qualities[_tables(image)] = quality
    return qualities


def _batch(content: bytes, where: str) -> dict[str, np.ndarray]:
    """Images and labels of one of the published batches."""
    try:
        data, labels = read_batch(content)
    except BatchError as error:
        raise DataError(f"{where} is not a batch of CIFAR-10: {error}") from error
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise DataError(f"{where} is not a batch of CIFAR-10: its labels are not 0 to 9")
    return {"data": data, "labels": labels}
