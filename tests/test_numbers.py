"""Numbers on the pages: each stands in a file under results, and the file says where it is from."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from experiments.command.registry import available, experiment
from experiments.runs import runner
from experiments.runs.results import read_result

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
FULL = RESULTS / "fig3b" / "full-cifar10-e79d57"
SCALE = RESULTS / "fig3a" / "full-cifar10"
SOLVED = RESULTS / "fig3b" / "solved-cifar10"
OPEN = RESULTS / "open-question" / "paper-cifar10-112903"
ALL = RESULTS / "open-question" / "full-cifar10-8d56dd"
WIDE = RESULTS / "open-question" / "full-cifar10-1b0aa6"
STEPS = RESULTS / "open-question" / "paper-cifar10-6d71ca"
SHOWN = (FULL, SCALE, SOLVED, OPEN, ALL, WIDE, STEPS)


def rows(text: str) -> list[list[str]]:
    """Cells of the lines of Markdown tables, rules left out."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not set("".join(row)) <= set("-: ")]


def readme() -> str:
    """The page without its blocks of code, links and typographic minus signs."""
    text = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text("utf-8"), flags=re.S)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)


def numbers(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w.,])\d+(?:,\d{3})*\.\d+(?![\w.])", text))


def test_the_readmes_table_of_figure_3b_is_that_of_the_results():
    kept = rows((FULL / "fig3b.md").read_text("utf-8"))
    found = rows((ROOT / "README.md").read_text("utf-8"))
    assert all(row in found for row in kept)


def test_every_number_of_the_readme_stands_in_a_table_of_the_results():
    tables = [p.read_text("utf-8") for folder in SHOWN for p in folder.glob("*.md")]
    known = set().union(*map(numbers, tables))
    full = {row[0]: row[2].split()[0] for row in rows((FULL / "fig3b.md").read_text("utf-8"))}
    patches = full["random patches, Gaussian kernel, mirror images averaged"]
    derived = {f"{float(patches) - float(full['VGG-11, width 1/4, α = 1']):.1f}"}
    version = {"3.11"}
    asked = numbers(readme())
    assert len(asked) > 40
    assert asked - known - derived - version == set()


def test_the_readmes_verdicts_are_those_of_the_results():
    kept = [rows((f / name).read_text("utf-8"))[1:]
            for f, name in ((FULL, "fig3b-claims.md"), (SCALE, "fig3a-claims.md"))]  # fmt: skip
    solved = rows((SOLVED / "fig3b-claims.md").read_text("utf-8"))[1:]
    kept.append([row for row in solved if "lost by" in row[0]])
    table = (ROOT / "README.md").read_text("utf-8").partition("| claim |")[2]
    shown = rows("| claim |" + table.partition("\n\n")[0])[1:]
    rest = list(itertools.chain(*kept))
    for found in shown:
        # what stands in brackets names the networks
        matches = (i for i, (_, measured, verdict) in enumerate(rest)
                   if found[2] == verdict and numbers(found[1]) == numbers(
                       re.sub(r"\([^)]*\)", "", measured)))  # fmt: skip
        place = next(matches, None)
        assert place is not None, found
        left_out, rest = rest[:place], rest[place + 1 :]
        # those of the narrower network alone, and what another row says
        assert all("width 1/4" in text or "width 1/2, α = 1 above" in text for text, *_ in left_out)
    assert not rest


def test_the_readmes_table_of_the_open_question_is_that_of_the_results():
    kept = {(row[0], row[1]): row[2] for row in rows((OPEN / "accuracy.md").read_text("utf-8"))}
    names = {
        "B: A and two": ["B: A and two dense branches"],
        "sum of both": ["sum of both Gaussian kernels"],
        "A: one": ["A: linearized convolution"],
        **{f"{name}, Gaussian kernel; ridge": [f"{name}, Gaussian", f"{name}, ridge"]
           for name in ("random patches", "scattering")},
    }  # fmt: skip
    table = (
        (ROOT / "README.md").read_text("utf-8").partition("10,000 images of CIFAR-10, JPEG-75")[2]
    )
    shown = {row[0]: row[-1].split("; ") for row in rows(table)}
    for start, sources in names.items():
        (found,) = (cells for name, cells in shown.items() if name.startswith(start))
        assert found == [kept["10,000", source].split()[0] for source in sources]


