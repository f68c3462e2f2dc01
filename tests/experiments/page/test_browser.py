"""The report page in headless Chromium: nothing wrong on the console, no width overflows."""

from __future__ import annotations

import pytest

from tests.experiments.page.browser import chromium, opened

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no chromium on this machine: the page is not looked at"
)


@pytest.fixture(scope="module")
def browser():
    with opened() as page:
        yield page


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_shows_without_a_complaint_and_without_scrolling_sideways(
    browser, page, width, dark
):
    browser.open(page, width=width, dark=dark)
    assert browser.complaints == []
    assert browser.requests == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_no_table_and_no_figure_is_cut_off_in_a_wide_window(browser, page):
    browser.open(page, width=1400)
    browser.evaluate("[...document.querySelectorAll('details')].map(d => d.open = true)")
    cut = "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth + 1)"
    assert browser.evaluate(f"{cut}.map(e => e.textContent.trim().slice(0, 40))") == []


def test_every_figure_is_drawn(browser, page):
    browser.open(page, width=1400)
    for one in browser.evaluate(
        "[...document.querySelectorAll('details')].map(d => d.open = true)"
    ):
        assert one
    sizes = browser.evaluate(
        "[...document.querySelectorAll('figure svg')].map(s => [s.getBoundingClientRect().width, "
        "s.getBoundingClientRect().height, s.querySelectorAll('path, use, text').length])"
    )
    assert len(sizes) >= 8
    assert all(width > 200 and height > 100 and parts > 20 for width, height, parts in sizes)


def test_a_table_sorts_by_a_click_and_back(browser, page):
    browser.open(page, width=1400)
    column = (
        "[...document.querySelector('#fig3b-laptop-cifar10-fig3b-table').tBodies[0].rows]"
        ".map(r => +r.cells[2].dataset.sort)"
    )
    press = "document.querySelectorAll('#fig3b-laptop-cifar10-fig3b-table thead button')[2].click()"
    before = browser.evaluate(column)
    browser.evaluate(press)
    assert browser.evaluate(column) == sorted(before) != before
    browser.evaluate(press)
    assert browser.evaluate(column) == sorted(before, reverse=True)
    sort = "document.querySelectorAll('#fig3b-laptop-cifar10-fig3b-table th')[2].ariaSort"
    assert browser.evaluate(sort) == "descending"


def test_it_prints(browser, page):
    browser.open(page, width=1400)
    assert browser.printed().startswith(b"%PDF")
