"""Matrices of the short convolutions of Winograd, Toom and Cook, for windows of three.

The points 0, 1, -1, 1/2, -2 and infinity round less than the usual +-2.

Source: Winograd 1980; Lavin and Gray 2016, "Fast algorithms for convolutional neural networks";
Barabasz et al. 2018, "Improving accuracy of Winograd convolution for DNNs" (the points).
"""

from __future__ import annotations

import functools

import numpy as np

__all__ = ["POINTS", "transforms"]

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # and infinity


@functools.cache
def transforms(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """G, B^T and A^T of F(m, 3): ``A^T ((G g) * (B^T d))`` correlates d with the window g.

    Of shapes (6, 3), (6, 6) and (m, 6), float64; for m = 4 with the points above.
    """

    def values(count: int) -> np.ndarray:
        last = np.eye(count)[-1:]
        return np.vstack([np.vander(POINTS, count, increasing=True), last])

    others = [[q for q in POINTS if q != p] for p in POINTS]
    scale = [1 / np.prod([p - q for q in rest]) for p, rest in zip(POINTS, others, strict=True)]
    window = np.array([*scale, 1.0])[:, None] * values(3)
    tile = [np.append(np.poly(rest)[::-1], 0.0) for rest in others]
    return window, np.array([*tile, np.poly(POINTS)[::-1]]), values(m).T
