"""One page, of results that come with the repository, for all tests of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from experiments.page.build import html

RESULTS = Path(__file__).parents[3] / "results"
# Enough for every kind of part: studies with figures, with tables, folded, of full size; speed.
KINDS = ("fig3a", "fig3b", "baselines", "precision", "benchmarks")


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> Path:
    """A folder with some of the committed results, the networks of full size left out."""
    if not RESULTS.is_dir():
        pytest.skip("no results beside the tests: not a checkout")
    out = tmp_path_factory.mktemp("results")
    for kind in KINDS:
        left_out = shutil.ignore_patterns("*.p[dn][fg]", "full-*", "solved-*")
        shutil.copytree(RESULTS / kind, out / kind, ignore=left_out)
    return out


@pytest.fixture(scope="session")
def text(results) -> str:
    return html(results)


@pytest.fixture(scope="session")
def page(text, tmp_path_factory) -> Path:
    """The page in a folder of its own: it has to do without anything beside it."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path
