"""Figure 1 at its smallest size, from settings to files, and its exact references."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.animation import FFMpegWriter

from experiments.command.registry import experiment
from experiments.data.teachers import half_square, linear_descent
from experiments.fig1 import measure as _fig1
from experiments.runs.results import Context, load_results, result_path, write_result
from experiments.usage import UsageError
from tangent.theory.arccosine import relu_tangent_kernel

fig1 = experiment("fig1")

SMOKE = fig1.PRESETS["smoke"]


def context(dtype="float64"):
    return Context(device="cpu", dtype=dtype, load=lambda name: None, log=lambda text: None)


def written(module, settings, folder, dtype="float64"):
    """Run everything and read the results back, as the runner does."""
    for run in module.runs(settings):
        path = result_path(folder, "it", run, fingerprint=None, dtype=dtype)
        outcome = module.compute(run, context(dtype))
        write_result(path, experiment="it", run=run, outcome=outcome, dtype=dtype)
    return load_results(folder)


def test_every_file_of_the_figure_is_written(tmp_path):
    settings = dataclasses.replace(SMOKE, animate=True, path_steps=12)  # a frame a step
    results = written(fig1, settings, tmp_path)
    paths = fig1.draw(results, tmp_path / "drawn")
    names = {path.name for path in paths}
    assert {"fig1ab.gif", "fig1ab.png", "fig1c.png", "fig1c.csv", "fig1c.md"} <= names
    assert all(path.stat().st_size > 0 for path in paths)


def test_an_mp4_is_written_where_there_is_ffmpeg(tmp_path):
    if not FFMpegWriter.isAvailable():
        pytest.skip("needs ffmpeg")
    settings = dataclasses.replace(SMOKE, parts=("ab",), animate=True, animation="mp4")
    paths = fig1.draw(written(fig1, settings, tmp_path), tmp_path / "drawn")
    (movie,) = (path for path in paths if path.suffix == ".mp4")
    assert b"ftyp" in movie.read_bytes()[:16]


def test_an_mp4_without_ffmpeg_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(FFMpegWriter, "isAvailable", classmethod(lambda writer: False))
    with pytest.raises(UsageError, match=r"mp4 needs the program ffmpeg.*take --animation gif"):
        fig1.runs(dataclasses.replace(SMOKE, animate=True, animation="mp4"))
    assert fig1.runs(dataclasses.replace(SMOKE, animate=True))


def test_large_tau_ends_at_the_linearized_networks_own_loss():
    run = next(run for run in fig1.runs(SMOKE) if run["part"] == "c")
    run = run | {"taus": (1000.0,), "steps": 300}
    for dtype in ("float64", "float32"):
        arrays = _fig1.losses(run, context(dtype)).arrays
        np.testing.assert_allclose(arrays["end"][:, 0], arrays["linear_end"], rtol=1e-3)
        np.testing.assert_allclose(arrays["best"][:, 0], arrays["linear_best"], rtol=1e-3)
        assert (np.abs(arrays["linear_interpolant"] / arrays["linear_end"] - 1) > 0.01).any()


def test_a_repetition_is_the_same_in_any_group():
    alone = dataclasses.replace(SMOKE, together=1, parts=("c",))
    pairs = dataclasses.replace(SMOKE, together=2, parts=("c",))
    one = [_fig1.losses(run, context()).arrays["end"] for run in fig1.runs(alone)]
    (both,) = (_fig1.losses(run, context()).arrays["end"] for run in fig1.runs(pairs))
    np.testing.assert_allclose(np.concatenate(one), both, rtol=1e-12)


def test_tau_on_both_layers_is_alpha_with_steps_times_tau_squared():
    """One descent in the weights themselves, as published, ends at the same loss."""
    run = next(run for run in fig1.runs(SMOKE) if run["part"] == "c") | {"seeds": (3,)}
    students, task, _, _ = _fig1.problem(run, context())
    ends = _fig1.losses(run, context()).arrays["end"][0]
    for tau, end in zip(run["taus"], ends, strict=True):
        b, a = tau * students.hidden[0], tau * students.output[0]
        step = min(run["largest_step"], run["step"] / tau**2)
        x, y = task.x[0], task.y[0]
        for _ in range(run["steps"] - 1):
            z = x @ b.T
            r = (z.clamp(min=0) @ a - y) / len(y)
            grad_b = ((z > 0) * r[:, None]).T @ x * a[:, None]
            grad_a = z.clamp(min=0).T @ r
            b, a = b - step * grad_b, a - step * grad_a
        outputs = (task.x_test[0] @ b.T).clamp(min=0) @ a
        assert end == pytest.approx(float(half_square(outputs, task.y_test[0])), rel=1e-6)


def test_linear_descent_is_gradient_descent_and_then_the_interpolant(generator):
    x = torch.randn(8, 20, generator=generator, dtype=torch.float64)
    y = torch.randn(8, generator=generator, dtype=torch.float64)
    kernel, step = x @ x.T, 0.1
    f = torch.zeros_like(y)
    for _ in range(7):
        f = f - step * kernel @ (f - y) / 8
    train, _ = linear_descent(kernel, kernel, y, step, torch.tensor([7.0, torch.inf]).double())
    torch.testing.assert_close(train, torch.stack([f, y]))


def test_the_teacher_is_found_at_small_tau_only():
    settings = dataclasses.replace(SMOKE, parts=("ab",), path_units=20, path_steps=1500)
    (run,) = fig1.runs(settings)
    metrics = _fig1.paths(run | {"step": 0.05}, context()).metrics
    assert metrics["alignment_tau_0.1"] > metrics["alignment_tau_2"]
    assert metrics["relative_displacement_tau_0.1"] > 5 * metrics["relative_displacement_tau_2"]


def test_the_published_codes_initialization_is_on_the_circle():
    (run,) = fig1.runs(dataclasses.replace(SMOKE, parts=("ab",), path_law="circle"))
    arrays = _fig1.paths(run, context()).arrays
    start = arrays["hidden"][:, 0] / arrays["tau"][:, None, None]
    np.testing.assert_allclose(np.linalg.norm(start, axis=-1), 1.0)


def test_the_plateaus_kernel_does_not_depend_on_the_sign_of_the_output_weights(generator):
    b = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    a = torch.randn(4, generator=generator, dtype=torch.float64)
    x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        relu_tangent_kernel(a, b, x, x), relu_tangent_kernel(a.abs(), b, x, x)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": ("d",)}, "unknown part 'd'"),
        ({"seeds": ()}, "--seeds needs one value"),
        ({"units": 5}, "must be even"),
    ],
)
def test_wrong_settings_are_found_before_any_work(change, message):
    with pytest.raises(UsageError, match=message):
        fig1.runs(dataclasses.replace(SMOKE, **change))
