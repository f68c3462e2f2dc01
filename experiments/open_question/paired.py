"""Answers to the same test images beside each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from experiments.runs.results import read_arrays


def paired_difference(first: list[np.ndarray], second: list[np.ndarray]) -> tuple[float, float]:
    """Mean difference of two rows' accuracies and half of its 95% interval.

    Parameters
    ----------
    first, second : lists of bool arrays
        Whether each test image is right, an array a draw; draws may share test images.

    Notes
    -----
    The variance is that of the paired difference over test images, not divided by the draws,
    which share them, plus the draws' own over their number.
    """
    differences = [a.astype(float) - b for a, b in zip(first, second, strict=True)]
    means = [float(d.mean()) for d in differences]
    images = float(np.mean([d.var(ddof=1) / len(d) for d in differences]))
    draws = float(np.var(means, ddof=1)) / len(means) if len(means) > 1 else 0.0
    return float(np.mean(means)), 1.96 * (images + draws) ** 0.5


def points(mean: float, half: float) -> str:
    """A difference and half of its interval in points: "+1.5 ± 0.6"."""
    return f"{100 * mean:+.1f} ± {100 * half:.1f}"


def correct_answers(group: pd.DataFrame) -> list[dict[str, np.ndarray]]:
    """Arrays of a draw of images, all runs on it together; they share their test images."""
    found = []
    for _, runs in group.groupby("seed"):
        arrays: dict[str, np.ndarray] = {}
        for path in runs["path"]:
            arrays |= read_arrays(Path(path))
        found.append(arrays)
    return found
