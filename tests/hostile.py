"""Hostile data for estimators and functions, and what each of them owes its caller."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from sklearn.base import clone

__all__ = [
    "CONTENTS",
    "DTYPES",
    "LABELS",
    "SHAPES",
    "arrays",
    "check_fit",
    "kept",
    "labels",
    "made",
]

WIDTH = 64  # columns that the estimators on images of 8x8 take

DTYPES = [
    "float64", "float32", "float16", "int64", "int8", "uint8", "bool", "complex64", "object",
    "str", "datetime64[s]",
]  # fmt: skip
CONTENTS = [
    "plain", "zeros", "constant", "one row", "huge", "1e38", "tiny", "denormal", "huge and tiny",
    "nan", "inf", "negative", "one bright entry",
]  # fmt: skip
SHAPES = ["rows", "one row", "two rows", "no rows", "no columns", "few columns", "vector", "cube"]
LABELS = ["three", "one class", "all different", "words", "nan", "short", "table", "bool", "none"]


def made(content: str, shape: str, dtype: str, rng: np.random.Generator) -> Any:
    """Rows of this content, shape and dtype."""
    n = {"one row": 1, "two rows": 2, "no rows": 0}.get(shape, 12)
    columns = {"no columns": 0, "few columns": 3}.get(shape, WIDTH)
    X = rng.random((n, columns))
    if content == "zeros":
        X[:] = 0
    elif content == "constant":
        X[:] = 0.1
    elif content == "one row" and n:
        X[:] = X[0]
    elif content in ("huge", "1e38", "tiny", "denormal"):
        X *= {"huge": 1e300, "1e38": 3e38, "tiny": 1e-300, "denormal": 1e-310}[content]
    elif content == "huge and tiny":
        X[::2] *= 1e150
        X[1::2] *= 1e-150
    elif content in ("nan", "inf") and X.size:
        X.flat[X.size // 2] = float(content)
    elif content == "negative":
        X = -1e6 * X
    elif content == "one bright entry" and X.size:
        X[:] = 0
        X.flat[0] = 1e10
    if shape == "vector":
        X = X[:, 0]
    elif shape == "cube":
        X = X[:, :, None]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dtype in ("int64", "int8", "uint8", "bool", "datetime64[s]"):
            return (np.nan_to_num(X, posinf=0) * 100).astype("int64").astype(dtype)
        return X.astype(dtype)


def labels(kind: str, X: Any, rng: np.random.Generator) -> Any:
    """Labels of this kind for the rows of ``X``."""
    n = len(X)
    y: Any = rng.permutation(np.arange(n) % 3)
    if kind == "one class":
        y = np.zeros(n, int)
    elif kind == "all different":
        y = np.arange(n)
    elif kind == "words":
        y = np.array(["a", "b", "c"])[y]
    elif kind == "nan":
        y = np.where(y == 0, np.nan, y)
    elif kind == "short":
        y = y[1:]
    elif kind == "table":
        y = np.eye(3)[y]
    elif kind == "bool":
        y = y > 0
    elif kind == "none":
        y = None
    return y


arrays = st.fixed_dictionaries(
    {
        "content": st.sampled_from(CONTENTS),
        "shape": st.sampled_from(SHAPES[:1] * 6 + SHAPES),
        "dtype": st.sampled_from(DTYPES[:2] * 6 + DTYPES),
    }
)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Assert that no state of torch or NumPy is another one afterwards."""
    before = _state()
    yield
    for name, (one, two) in {k: (v, _state()[k]) for k, v in before.items()}.items():
        assert one == two, f"{name} was changed"


def _state() -> dict[str, Any]:
    numpy = np.random.get_state()  # noqa: NPY002
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "NumPy's random state": (numpy[1].tobytes(), *numpy[2:]),  # type: ignore[union-attr]
        "NumPy's errors": np.geterr(),
        "torch's dtype": torch.get_default_dtype(),
        "torch's threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "denormal numbers": float(torch.tensor(1e-310, dtype=torch.float64) * 1.0),
    }


def check_fit(estimator: Any, X: Any, y: Any, fitted: Any = None) -> str:
    """Fit a clone and ask it; "refused" in words, or "answered" with finite numbers.

    Whatever happens, the data and all global state are as they were. A ``fitted`` estimator is
    asked only.
    """
    before = X.copy()
    with kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of ill-conditioned or unconverged fits
        # NumPy's, where scikit-learn converts objects to float32 before it refuses them.
        warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)
        try:
            answers = _answers(fitted or clone(estimator).fit(X, y), X)
        except (ValueError, TypeError) as error:
            answers, words = None, str(error)
    _check_unchanged(X, before)
    if answers is None:
        assert len(words) > 10, f"no words: {words!r}"
        return "refused"
    for method, answer in answers.items():
        assert len(answer) == len(X), f"{method}: {answer.shape}"
        if answer.dtype.kind == "f":
            assert np.isfinite(answer).all(), f"{method} is not finite"
    return "answered"


def _check_unchanged(X: Any, before: Any) -> None:
    if X.dtype == object:  # whose NaN equals nothing, itself included
        assert all(now is then for now, then in zip(X.flat, before.flat, strict=True))
    else:
        np.testing.assert_array_equal(X, before)


def _answers(estimator: Any, X: Any) -> dict[str, np.ndarray]:
    methods = ("predict", "decision_function", "predict_proba", "transform")
    return {m: np.asarray(getattr(estimator, m)(X)) for m in methods if hasattr(estimator, m)}
