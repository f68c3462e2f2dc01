from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tangent.kernel.engine.cost import Problem, Rates, Shape, calibrated, cheapest, seconds

# One multiply-add a nanosecond whatever the size, elements for nothing: operation counts.
COUNT = Rates((1.0, 1.0, 1.0, 1.0), float("inf"))
# The convolutions of VGG-11 (width 1, 10 outputs): positions, patch entries, channels.
VGG11 = [(1024, 27, 64), (256, 576, 128), (64, 1152, 256), (16, 2304, 512), (4, 4608, 512)]


def count(order: str, shape: Shape, problem: Problem) -> float:
    return seconds(order, shape, problem, COUNT)


def test_operations_are_counted_as_written_in_the_formulas():
    p, k, c, o, n = 64, 1152, 256, 10, 100
    shape = Shape(p, k, c, o)
    full = Problem(n, n, symmetric=False, full=True)
    pairs = n * n
    assert count("jacobian", shape, full) == pytest.approx(
        2 * n * o * p * c * k + pairs * o * o * c * k
    )
    gram = pairs * p * p * k
    assert count("half", shape, full) == pytest.approx(
        gram + pairs * (o * p * p * c + o * o * p * c)
    )
    assert count("gram", shape, full) == pytest.approx(gram + pairs * o * o * p * p * c)
    trace = dataclasses.replace(full, full=False)
    assert count("gram", shape, trace) == pytest.approx(gram + pairs * p * p * o * c)


def test_symmetry_halves_the_pairs_and_shifts_cut_the_patch_products():
    one = Problem(100, 100, symmetric=True, full=True)
    assert one.pairs == 100 * 101 / 2
    plain, shifted = Shape(64, 1152, 256, 10), Shape(64, 1152, 256, 10, rows=3)
    difference = count("half", plain, one) - count("half", shifted, one)
    assert difference == pytest.approx(one.pairs * 64 * 64 * (1152 - 384))


def test_large_maps_take_the_jacobian_and_small_ones_the_patch_products():
    problem = Problem(500, 500, symmetric=True, full=True)
    chosen = [cheapest(Shape(p, k, c, 10, 3), problem, COUNT) for p, k, c in VGG11]
    assert chosen == ["jacobian", "jacobian", "half", "half", "half"]


def test_gradients_of_a_table_are_taken_where_it_is_read_often_and_small():
    problem = Problem(100, 100, symmetric=True, full=True)
    rates = Rates((2e9, 3e10, 4e10, 5e10), 1e9)
    small, large = Shape(512, 30, 64, 10), Shape(16, 30_000, 64, 10)
    assert cheapest(small, problem, rates, one_hot=True) == "jacobian"
    assert cheapest(large, problem, rates, one_hot=True) != "jacobian"


@given(
    p=st.integers(1, 1024), k=st.integers(1, 4096), c=st.integers(1, 512), n=st.integers(1, 1000)
)
def test_the_cheapest_order_is_no_dearer_than_the_others(p, k, c, n):
    problem = Problem(n, n, symmetric=True, full=True)
    shape = Shape(p, k, c, 10)
    rates = Rates((2e9, 3e10, 4e10, 5e10), 1e9)
    best = seconds(cheapest(shape, problem, rates), shape, problem, rates)
    assert all(best <= seconds(o, shape, problem, rates) for o in ("jacobian", "half", "gram"))


def test_a_rate_is_interpolated_between_the_measured_sizes():
    rates = Rates((1.0, 4.0, 16.0, 64.0), 1.0)
    assert rates.product(8, 4) == pytest.approx(8)
    assert rates.product(8, 8) == pytest.approx(4)
    assert rates.product(64, 1000) == pytest.approx(1)
    assert rates.product(1, 1) == pytest.approx(4)


def test_a_device_is_measured_once():
    device = torch.device("cpu")
    rates = calibrated(device, torch.float32)
    assert calibrated(device, torch.float32) is rates
    assert rates.elements > 0
    assert list(rates.products) == sorted(rates.products)
    assert rates.products[0] > 0
