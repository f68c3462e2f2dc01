"""Classification sets of scikit-learn, by the names that scikit-learn gives them.

What comes with scikit-learn needs nothing else; what it fetches is read from its data folder, and
fetched into it where downloads are allowed. Sets of images are images; a table's columns are the
channels of images of one pixel, so that networks and baselines normalize them one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from experiments.data.datasets import ImageData

_SHIPPED = ("iris", "wine", "breast_cancer")
_FETCHED = ("olivetti_faces", "lfw_people", "covtype")
SETS = (*_SHIPPED, *_FETCHED)
_TEST_SHARE = 5  # one in so many of every class is kept for testing


def load_scikit(name: str, *, download: bool = False) -> ImageData:
    """Return a classification set of scikit-learn; a fifth of every class is for testing.

    The split into training and test part is always the same; `ImageData.subset` draws by a seed.

    Parameters
    ----------
    name : str
        One of `SETS`.
    download : bool
        Let scikit-learn fetch what is not on this machine.

    Raises
    ------
    DataError
        When the set is not on this machine.
    """
    from experiments.data.datasets import image_data

    bunch = _bunch(name, download)
    X = _images(bunch.images) if "images" in bunch else _columns(bunch.data)
    kinds, labels = np.unique(bunch.target, return_inverse=True)
    words = bunch.get("target_names")
    names = tuple(map(str, kinds if words is None or len(words) != len(kinds) else words))
    test, _ = for_testing(labels)
    parts = [(X[which], labels[which].astype(np.int64)) for which in (~test, test)]
    return image_data(name, name.replace("_", " "), names, *parts)


def for_testing(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row is one of its class's fifth for testing, and an order that was drawn.

    Both with a fixed seed; of every class one at least.
    """
    test = np.zeros(len(labels), dtype=bool)
    order = np.random.default_rng(0).permutation(len(labels))
    for kind in np.unique(labels):
        members = order[labels[order] == kind]
        test[members[: max(1, len(members) // _TEST_SHARE)]] = True
    return test, order


def _bunch(name: str, download: bool) -> Any:
    from sklearn import datasets

    from experiments.data.datasets import DataError

    if name in _SHIPPED:
        return getattr(datasets, f"load_{name}")()
    try:
        return getattr(datasets, f"fetch_{name}")(download_if_missing=download)
    except OSError as error:
        folder = datasets.get_data_home()
        raise DataError(
            f"--dataset {name}: scikit-learn has not got it in {folder} ({error}); allow it with "
            f"--download, or call sklearn.datasets.fetch_{name}() once"
        ) from error


def _columns(X: np.ndarray) -> np.ndarray:
    """Rows (n, d) as images of one pixel with d channels."""
    return np.asarray(X, dtype=np.float32)[:, :, None, None]


def _images(images: np.ndarray) -> np.ndarray:
    """Images (n, h, w) or (n, h, w, c) as uint8 squares (n, c, side, side), cut on both sides."""
    if images.ndim == 3:
        images = images[..., None]
    images = images * (255 if images.max() <= 1 else 1)
    side = min(images.shape[1:3])
    top, left = ((length - side) // 2 for length in images.shape[1:3])
    cut = images[:, top : top + side, left : left + side]
    return np.ascontiguousarray(np.round(cut).astype(np.uint8).transpose(0, 3, 1, 2))
