"""The published numbers."""

from __future__ import annotations

import pytest

from baselines import published


def test_every_number_is_an_accuracy_with_a_known_status_and_a_source():
    for number in published.load():
        assert 0 < number.value < 1, number
        assert number.metric in published.METRICS
        assert number.status in published.STATUSES
        assert number.source


def test_a_row_has_each_metric_once():
    rows = [(number.key, number.metric) for number in published.load()]
    assert len(rows) == len(set(rows))


def test_figure_3b_orders_linearized_below_features_below_standard_networks():
    test = {n.key: n.value for n in published.load("3(b)") if n.metric == "test_accuracy"}
    assert (
        test["vgg11-linearized"]
        < test["prior-features"]
        < test["random-features"]
        < test["vgg11-standard"]
    )


def test_an_unknown_figure_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"figure must be one of .*3\(b\).*got '9'"):
        published.load("9")
