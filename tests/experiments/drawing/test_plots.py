"""Figures are saved in three formats, without dates."""

from __future__ import annotations

import pytest
from matplotlib import rcParams

from experiments.drawing import plots
from experiments.files import OutputError


def picture():
    fig, ax = plots.figure()
    ax.plot([1, 2], [3, 4], marker="o", label="a")
    ax.fill_between([1, 2], [2, 3], [4, 5], alpha=0.2)
    ax.legend()
    return fig


def test_the_same_data_gives_the_same_bytes_in_three_formats(tmp_path, every_format):
    with plots.style():
        first = plots.save_figure(picture(), tmp_path, "one")
        second = plots.save_figure(picture(), tmp_path, "two")
    assert [path.name for path in first] == ["one.pdf", "one.svg", "one.png"]
    starts = (b"%PDF", b"<?xml", b"\x89PNG")
    for one, two, start in zip(first, second, starts, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert one.read_bytes().startswith(start)
        assert b"Date" not in one.read_bytes()


def test_the_style_ends_with_its_block():
    before = rcParams["axes.spines.top"]
    with plots.style():
        assert not rcParams["axes.spines.top"]
    assert rcParams["axes.spines.top"] == before


def test_a_method_has_one_colour_whatever_its_alpha():
    assert plots.colour("vgg11-lazy") == plots.colour("vgg11-linear") == plots.colour("vgg11")
    methods = ["vgg11", "resnet18", "random-features", "scattering", "gaussian", "tangent-kernel"]
    assert len({plots.colour(method) for method in methods}) == len(methods)
    assert plots.colour("something else") not in {plots.colour(method) for method in methods}


def test_a_figure_that_cannot_be_saved_is_a_clear_error(tmp_path):
    (tmp_path / "folder").write_text("a file in the folder's place, which stops root too")
    with plots.style(), pytest.raises(OutputError, match="cannot write"):
        plots.save_figure(picture(), tmp_path / "folder", "one")
