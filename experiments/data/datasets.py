"""Data sets as arrays, with a fingerprint.

Digits come with scikit-learn and need nothing else. CIFAR-10 is read from what torchvision
downloads, from a tree of image files, or from an archive of either (`experiments.data.cifar10`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from experiments.data.scikit import SETS, load_scikit
from experiments.usage import UsageError, one_of

DATASETS = ("digits", "cifar10")

_OWN = ("folder:", "npz:")
_DIGITS_TEST = 500  # of 1,797 images
_DIGITS_SIDE = 32  # the smallest side that VGG-11 and ResNet-18 take


class DataError(UsageError):
    """Data that is missing or cannot be read; the message says where and what to do."""


@dataclass(frozen=True)
class ImageData:
    """Images and labels in a training and a test part.

    Parameters
    ----------
    name : str
        As asked for: "digits", "cifar10", "folder:PATH".
    label : str
        As tables and figures call it: "CIFAR-10, JPEG-75" where images were re-encoded.
    fingerprint : str
        SHA-256 of all images, labels and class names of the whole data set; a subset keeps it.
    class_names : tuple of str
        Label 0 first.
    train_images, test_images : uint8 array of shape (n, c, h, w)
        float32 of shape (n, columns, 1, 1) for the rows of a table.
    train_labels, test_labels : int64 array of shape (n,)
    """

    name: str
    label: str
    fingerprint: str
    class_names: tuple[str, ...]
    train_images: UInt8[np.ndarray, "n c h w"] | Float32[np.ndarray, "n c h w"]
    train_labels: Int64[np.ndarray, " n"]
    test_images: UInt8[np.ndarray, "m c h w"] | Float32[np.ndarray, "m c h w"]
    test_labels: Int64[np.ndarray, " m"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        c, h, w = self.train_images.shape[1:]
        return c, h, w

    def subset(
        self, n_train: int | None = None, n_test: int | None = None, seed: int = 0
    ) -> ImageData:
        """Return a shuffled draw with every class in its share, the same for the same seed.

        Parameters
        ----------
        n_train, n_test : int, optional
            Number of images; all of them (shuffled) when left out.
        seed : int
            Training and test images are drawn independently of one another.

        Raises
        ------
        ValueError
            When a number is not between 1 and the images there are.
        """
        train = _draw("n_train", self.train_labels, n_train, np.random.default_rng([seed, 0]))
        test = _draw("n_test", self.test_labels, n_test, np.random.default_rng([seed, 1]))
        return replace(
            self,
            train_images=self.train_images[train],
            train_labels=self.train_labels[train],
            test_images=self.test_images[test],
            test_labels=self.test_labels[test],
        )

    def arrays(
        self,
    ) -> tuple[
        Float32[np.ndarray, "n d"],
        Int64[np.ndarray, " n"],
        Float32[np.ndarray, "m d"],
        Int64[np.ndarray, " m"],
    ]:
        """Return X_train, y_train, X_test, y_test: flattened images in [0, 1] and their labels.

        A table's numbers are as they are.
        """
        return (
            _flat(self.train_images),
            self.train_labels,
            _flat(self.test_images),
            self.test_labels,
        )


def _flat(
    images: UInt8[np.ndarray, "n c h w"] | Float32[np.ndarray, "n c h w"],
) -> Float32[np.ndarray, "n d"]:
    if images.dtype == np.float32:
        return images.reshape(len(images), -1)
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def _draw(
    name: str, labels: Int64[np.ndarray, " n"], count: int | None, rng: np.random.Generator
) -> Int64[np.ndarray, " k"]:
    """Shuffled indices of ``count`` items, the classes in the proportions they have in all."""
    if count is None:
        return rng.permutation(len(labels))
    if not 1 <= count <= len(labels):
        raise ValueError(f"{name} must lie between 1 and {len(labels)}, all there are; got {count}")
    classes, sizes = np.unique(labels, return_counts=True)
    exact = count * sizes / len(labels)
    shares = np.floor(exact).astype(int)
    # The largest remainders get the images that rounding left over.
    shares[np.argsort(shares - exact, kind="stable")[: count - shares.sum()]] += 1
    drawn = [
        rng.permutation(np.flatnonzero(labels == kind))[:share]
        for kind, share in zip(classes, shares, strict=True)
    ]
    return rng.permutation(np.concatenate(drawn))


def fingerprint(class_names: tuple[str, ...], *arrays: np.ndarray) -> str:
    """SHA-256 of class names and arrays, shapes and types included."""
    digest = hashlib.sha256(repr(class_names).encode())
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def image_data(
    name: str,
    label: str,
    class_names: tuple[str, ...],
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> ImageData:
    """Return the `ImageData` of pairs of images and labels, fingerprinted."""
    mark = fingerprint(class_names, *train, *test)
    return ImageData(name, label, mark, class_names, *train, *test)


def names_images(name: object) -> bool:
    """Whether ``name`` is that of a data set of images."""
    return isinstance(name, str) and (name in (*DATASETS, *SETS) or name.startswith(_OWN))


def check_dataset(name: str, known: tuple[str, ...] = DATASETS) -> None:
    """Raise `UsageError`, with the nearest name, unless it is a known one or of the user's own."""
    if not (known == DATASETS and name.startswith(_OWN)):
        one_of("dataset", name, (*known, *SETS) if known == DATASETS else known)


