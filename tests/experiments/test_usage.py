"""What is said to the user: bars on a terminal, of one process."""

from __future__ import annotations

import sys

import pytest

from experiments.usage import steps, watched


@pytest.fixture
def terminal(capsys, monkeypatch):
    """Standard error says that it is a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


def test_a_loop_says_on_a_terminal_how_far_it_is(terminal, capsys):
    assert list(steps((3, 4), "alpha")) == [3, 4]
    assert "alpha:" in capsys.readouterr().err


def test_a_loop_is_quiet_when_piped(capsys):
    assert not watched()
    assert list(steps((3, 4), "alpha")) == [3, 4]
    assert capsys.readouterr().err == ""


def test_of_several_processes_one_shows_bars(terminal, monkeypatch, capsys):
    assert watched()
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not watched()
    assert list(steps((3, 4), "alpha")) == [3, 4]
    assert capsys.readouterr().err == ""
