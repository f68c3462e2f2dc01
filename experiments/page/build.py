"""The page itself: what is drawn and said, put into the template, written as one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from experiments.command import registry
from experiments.drawing.tables import Table
from experiments.files import write_file
from experiments.page.drawn import Drawn, drawn_studies
from experiments.page.findings import FINDINGS
from experiments.page.full_size import FULL_COMMAND, answer, fixed_only, networks_in
from experiments.page.missing import missing_presets
from experiments.page.picture import Picture, dark_colours, picture
from experiments.page.provenance import Provenance, provenance
from experiments.page.sections import SECTIONS, About
from experiments.page.speed import speed_tables
from experiments.usage import UsageError

DARK_PAPER = "17191e"


@dataclass(frozen=True)
class Part:
    """A study in a section: heading, sentences, pictures, tables, where they come from."""

    key: str
    title: str
    said: list[str]
    pictures: list[Picture]
    tables: dict[str, Table]
    provenance: Provenance
    limits: str
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """An experiment on the page."""

    key: str
    about: About
    parts: list[Part] = field(default_factory=list)
    missing: str = ""
    command: str = ""


def write_page(out: Path) -> Path:
    """Write ``report.html`` into ``out`` and return its path.

    Raises
    ------
    UsageError
        When there are no results.
    experiments.files.OutputError
        When it cannot be written.
    """
    path = out / "report.html"
    write_file(path, html(out).encode())
    return path


def html(out: Path) -> str:
    """The page of all results in ``out``; the same results give the same text.

    Raises
    ------
    UsageError
        When there are none.
    """
    studies = {
        name: drawn_studies(
            out, name, SECTIONS[name].name_of if name in SECTIONS else lambda _: None
        )
        for name in [*SECTIONS, *(n for n in registry.available() if n not in SECTIONS)]
        if name in registry.available()
    }
    if not any(studies.values()):
        raise UsageError(f"no results in {out}: run an experiment first")
    sections = [_section(name, found) for name, found in studies.items() if found]
    if "fig3b" in studies and not any(networks_in(study) for study in studies["fig3b"]):
        sections.insert(0, _without_networks(out))
    pictures = [p for section in sections for part in section.parts for p in part.pictures]
    colours = dark_colours({c for p in pictures for c in p.colours}, DARK_PAPER)
    return _template().render(
        answer=answer(studies.get("fig3b", []), out),
        sections=sections,
        speed=speed_tables(out),
        missing=missing_presets(out),
        colours=colours,
        paper=DARK_PAPER,
        style=_text("style.css"),
        script=_text("tables.js"),
        runs=sum(len(study.results) for found in studies.values() for study in found),
    )


def _section(name: str, found: list[Drawn]) -> Section:
    summary = registry.experiment(name).SUMMARY
    about = SECTIONS.get(name, About(f"{name}: {summary}", summary, "Not said."))
    said = FINDINGS.get(name, lambda results: [])
    parts = [
        Part(
            f"{name}-{study.name}",
            _title(study.name),
            said(study.results),
            list(study.pictures),
            study.tables,
            study.provenance,
            about.cannot_show(study.results),
            study.folded,
        )
        for study in found
    ]
    return Section(name, about, parts)


def _title(study: str) -> str:
    """A study's folder in words: "Preset laptop, CIFAR-10, changed settings"."""
    words, data = study.split("-"), ("cifar10", "digits")
    changed = len(words) > 1 and len(words[-1]) == 6 and not words[-1].isalpha()
    changed = changed and words[-1] not in data
    words = words[:-1] if changed else words
    names = {"cifar10": "CIFAR-10", "digits": "digits"}
    parts = ["preset " + "-".join(w for w in words if w not in data)]
    parts += [names[w] for w in words if w in data]
    parts += ["other settings than the preset's"] if changed else []
    return ", ".join(parts).capitalize().replace("cifar-10", "CIFAR-10")


def _without_networks(out: Path) -> Section:
    """Figure 3(b) at full size before its networks are trained: what stands already."""
    about = About(
        "Figure 3(b) at full size: all 50,000 images",
        "Networks at α = 1 and lazy, and fixed representations, on all training images.",
        "The networks are missing: the paper's comparison is not made yet. Fixed representations "
        "come from images that were encoded again where their name says JPEG.",
    )
    missing = "The networks of this figure have not been trained yet. The command that would:"
    made = fixed_only(out)
    if made is None:
        return Section("full-size", about, [], missing, FULL_COMMAND)
    into, paths = made
    pictures = [
        picture(text, key=f"full-size-{stem}", title=SECTIONS["fig3b"].figures[stem])
        for stem, text in into.pictures.items()
    ]
    told = provenance(paths, {}, len(paths))
    part = Part(
        "full-size-fixed",
        "Fixed representations",
        [],
        pictures,
        into.tables,
        told,
        about.limits,
    )
    return Section("full-size", about, [part], missing, FULL_COMMAND)


@lru_cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("experiments.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["kept"] = _kept_together
    return environment.get_template("report.html")


def _text(name: str) -> str:
    return resources.files("experiments.page").joinpath("templates", name).read_text("utf-8")


def _kept_together(text: str) -> str:
    """The text with "α = 1" and its like on one line."""
    return text.replace("α = ", "α\u00a0=\u00a0")


def _number(cell: object) -> float | None:
    """What a table sorts a cell by: the number it begins with, if it does."""
    text = str(cell).strip().lstrip("*+").replace(",", "").replace("∞", "inf").replace("–", "")
    word = text.split(" ")[0].rstrip("%†*")
    try:
        return float(word)
    except ValueError:
        return None
