"""The figure of a report says what the report says."""

from __future__ import annotations

import torch

from experiments.diagnostics_figure import diagnostics_figure, save_diagnostics
from tangent.diagnostics import report
from tangent.nets import mlp


def test_the_figure_has_the_spectrum_the_law_and_the_movements(generator, tmp_path):
    x = torch.randn(5, 3, generator=generator)
    net = mlp(3, 1, hidden=(6,), generator=generator)
    found = report(net, x, x[:, 0], steps=3, generator=generator)
    spectrum, law, moved = diagnostics_figure(found).axes
    assert len(spectrum.lines[0].get_xdata()) == 5
    assert f"{found.lazy_alpha:.3g}" in law.get_title()
    assert len(moved.containers) == len(found.movements)
    assert {path.suffix for path in save_diagnostics(found, tmp_path)} == {".png"}
