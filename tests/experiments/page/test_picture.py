"""Figures as inline SVG."""

from __future__ import annotations

import re

import pytest

from experiments.drawing import plots
from experiments.drawing.collected import collected
from experiments.page.picture import dark_colours, picture


@pytest.fixture
def svg(tmp_path) -> str:
    with plots.style(), collected() as into:
        fig, ax = plots.figure()
        ax.plot([0, 1], [0, 2], "o-", label="a < b")
        ax.set(xlabel=r"$\alpha$", ylabel="loss")
        ax.legend()
        assert plots.save_figure(fig, tmp_path, "line") == []
    assert not list(tmp_path.iterdir())
    return into.pictures["line"]


def test_two_pictures_share_no_id_and_each_refers_to_its_own(svg):
    one, other = (picture(svg, key=key, title="a line").svg for key in ("one", "other"))
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', one))
    assert {a or b for a, b in used} <= ids[0]


def test_a_picture_has_its_name_its_size_and_no_fixed_font(svg):
    made = picture(svg, key="k", title="losses <1>")
    assert 'aria-label="losses &lt;1&gt;"' in made.svg
    assert made.width == 480  # 5 inches of 96 pixels
    assert "font-family" not in made.svg
    assert "<metadata" not in made.svg
    assert "a &lt; b" in made.svg


def test_every_colour_can_be_replaced(svg):
    made = picture(svg, key="k", title="t")
    assert "3f90da" in made.colours
    assert not re.search(r"(?<!,)#[0-9a-f]{6}", made.svg)
    assert "var(--c3f90da,#3f90da)" in made.svg


def test_on_dark_paper_greys_turn_round_and_colours_become_readable():
    dark = dark_colours(["ffffff", "000000", "832db6", "ffa90e"], "17191e")
    assert dark["ffffff"] == "17191e"
    assert dark["000000"] == "ececf0"
    assert dark["ffa90e"] == "ffa90e"  # light enough as it is
    assert int(dark["832db6"][2:4], 16) > 0x2D
