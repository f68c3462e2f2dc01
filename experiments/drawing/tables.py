"""Tables as CSV and Markdown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from experiments.drawing.collected import collecting
from experiments.files import write_file
from experiments.runs.results import read_result


@dataclass(frozen=True)
class Table:
    """A table: its numbers, and how they are shown.

    Parameters
    ----------
    title : str
    numbers : DataFrame
        What the CSV file holds.
    shown : DataFrame
        Strings, for Markdown and the screen.
    notes : sequence of str
        Lines below the table: what a dagger means, where numbers come from.
    """

    title: str
    numbers: pd.DataFrame
    shown: pd.DataFrame
    notes: Sequence[str] = ()


def percent(value: float | None, digits: int = 1) -> str:
    """Return an accuracy in [0, 1] as percent; "–" for none."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}"


def short(value: float) -> str:
    """Return a number to two digits; "–" for none."""
    return "–" if math.isnan(value) else f"{value:.2g}"


def mean_and_range(values: Iterable[float | None], digits: int = 1) -> str:
    """Return the mean of accuracies in percent and, of two or more, their least and greatest.

    Missing values (diverged runs) are left out of the mean and counted.
    """
    everything = list(values)
    known = [v for v in everything if v is not None and v == v]
    lost = len(everything) - len(known)
    diverged = f"{lost} of {len(everything)} diverged" if lost else ""
    if not known:
        return "diverged" if everything else "–"
    text = percent(sum(known) / len(known), digits)
    if len(known) > 1:
        text += f" [{percent(min(known), digits)}, {percent(max(known), digits)}]"
    return f"{text} ({diverged})" if diverged else text


def values_of(rows: pd.DataFrame, column: str) -> list[float | None]:
    """A column's numbers, None where one is missing (a diverged run) or all are."""
    if column not in rows:
        return [None] * len(rows)
    return [None if v is None or v != v else float(v) for v in rows[column]]


def known_of(rows: pd.DataFrame, column: str) -> list[float]:
    """A column's numbers but for those that are missing."""
    return [v for v in values_of(rows, column) if v is not None]


def mean_of(rows: pd.DataFrame, column: str) -> float:
    """Mean of the numbers that are there; NaN where there are none."""
    known = known_of(rows, column)
    return sum(known) / len(known) if known else math.nan


def provenance_notes(results: pd.DataFrame) -> list[str]:
    """A line below a table where some runs came from files changed after their commit."""
    if "path" not in results:
        return []
    commits = [read_result(Path(path)).get("commit") for path in results["path"]]
    changed = sorted({c.removesuffix("-modified")[:7] for c in commits if c and "-modified" in c})
    if not changed:
        return []
    count = sum("-modified" in (c or "") for c in commits)
    return [
        f"{count} of {len(commits)} runs come from files that were changed after the commit they "
        f"name ({', '.join(changed)}): no commit gives exactly their code."
    ]


def noted(table: Table, results: pd.DataFrame) -> Table:
    """The table with `provenance_notes` below it."""
    return dataclasses.replace(table, notes=[*table.notes, *provenance_notes(results)])


def markdown(table: Table) -> str:
    """Return the table as aligned Markdown, which reads well on a screen too."""
    head = [str(column) for column in table.shown.columns]
    cells = table.shown.astype(object).to_numpy().tolist()
    rows = [[_cell(value) for value in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    lines = [f"### {table.title}", "", line(head), rule, *map(line, rows), ""]
    return "\n".join([*lines, *(f"{note}\n" for note in table.notes)])


def _cell(value: object) -> str:
    missing = value is None or value != value
    return "–" if missing else str(value).replace("|", "\\|")


def write_table(table: Table, folder: Path, stem: str) -> list[Path]:
    """Write ``stem.csv`` and ``stem.md`` and return the paths.

    Inside `experiments.drawing.collected` the table is kept in memory and no file is written.
    """
    if (into := collecting()) is not None:
        into.tables[stem] = table
        return []
    csv, md = folder / f"{stem}.csv", folder / f"{stem}.md"
    write_file(csv, table.numbers.to_csv(index=False, lineterminator="\n").encode())
    write_file(md, markdown(table).encode())
    return [csv, md]
