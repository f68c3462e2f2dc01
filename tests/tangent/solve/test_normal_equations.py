"""Normal equations of streamed features, against least squares in float64."""

import json

import pytest
import torch

from tangent.solve import normal_equations
from tangent.solve.normal_equations import NormalEquations


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(normal_equations, "_BLOCK", 4)


@pytest.fixture
def data(generator):
    x = torch.randn(50, 11, generator=generator) * torch.logspace(0, -2, 11) + 0.5
    return x, torch.randn(50, 2, generator=generator)


def in_blocks(x, y, size=15):
    return lambda start: [(x[i : i + size], y[i : i + size]) for i in range(start, len(x), size)]


def accumulated(folder, x, y, of="it"):
    equations = NormalEquations(folder, x.shape[1], y.shape[1], of)
    for block in in_blocks(x, y)(equations.n):
        equations.add(*block)
    return equations


def exact(x, y, ridge):
    """Weights and constant of the penalized problem, by least squares in float64."""
    x, y = x.double(), y.double()
    away = x - x.mean(0)
    penalty = ridge * away.square().sum() / len(x)
    rows = torch.cat([away, penalty.sqrt() * torch.eye(x.shape[1]).double()])
    right = torch.cat([y - y.mean(0), torch.zeros(x.shape[1], y.shape[1]).double()])
    weight = torch.linalg.lstsq(rows, right).solution
    return weight, y.mean(0) - x.mean(0) @ weight


@pytest.mark.parametrize("ridge", [0.3, 1e-4])
def test_the_refined_solution_is_that_of_least_squares_in_float64(tmp_path, data, ridge):
    x, y = data
    solution = accumulated(tmp_path, x, y).solve(ridge, in_blocks(x, y), steps=3)
    weight, constant = exact(x, y, ridge)
    torch.testing.assert_close(solution.weight, weight, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(solution.constant, constant, rtol=1e-8, atol=1e-10)
    assert solution.residual < 1e-9
    torch.testing.assert_close(solution.predict(x.double()), x.double() @ weight + constant)


def test_the_residual_says_what_rounding_has_left(tmp_path, data):
    x, y = data
    rough = accumulated(tmp_path / "a", x, y).solve(1e-4, in_blocks(x, y), steps=0)
    refined = accumulated(tmp_path / "b", x, y).solve(1e-4, in_blocks(x, y), steps=2)
    assert 1e-8 < rough.residual < 1e-3
    assert refined.residual < 1e-3 * rough.residual


def test_leverages_give_leave_one_out(tmp_path, data):
    x, y = data
    solution = accumulated(tmp_path, x, y).solve(0.1, in_blocks(x, y), rows=x[:3])
    penalty = 0.1 * (x - x.mean(0)).double().square().sum() / len(x)
    left = (y[:3].double() - solution.predict(x[:3].double())) / (1 - solution.leverage)[:, None]
    for i in range(3):
        others = torch.arange(len(x)) != i
        rest = x[others].double()
        away = rest - rest.mean(0)
        gram = away.T @ away + penalty * torch.eye(11).double()
        target = y[others].double()
        weight = torch.linalg.solve(gram, away.T @ (target - target.mean(0)))
        predicted = (x[i].double() - rest.mean(0)) @ weight + target.mean(0)
        torch.testing.assert_close(left[i], y[i].double() - predicted, rtol=1e-4, atol=1e-5)


def test_an_interrupted_accumulation_goes_on_to_the_same_bits(tmp_path, data):
    x, y = data
    whole = accumulated(tmp_path / "whole", x, y)
    first = NormalEquations(tmp_path / "parts", 11, 2, "it")
    first.add(x[:15], y[:15])
    first.save()
    first.add(x[15:30], y[15:30])  # not saved: lost
    second = accumulated(tmp_path / "parts", x, y)
    assert second.n == 50
    assert torch.equal(second.moments, whole.moments)
    one, two = (e.solve(0.1, in_blocks(x, y)) for e in (whole, second))
    assert torch.equal(one.weight, two.weight)


def test_saving_again_leaves_one_set_of_files(tmp_path, data):
    x, y = data
    equations = NormalEquations(tmp_path, 11, 2, "it")
    for block in in_blocks(x, y)(0):
        equations.add(*block)
        equations.save()
    assert len(list(tmp_path.iterdir())) == 4
    assert json.loads((tmp_path / "state.json").read_text())["n"] == 50


def test_a_damaged_file_is_refused(tmp_path, data):
    equations = accumulated(tmp_path, *data)
    equations.save()
    path = tmp_path / "moments-50.npy"
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"moments-50\.npy is damaged"):
        NormalEquations(tmp_path, 11, 2, "it")


@pytest.mark.parametrize("name", ["state.json", "moments-50.npy", "sums-50.npy", "right-50.npy"])
def test_every_flipped_bit_is_refused_or_changes_nothing(tmp_path, data, name):
    equations = accumulated(tmp_path, *data)
    equations.save()
    path = tmp_path / name
    content = path.read_bytes()
    places = range(0, 8 * min(len(content), 160), 7)  # the header, or all of the state
    for place in places:
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(changed))
        try:
            again = NormalEquations(tmp_path, 11, 2, "it")
        except ValueError as error:
            said = str(error)
        else:
            said = ""
        if said:
            assert str(tmp_path) in said
            continue
        assert again.n == 50
        assert torch.equal(again.moments, equations.moments)
        assert torch.equal(again._right, equations._right)
        assert torch.equal(again._sums, equations._sums)


def test_moments_of_something_else_are_refused(tmp_path, data):
    accumulated(tmp_path, *data).save()
    with pytest.raises(ValueError, match="take another folder"):
        NormalEquations(tmp_path, 11, 2, "other")


def test_a_ridge_of_zero_is_refused(tmp_path, data):
    with pytest.raises(ValueError, match="ridge must be above 0"):
        accumulated(tmp_path, *data).solve(0, in_blocks(*data))
