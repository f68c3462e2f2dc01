"""What is said to the user: bars on a terminal, of one process."""

from __future__ import annotations

import io
import sys

from experiments.usage import watched


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_are_for_terminals(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert watched()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not watched()


def test_of_several_processes_one_shows_bars(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not watched()
