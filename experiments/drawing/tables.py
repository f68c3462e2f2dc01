"""Tables as CSV and Markdown, and one page of every table and figure."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command import registry
from experiments.runs import runner
from experiments.runs.files import write_file
from experiments.runs.results import read_result
from experiments.usage import UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Table",
    "markdown",
    "mean_and_range",
    "noted",
    "page",
    "percent",
    "provenance_notes",
    "text",
    "write_table",
]


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
    """Write ``stem.csv`` and ``stem.md`` and return the paths."""
    csv, md = folder / f"{stem}.csv", folder / f"{stem}.md"
    write_file(csv, table.numbers.to_csv(index=False, lineterminator="\n").encode())
    write_file(md, markdown(table).encode())
    return [csv, md]


def text(out: Path) -> str:
    """Return every table and figure drawn in ``out`` as one page of Markdown.

    Raises
    ------
    UsageError
        When there is none.
    """
    lines = ["# Results", ""]
    for name in registry.available():
        for study in runner.studies(out, name):
            tables = sorted(study.folder.glob("*.md"))
            pictures = sorted(study.folder.glob("*.png"))
            if not tables and not pictures:
                continue
            lines += [f"## {name}: {study.name}", "", registry.experiment(name).SUMMARY, ""]
            for table in tables:
                lines += [table.read_text(encoding="utf-8").rstrip(), ""]
            for picture in pictures:
                lines += [f"![{picture.stem}]({picture.relative_to(out).as_posix()})", ""]
    if len(lines) == 2:
        raise UsageError(f"no tables or figures in {out}: run an experiment first")
    return "\n".join(lines)


def page(out: Path) -> list[Path]:
    """Write ``report.md`` and ``report.html``: every table and figure drawn in ``out``.

    Raises
    ------
    UsageError
        When there is none.
    OutputError
        When they cannot be written.
    """
    content = text(out)
    paths = [out / "report.md", out / "report.html"]
    write_file(paths[0], content.encode())
    write_file(paths[1], _html(content).encode())
    return paths


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Results</title><style>
body { font: 15px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .2rem .7rem; text-align: left }
tr { border-bottom: 1px solid #ccc } img { max-width: 100% }
</style></head><body>
"""


def _html(text: str) -> str:
    """The few forms of Markdown that `markdown` and `page` write, as HTML."""
    body: list[str] = []
    in_table = False
    for line in text.splitlines():
        row = line.startswith("|")
        if in_table and not row:
            body.append("</table>")
        if row and not in_table:
            body.append("<table>")
        if row and set(line) <= set("|-: "):
            pass  # the rule below the head
        elif row:
            tag = "td" if in_table else "th"
            cells = line.replace("\\|", "\0").strip("|").split("|")
            safe = [html.escape(cell.replace("\0", "|").strip()) for cell in cells]
            body.append("<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in safe) + "</tr>")
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            body.append(f"<h{level}>{html.escape(line[level:].strip())}</h{level}>")
        elif line.startswith("![") and line.endswith(")"):
            name, _, source = line[2:-1].partition("](")
            body.append(f'<p><img alt="{html.escape(name)}" src="{html.escape(source)}"></p>')
        elif line.strip():
            body.append(f"<p>{html.escape(line)}</p>")
        in_table = row
    if in_table:
        body.append("</table>")
    return _HEAD + "\n".join(body) + "\n</body></html>\n"