def load_dataset(
    name: str,
    *,
    data_dir: Path | str | None = None,
    download: bool = False,
    cache_dir: Path | str | None = None,
) -> ImageData:
    """Return a data set.

    Parameters
    ----------
    name : {"digits", "cifar10"}, one of `experiments.data.scikit.SETS`, ``folder:PATH`` or
        ``npz:PATH`` (`experiments.data.own`)
    data_dir : path, optional
        For CIFAR-10: the folder ``cifar-10-batches-py``, a class-folder tree
        (``train/<class>/*.jpg``, ``test/<class>/*.jpg``), an archive of either (``.tar``,
        ``.tar.gz``, ``.tar.xz``), or a folder that holds one of these.
    download : bool
        Let torchvision fetch CIFAR-10 into ``data_dir`` (the cache folder without one), and
        scikit-learn its sets into its own folder.
    cache_dir : path, optional
        Where images decoded from files are kept as arrays; the user's cache folder by default.

    Raises
    ------
    UsageError
        When there is no such data set (with the nearest name).
    DataError
        When the data is missing or cannot be read.
    """
    check_dataset(name)
    if name == "digits":
        return digits()
    if name in SETS:
        return load_scikit(name, download=download)
    if name.startswith(_OWN):
        from experiments.data.own import load_own

        return load_own(name)
    from experiments.data.cifar10 import load_cifar10

    return load_cifar10(
        None if data_dir is None else Path(data_dir),
        download=download,
        cache_dir=None if cache_dir is None else Path(cache_dir),
    )


def digits() -> ImageData:
    """Return scikit-learn's digits: 1,797 images of ten classes, one channel.

    Resized from 8x8 to 32x32 (bicubic). 500 of them, every class in its share, are for testing;
    the split is always the same.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    size = (_DIGITS_SIDE, _DIGITS_SIDE)
    resized = [Image.fromarray(g).resize(size, Image.Resampling.BICUBIC) for g in grey]
    images = np.stack([np.asarray(image) for image in resized])[:, None]
    labels = bunch.target.astype(np.int64)
    test = _draw("test", labels, _DIGITS_TEST, np.random.default_rng(0))
    train = np.random.default_rng(1).permutation(np.setdiff1d(np.arange(len(labels)), test))
    return image_data(
        "digits",
        "digits",
        tuple(map(str, range(10))),
        (images[train], labels[train]),
        (images[test], labels[test]),
    )
