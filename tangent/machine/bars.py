"""Bars on long loops, for whoever asks to see them.

Estimators and solvers count their blocks and rounds here and show nothing, until a caller says
``with bars():``. The answer of a loop does not depend on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

_SHOWN = ContextVar("shown", default=False)


@contextmanager
def bars(shown: bool = True) -> Iterator[None]:
    """Show a bar with the time left, on standard error, on every counted loop within.

    Parameters
    ----------
    shown : bool, default=True
        ``False`` hides the bars of an outer ``bars()``.

    Notes
    -----
    For the thread that calls it: loops of other threads stay as they are.

    Examples
    --------
    >>> from baselines import random_patch_classifier
    >>> from tangent.machine.bars import bars
    >>> model = random_patch_classifier(image_shape=(1, 8, 8))
    >>> with bars():
    ...     _ = model.fit(X, y)  # doctest: +SKIP
    """
    before = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(before)


def counted(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Give the items of a loop, under a bar within `bars`.

    Parameters
    ----------
    items : sequence
    what : str
        What one of them is, in a word or two.
    """
    yield from tqdm(items, desc=what, disable=not _SHOWN.get(), leave=False)
