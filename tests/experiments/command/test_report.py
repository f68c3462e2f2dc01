"""Tables."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments.drawing import tables as report
from experiments.drawing.collected import collected
from experiments.runs.results import Outcome, result_path, write_result


def test_a_mean_comes_with_its_range_and_the_runs_that_diverged():
    assert report.mean_and_range([0.5]) == "50.0"
    assert report.mean_and_range([0.5, 0.6, 0.7]) == "60.0 [50.0, 70.0]"
    assert report.mean_and_range([0.5, None]) == "50.0 (1 of 2 diverged)"
    assert report.mean_and_range([None, float("nan")]) == "diverged"
    assert report.mean_and_range([]) == "–"
    assert report.percent(0.99875, 2) == "99.88"
    assert report.percent(None) == "–"


@pytest.fixture
def table():
    numbers = pd.DataFrame({"method": ["a|b", "c"], "accuracy": [0.5, 0.25]})
    shown = pd.DataFrame({"method": ["a|b", "c"], "accuracy": ["50.0", "25.0"]})
    return report.Table("Accuracies <1>", numbers, shown, ["† recalled"])


def test_markdown_is_aligned_and_carries_the_notes(table):
    lines = report.markdown(table).splitlines()
    assert lines[0] == "### Accuracies <1>"
    assert lines[2:6] == [
        "| method | accuracy |",
        "|--------|----------|",
        r"| a\|b   | 50.0     |",
        "| c      | 25.0     |",
    ]
    assert lines[-1] == "† recalled"


def test_a_table_is_written_as_csv_and_markdown(table, tmp_path):
    csv, md = report.write_table(table, tmp_path, "t")
    pd.testing.assert_frame_equal(pd.read_csv(csv), table.numbers)
    assert md.read_text() == report.markdown(table)


def test_a_table_that_is_collected_is_not_written(table, tmp_path):
    with collected() as into:
        assert report.write_table(table, tmp_path, "t") == []
    assert into.tables == {"t": table}
    assert not list(tmp_path.iterdir())


def test_runs_of_changed_files_are_said_below_a_table(tmp_path):
    paths = []
    for number, commit in enumerate(("0123456789", "abcdef0123-modified", None)):
        run = {"number": number}
        path = result_path(tmp_path, "toy", run, fingerprint=None, dtype="float64")
        write_result(
            path, experiment="toy", run=run, outcome=Outcome({}), dtype="float64", commit=commit
        )
        paths.append(str(path))
    (note,) = report.provenance_notes(pd.DataFrame({"path": paths}))
    assert note.startswith("1 of 3 runs come from files that were changed after the commit")
    assert "(abcdef0)" in note
    assert report.provenance_notes(pd.DataFrame({"path": paths[:1]})) == []
    assert report.provenance_notes(pd.DataFrame({"method": ["x"]})) == []
