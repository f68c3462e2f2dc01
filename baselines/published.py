"""Accuracies printed in the literature: data with sources, never mixed with measurements."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

METRICS = ("train_accuracy", "test_accuracy")
STATUSES = ("printed", "recalled")


@dataclass(frozen=True)
class Published:
    """One published number on CIFAR-10 (the lossless images)."""

    figure: str
    """Where it belongs in the paper: "3(b)", "text", or "baselines" for other literature."""
    key: str
    """Name of the row in a table, e.g. "vgg11-linearized"."""
    method: str
    """The method in words."""
    metric: str
    """"train_accuracy" or "test_accuracy"."""
    value: float
    """Accuracy in [0, 1]."""
    status: str
    """"printed": checked against a text; "recalled": from memory, not checked against print."""
    source: str
    """Authors and year, and the figure or table where there is one."""
    note: str = ""
    """What a comparison has to bear in mind."""


def load(figure: str | None = None) -> tuple[Published, ...]:
    """Every published number, or those of one figure.

    Parameters
    ----------
    figure : str, optional
        "3(b)", "text" or "baselines".

    Returns
    -------
    numbers : tuple of Published
        In the order of the data file.

    Raises
    ------
    ValueError
        If no number belongs to ``figure``.
    """
    text = resources.files("baselines").joinpath("published.json").read_text(encoding="utf-8")
    numbers = tuple(Published(**row) for row in json.loads(text))
    if figure is None:
        return numbers
    chosen = tuple(number for number in numbers if number.figure == figure)
    if not chosen:
        figures = sorted({number.figure for number in numbers})
        raise ValueError(f"figure must be one of {figures}; got {figure!r}")
    return chosen
