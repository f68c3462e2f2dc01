"""Bars on long loops: shown within `bars`, and nowhere else."""

from __future__ import annotations

import pytest

from tangent.machine.bars import bars, counted


@pytest.fixture
def screen(capsys):
    return lambda: capsys.readouterr().err


def test_a_loop_within_says_how_far_it_is(screen):
    with bars():
        assert list(counted((3, 4), "alpha")) == [3, 4]
    shown = screen()
    assert "alpha:" in shown
    assert "/2" in shown


def test_a_loop_outside_is_quiet(screen):
    with bars():
        pass
    assert list(counted((3, 4), "alpha")) == [3, 4]
    assert screen() == ""


def test_bars_may_be_hidden_within(screen):
    with bars(), bars(shown=False):
        assert list(counted((3, 4), "alpha")) == [3, 4]
    assert screen() == ""


def test_an_error_within_ends_them(screen):
    with pytest.raises(ValueError, match="no"), bars():
        raise ValueError("no")
    assert list(counted((3,), "alpha")) == [3]
    assert screen() == ""
