"""What is said to the user: bars on a terminal, of one process."""

from __future__ import annotations

import io
import sys

from experiments.usage import steps, watched


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_loop_says_on_a_terminal_how_far_it_is(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert watched()
    assert list(steps((3, 4), "alpha")) == [3, 4]
    assert "alpha:" in sys.stderr.getvalue()


def test_a_loop_is_quiet_when_piped(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not watched()
    assert list(steps((3, 4), "alpha")) == [3, 4]
    assert sys.stderr.getvalue() == ""


def test_of_several_processes_one_shows_bars(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not watched()
    assert list(steps((3, 4), "alpha")) == [3, 4]
    assert sys.stderr.getvalue() == ""
