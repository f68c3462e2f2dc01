"""Figure 2 at its smallest size, from settings to files, and its exact references."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from experiments.command.registry import experiment
from experiments.fig2 import draw as fig2_figure
from experiments.fig2 import measure as _fig2
from experiments.fig2.draw import still_decreasing
from experiments.usage import UsageError
from tests.experiments.fig1.test_fig1 import context, written

fig2 = experiment("fig2")

SMOKE = fig2.PRESETS["smoke"]


def part(name, **change):
    settings = dataclasses.replace(SMOKE, **change)
    return [run for run in fig2.runs(settings) if run["part"] == name]


def test_every_file_of_the_figure_is_written(tmp_path, every_format):
    paths = fig2.draw(written(fig2, SMOKE, tmp_path), tmp_path / "drawn")
    names = {path.name for path in paths}
    assert {"fig2a.svg", "fig2a.md", "fig2b.pdf", "fig2b.csv"} <= names
    assert all(path.stat().st_size > 0 for path in paths)


@pytest.mark.parametrize("part", fig2.PARTS)
def test_a_part_alone_is_drawn_alone(tmp_path, part):
    results = written(fig2, dataclasses.replace(SMOKE, parts=(part,)), tmp_path)
    names = {path.name for path in fig2.draw(results, tmp_path / "drawn")}
    assert {name[:5] for name in names} == {f"fig2{part}"}


def test_wide_networks_approach_the_lazy_limit():
    change = {"widths": (2048,), "seeds": (0, 1), "steps": 100, "units_together": 4096}
    (run,) = part("a", **change)
    (limit,) = part("a-limit", **change)
    wide = _fig2.widths(run, context()).arrays["root_test"]
    exact = _fig2.wide_limit(limit, context()).arrays["limit"]
    # the limit is a mean over initializations, one network is one of them
    np.testing.assert_allclose(wide, exact, rtol=0.15)


def test_widths_share_the_data_and_repetitions_do_not_depend_on_their_group():
    runs = part("a", widths=(4,), units_together=4)
    assert [run["seeds"] for run in runs] == [(0,), (1,)]
    (both,) = part("a", widths=(4,), units_together=100)
    one = [_fig2.widths(run, context()).arrays["inverse_test"] for run in runs]
    np.testing.assert_allclose(
        np.concatenate(one), _fig2.widths(both, context()).arrays["inverse_test"], rtol=1e-10
    )


def test_population_descent_is_the_published_loop():
    """One student in the weights themselves, with the published normalizations."""
    (run,) = part("b", seeds=(0,), taus=(0.3,), population_steps=15, window=15)
    found = _fig2.population(run, context()).arrays["windows"][0, 0, 0]
    generator = torch.Generator().manual_seed(0)
    kwargs = {"generator": generator, "dtype": torch.float64}
    teacher = torch.randn(3, 10, **kwargs)
    teacher = teacher / teacher.norm(dim=1, keepdim=True)
    signs = torch.randn(3, **kwargs).sign() / run["teacher_divisor"]
    for _ in range(2):
        torch.randn(1, 10, **kwargs)  # the training and test inputs that panel (b) does not use
    half = torch.randn(1, 3, 10, **kwargs)[0], torch.randn(1, 3, **kwargs)[0].abs()
    tau, m, d, batch = 0.3, 6, 10, run["batch_size"]
    theta = tau * torch.cat([half[0], half[0]])
    w = tau * torch.cat([half[1], -half[1]])
    step = min(0.25 / tau**2, 25.0)
    losses = []
    for _ in range(15):
        x = torch.randn(1, batch, d, **kwargs)[0]
        x = x / x.norm(dim=1, keepdim=True)
        hidden = (x @ theta.T).clamp(min=0)
        r = hidden @ w / m - (x @ teacher.T).clamp(min=0) @ signs
        losses.append(float(r.square().mean() / 2))
        r = r / batch
        grad_theta = (((hidden > 0) * r[:, None]).T @ x) * w[:, None]
        theta, w = theta - step * d * grad_theta, w - step * hidden.T @ r
    assert found == pytest.approx(np.mean(losses), rel=1e-8)


def test_own_draws_a_scale_differ_and_shared_draws_are_shared():
    change = {"taus": (0.3, 0.3), "population_steps": 4, "window": 2}
    (shared,) = part("b", **change)
    (own,) = part("b", shared_draws=False, **change)
    windows = _fig2.population(shared, context()).arrays["windows"]
    np.testing.assert_allclose(windows[:, 0], windows[:, 1], rtol=1e-9)
    windows = _fig2.population(own, context()).arrays["windows"]
    assert (np.abs(windows[:, 0] / windows[:, 1] - 1) > 1e-3).all()


def test_large_tau_converges_towards_the_tangent_models_minimum_and_not_below():
    (run,) = part("b", taus=(30.0,), population_steps=1500, window=250)
    arrays = _fig2.population(run, context()).arrays
    ratio = arrays["exact"] / arrays["tangent"]
    assert (ratio > 0.999).all()
    assert (ratio < 2).all()


def test_the_hatched_area_is_where_the_loss_still_falls():
    arrays = {
        "windows": np.array([[[1.0, 0.5], [1.0, 0.995], [1.0, 0.98], [2e-5, 1e-5]]]),
        "null": np.array([1.0]),
    }
    assert still_decreasing(arrays).tolist() == [True, False, True, True]


def test_panel_a_shows_the_loss_itself_and_medians():
    losses = {f"{n}_{w}": np.array([0.0, 0.0, 9.0]) for n in ("root", "inverse")
              for w in ("test", "train")}  # fmt: skip
    fig = fig2_figure._widths({4: losses, 8: losses}, {})
    (ax,) = fig.axes
    assert ax.get_ylabel() == "test loss"
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert [line.get_ydata().tolist() for line in lines] == [[0.0, 0.0]] * 2
    assert max(max(line.get_ydata()) for line in ax.lines) == 9.0


def test_wrong_settings_are_found_before_any_work():
    with pytest.raises(UsageError, match="units must be even"):
        fig2.runs(dataclasses.replace(SMOKE, units=7))
    with pytest.raises(UsageError, match="unknown part 'c'"):
        fig2.runs(dataclasses.replace(SMOKE, parts=("c",)))