def test_the_cpu_minutes_of_the_open_question_are_those_of_its_runs():
    said = re.findall(r"(\d+) CPU\s+minutes", readme())
    kept = {study.folder: study for study in runner.studies(RESULTS, "open-question")}
    asked = [[read_result(path)["cpu_seconds"] for path in kept[folder].paths]
             for folder in (OPEN, STEPS)]  # fmt: skip
    assert len(asked[0]) == 6
    assert [int(minutes) for minutes in said] == [round(sum(seconds) / 60) for seconds in asked]


def test_the_runs_behind_the_readmes_tables_are_of_clean_commits():
    for folder in SHOWN:
        (study,) = (s for s in runner.studies(RESULTS, folder.parent.name) if s.folder == folder)
        commits = [read_result(path)["commit"] for path in study.paths if runner.kept(path)]
        assert commits
        assert all(re.fullmatch("[0-9a-f]{40}", commit) for commit in commits)


def studies() -> list[object]:
    found = [(name, study) for name in available() for study in runner.studies(RESULTS, name)]
    return [
        pytest.param(name, study, id=f"{name}/{study.name}",
                     marks=() if study.folder in SHOWN else pytest.mark.slow)
        for name, study in found
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "study"), studies())
def test_committed_tables_are_what_the_committed_runs_give(name, study, tmp_path):
    drawn = [p for p in runner.draw_study(experiment(name), study, tmp_path) if p.suffix != ".png"]
    tables = [p for p in drawn if p.suffix in (".md", ".csv")]
    assert tables
    for path in tables:
        assert (study.folder / path.name).read_text("utf-8") == path.read_text("utf-8")


TIMED = {"fig3a/laptop-cifar10", "fig3b/laptop-cifar10", "baselines/targets-cifar10",
         "tabular/laptop", "fig3b/full-cifar10-e79d57"}  # fmt: skip


@pytest.mark.parametrize("place", sorted(TIMED))
def test_tables_of_runs_show_no_wall_seconds(place, tmp_path, monkeypatch):
    name, _, folder = place.partition("/")
    (study,) = (s for s in runner.studies(RESULTS, name) if s.name == folder)
    load = runner.load_results

    def waiting(paths):
        """As on a machine where every run waited for another one."""
        found = load(paths)
        assert (found["seconds"] > 0).all()
        return found.assign(seconds=1e9)

    monkeypatch.setattr(runner, "load_results", waiting)
    shown = [p for p in runner.draw_study(experiment(name), study, tmp_path) if p.suffix == ".md"]
    assert any("CPU" in path.read_text("utf-8") for path in shown)
    for path in shown:
        assert (study.folder / path.name).read_text("utf-8") == path.read_text("utf-8")


def benchmarks() -> dict[str, tuple[str, str, str]]:
    """File or pattern -> commit, threads and load as the page of speed says them."""
    page = (ROOT / "docs" / "speed.md").read_text("utf-8").partition("## Which commit")[2]
    return {row[1].strip("`"): (row[2], row[3], row[4]) for row in rows(page)[1:]}


@pytest.mark.parametrize(
    "path", sorted((RESULTS / "benchmarks").glob("*.json")), ids=lambda p: p.stem
)
def test_the_page_of_speed_says_the_commit_of_every_file(path):
    ((commit, threads, load),) = (
        said for pattern, said in benchmarks().items() if path.match(pattern)
    )
    document = json.loads(path.read_text())
    machine = document["machine"]
    assert load == f"{machine['load_average'][0]:.1f}"
    assert int(threads) == machine["threads"]
    assert "warning" not in machine
    assert commit == machine["commit"][:7]
    assert machine["cpu"]
