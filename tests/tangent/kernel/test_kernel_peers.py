"""The same weights in neural-tangents."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tangent.kernel.matrix import tangent_kernel
from tangent.nets import vgg11

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("trace", [False, True])
def test_neural_tangents_gives_the_same(generator, trace):
    pytest.importorskip("neural_tangents")
    from benchmarks.kernel_peers import neural_tangents

    model = vgg11(width=0.1, generator=generator)
    x = torch.randn(4, 3, 32, 32, generator=generator)
    ours = tangent_kernel(model, x, outputs="trace" if trace else "full").numpy()
    theirs = neural_tangents(model, x, trace)()
    assert np.abs(ours - theirs).max() / np.abs(ours).max() < 1e-5


@pytest.mark.parametrize("trace", [False, True])
def test_nngeometry_gives_the_same_where_nothing_is_grouped(generator, trace):
    pytest.importorskip("nngeometry")
    from benchmarks.kernel_peers import nngeometry

    model = vgg11(width=0.1, generator=generator)
    x = torch.randn(3, 3, 32, 32, generator=generator)
    ours = tangent_kernel(model, x, outputs="trace" if trace else "full").numpy()
    theirs = nngeometry(model, x, trace)()
    assert np.abs(ours - theirs).max() / np.abs(ours).max() < 1e-4
