"""The report page as a document: whole, self-contained, linked, named, made from results."""

from __future__ import annotations

import re
import shutil
from html import unescape
from html.parser import HTMLParser

import pandas as pd
import pytest

from experiments.page.build import _number, html, write_page
from experiments.page.sections import SECTIONS
from experiments.usage import UsageError
from tests.experiments.page.conftest import RESULTS

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Document(HTMLParser):
    """Elements with their attributes, and whether every one is closed in order."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def document(text) -> Document:
    return Document(text)


def test_every_element_is_closed_in_order(document):
    assert not document.wrong
    assert not document.open


def test_no_id_is_there_twice_and_every_link_and_reference_leads_to_one(text, document):
    ids = [a["id"] for _, a in document.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] for _, a in document.elements if "href" in a and a["href"] != "data:,"]
    links += [f"#{name}" for name in re.findall(r"url\(#([^)]+)\)", text)]
    for _, attributes in document.elements:
        links += [f"#{name}" for name in attributes.get("aria-labelledby", "").split()]
    assert len(links) > 100
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert all(link.startswith("#") for link in links)


def test_nothing_outside_the_file_is_asked_for(text, document):
    assert not document.all("img")
    assert not any("src" in attributes for _, attributes in document.elements)
    assert not re.findall(r"url\((?!#)", text)
    assert "@import" not in text
    assert not re.findall(r"https?://", text)


def test_every_figure_is_inline_and_has_a_name(document):
    figures, pictures = document.all("figure"), document.all("svg")
    assert len(figures) == len(pictures) >= 8
    for picture in pictures:
        assert picture["role"] == "img"
        assert len(picture["aria-label"]) > 20


def test_every_table_has_a_caption_and_its_heads_a_scope(document):
    tables = document.all("table")
    assert len(tables) == len(document.all("caption")) >= 8
    assert all(head.get("scope") in ("row", "col") for head in document.all("th"))


def test_every_figure_among_the_results_has_a_name_in_words():
    figures = list(RESULTS.glob("*/*/*.png"))
    assert len(figures) > 8
    nameless = [p for p in figures if SECTIONS[p.parts[-3]].name_of(p.stem) is None]
    assert not nameless


def test_what_figures_cannot_show_depends_on_the_images_they_are_of():
    about = SECTIONS["fig3b"]
    assert "a part of the images" in about.cannot_show(pd.DataFrame({"n_train": [600, 600]}))
    whole = about.cannot_show(pd.DataFrame({"n_train": [None, None]}))
    assert "a part of the images" not in whole
    assert "JPEG" in whole
    for other in SECTIONS.values():
        assert other.cannot_show(pd.DataFrame({"seed": [0]})) == other.limits


def test_every_figure_says_its_command_commit_time_and_what_it_cannot_show(text):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.S)
    assert captions
    for caption in captions:
        assert "python -m experiments" in caption
        assert "of CPU time, commit" in caption
        assert "Cannot show:" in caption


def test_the_answer_comes_first_and_carries_the_numbers_of_the_results(text):
    assert text.index('id="answer"') < text.index("<figure")
    answer = text[text.index('id="answer"') : text.index("</section>")].replace("\u00a0", " ")
    table = pd.read_csv(RESULTS / "fig3b/laptop-cifar10/fig3b.csv").set_index("method")
    standard, lazy = 100 * table["test_accuracy_mean"][["vgg11", "vgg11-lazy"]]
    assert f"{standard:.1f}% of the test images at α = 1, {lazy:.1f}% at α = 10⁷" in answer


def test_sections_stand_in_the_order_of_the_paper_s_weight(text):
    order = ["answer", "full-size", "fig3b", "fig3a", "precision", "baselines", "speed", "not-run"]
    places = [text.index(f'<section id="{name}"') for name in order]
    assert places == sorted(places)


def test_missing_networks_of_full_size_are_said_with_their_command(text):
    assert "The networks of this figure have not been trained yet" in text
    assert "python -m experiments fig3b full --data-dir DIR" in text


def test_networks_of_full_size_carry_the_answer(tmp_path):
    for kind in ("fig3b", "baselines"):
        shutil.copytree(RESULTS / kind, tmp_path / kind)
    table = next((tmp_path / "fig3b").glob("full-*/fig3b.csv"), None)
    if table is None:
        pytest.skip("no network of full size among the results")
    rows = pd.read_csv(table)
    text = html(tmp_path).replace("\u00a0", " ")
    answer = text[text.index('id="answer"') : text.index("</section>")]
    for kind in ("standard", "lazy"):
        best = 100 * rows[rows["kind"] == kind]["test"].max()
        assert f"{best:.1f}%" in answer
    assert "trained on all 50,000 training images" in answer
    assert "have not been trained yet" not in text
    claims = text[text.index("fig3b-claims-table") :]
    claims = claims[: claims.index("</table>")]
    assert "<td data-sort=" in claims  # sentences that begin with a number: their lines may break
    numbers = re.findall(r'<td class="number"[^>]*>(.*?)</td>', text)
    assert max(len(unescape(re.sub("<.*?>", "", number))) for number in numbers) <= 24


def test_the_same_results_give_the_same_page(results, text):
    assert html(results) == text


def test_no_results_are_wrong_usage(tmp_path):
    with pytest.raises(UsageError, match="no results in"):
        write_page(tmp_path)


def test_an_experiment_without_a_section_is_shown_too(toy, tmp_path):
    from experiments.command import cli

    assert cli.run(["toy", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    text = write_page(tmp_path).read_text("utf-8")
    assert "toy: squares of numbers" in text
    assert 'data-sort="9.0">9<' in text


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("48.8 [48.1, 49.5]", 48.8),
        ("15,552", 15552.0),
        ("89.7†", 89.7),
        ("**91.2**", 91.2),
        ("∞", float("inf")),
        ("+0.4 ± 2.7", 0.4),
        ("–", None),
        ("VGG-11", None),
    ],
)
def test_a_cell_sorts_by_the_number_it_begins_with(cell, number):
    assert _number(cell) == number
