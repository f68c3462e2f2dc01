"""Long fits of the classifiers say how far they are, to who asks."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

import baselines
from tangent.machine.bars import bars

SHAPE = (1, 8, 8)
LOOPS = {
    "random patches": (
        lambda: baselines.random_patch_classifier(4, image_shape=SHAPE, random_state=0),
        {"block of rows", "block of scores"},
    ),
    "scattering": (
        lambda: baselines.scattering_classifier(1, image_shape=SHAPE, random_state=0),
        {"batch of images", "rows of the kernel", "block of scores"},
    ),
    "landmarks": (
        lambda: baselines.GaussianKernelHead(n_landmarks=10, random_state=0),
        {"block of rows"},
    ),
    "roto-translation": (
        lambda: baselines.roto_translation_classifier(
            2, image_shape=SHAPE, J=1, max_rows=30, random_state=0
        ),
        {"feature", "block of images", "block of scores"},
    ),
    "infinite width": (
        lambda: baselines.InfiniteWidthHead("convolutional", depth=1, image_shape=SHAPE, side=4),
        {"rows of the kernel"},
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_fit_shows_its_loops(name, monkeypatch):
    make, loops = LOOPS[name]
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 64), dtype=np.float32), np.arange(40) % 3
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    quiet = make().fit(X, y).predict(X)
    assert sys.stderr.getvalue() == ""
    with bars():
        shown = make().fit(X, y).predict(X)
    assert {loop for loop in loops if f"{loop}:" not in sys.stderr.getvalue()} == set()
    assert (quiet == shown).all()
