"""Figures and tables that are wanted in memory, not as files: what the report page is made of."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.drawing.tables import Table


@dataclass
class Collected:
    """Pictures as the text of SVG files, and tables, by the names their files would have."""

    pictures: dict[str, str] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


_present: contextvars.ContextVar[Collected | None] = contextvars.ContextVar("drawn", default=None)


@contextlib.contextmanager
def collected() -> Iterator[Collected]:
    """Have `plots.save_figure` and `report.write_table` put here what they would write."""
    into = Collected()
    token = _present.set(into)
    try:
        yield into
    finally:
        _present.reset(token)


def collecting() -> Collected | None:
    """What is being collected into; None where files are wanted."""
    return _present.get()
