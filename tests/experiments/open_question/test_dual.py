"""A and B with kernels in blocks: the answers of the table's rows, whatever stops them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from experiments.open_question import dual as module
from experiments.open_question import settings as settings_module
from experiments.open_question.dual import dual
from experiments.open_question.frozen import frozen
from experiments.open_question.rows import Convolution, Dense, Gaussian, Linear, fitted
from experiments.runs.results import Context

RUN = {
    "filters": 6, "channels": 4, "width": 3, "units": 5, "seed": 3, "ridges": (0.3, 0.1),
    "rows": ("A", "B"), "block": 7, "part": "dual", "mirror": True,
}  # fmt: skip


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(60, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, 32) * 0.8 + 0.1 * torch.rand(
        60, 3, 32, 32, generator=generator
    )


@pytest.fixture
def y():
    return torch.randint(3, (60,), generator=torch.Generator().manual_seed(1))


def context(tmp_path, said=None):
    log = (lambda message: None) if said is None else said.append
    return Context("cpu", "float32", lambda name: None, log, tmp_path / "x.ckpt")


def rows_of_the_table(images, y, ridge):
    made = frozen(images, filters=6, channels=4, seed=3)
    views = made.views(images)
    targets = torch.nn.functional.one_hot(y, 3).double()
    parts = [Convolution(views, 4, 3, 3)]
    yield made, fitted([("", parts, [(1.0, 0.25)])], targets, [ridge])
    parts += [Dense(views, which, 5, 3) for which in ("pooled", "scattering")]
    yield made, fitted([("", parts, [(1.0, 0.25, 0.3, 0.3)])], targets, [ridge])


def test_blocks_answer_as_whole_kernels_do(images, y, tmp_path):
    train, labels = images[:20], y[:20]
    outcome = dual({**RUN, "ridges": (0.1,)}, context(tmp_path), train, labels, images[20:], y[20:])
    for row, (made, expected) in zip("AB", rows_of_the_table(train, labels, 0.1), strict=True):
        right = expected.predictor()(made.views(images[20:])).argmax(1) == y[20:]
        assert (outcome.arrays[f"correct {row}"] == right.numpy()).all()
        assert outcome.metrics[f"{row}: left-out accuracy"] == pytest.approx(expected.left_out)
        assert outcome.metrics[f"{row}: residual"] < 1e-9
        assert outcome.metrics[f"{row}: features"] == expected.n_features
    assert not list(tmp_path.iterdir())


GAUSSIANS = {
    "patches, Gaussian": ("pooled",),
    "scattering, Gaussian": ("scattering",),
    "both Gaussians": ("pooled", "scattering"),
}


def test_gaussian_kernels_in_blocks_answer_as_whole_ones_do(images, y, tmp_path):
    train, labels = images[:20], y[:20]
    own = {"rows": tuple(GAUSSIANS), "widths": (0.8, 1.5), "ridges": (0.1,)}
    run = {**RUN, **own}
    outcome = dual(run, context(tmp_path), train, labels, images[20:], y[20:])
    made = frozen(train, filters=6, channels=4, seed=3)
    views = made.views(train)
    targets = torch.nn.functional.one_hot(labels, 3).double()
    width = {"pooled": 0.8, "scattering": 1.5}
    for row, representations in GAUSSIANS.items():
        parts = [Gaussian(Linear(views, which), width[which]) for which in representations]
        expected = fitted([("", parts, [(1.0,) * len(parts)])], targets, [0.1])
        right = expected.predictor()(made.views(images[20:])).argmax(1) == y[20:]
        assert (outcome.arrays[f"correct {row}"] == right.numpy()).all()
        assert outcome.metrics[f"{row}: left-out accuracy"] == pytest.approx(expected.left_out)
        assert outcome.metrics[f"{row}: features"] is None
    assert outcome.metrics["both Gaussians: chosen"] == "width 0.8 and 1.5"


def test_networks_and_gaussian_kernels_are_runs_of_their_own():
    settings = replace(
        settings_module.PRESETS["smoke"], parts=("dual",), dual_rows=("A", "both Gaussians", "B")
    )
    networks, gaussians = settings_module.runs(settings)
    assert (networks["rows"], gaussians["rows"]) == (("A", "B"), ("both Gaussians",))
    apart = replace(settings, dual_ridges=(1.0,), dual_gaussian_ridges=(0.5, 0.2))
    assert [run["ridges"] for run in settings_module.runs(apart)] == [(1.0,), (0.5, 0.2)]
    assert "widths" not in networks
    assert "units" not in gaussians


def test_ridges_are_tried_until_a_smaller_one_is_worse(images, y, tmp_path, monkeypatch):
    tried = []

    def at(kernel, targets, ridge):
        tried.append(ridge)
        accuracy = {3.0: 0.5, 1.0: 0.7, 0.3: 0.6}[ridge]
        return module._Solution(ridge, torch.zeros(20, 3).double(), accuracy, 0.0)

    monkeypatch.setattr(module, "_at", at)
    run = {**RUN, "ridges": (0.1, 0.3, 1.0, 3.0), "rows": ("A",)}
    outcome = dual(run, context(tmp_path), images[:20], y[:20], images[20:], y[20:])
    assert tried == [3.0, 1.0, 0.3]
    assert outcome.metrics["A: ridge"] == 1.0


@pytest.mark.parametrize("name", ["convolution", "pooled", "scattering"])
def test_a_stopped_run_goes_on_with_the_next_block(images, y, tmp_path, monkeypatch, name):
    train, labels, test, y_test = images[:20], y[:20], images[20:], y[20:]
    whole = dual(RUN, context(tmp_path), train, labels, test, y_test)
    kind = module.Convolved if name == "convolution" else module.Branch
    done, block = [], kind.block

    def stopped(self, i, j):
        if self.name == name:
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append((i, j))
        return block(self, i, j)

    monkeypatch.setattr(kind, "block", stopped)
    with pytest.raises(KeyboardInterrupt):
        dual(RUN, context(tmp_path), train, labels, test, y_test)
    again = []
    monkeypatch.setattr(
        kind, "block", lambda self, i, j: (again.append((self.name, i, j)), block(self, i, j))[1]
    )
    after = dual(RUN, context(tmp_path), train, labels, test, y_test)
    assert not {(name, *pair) for pair in done} & set(again)
    for row in "AB":
        assert (after.arrays[f"correct {row}"] == whole.arrays[f"correct {row}"]).all()
        for number in ("test accuracy", "left-out accuracy", "ridge", "residual"):
            assert after.metrics[f"{row}: {number}"] == whole.metrics[f"{row}: {number}"]


def test_a_kernel_that_float32_cannot_factor_is_named(images, y, tmp_path):
    run = {**RUN, "ridges": (1e-12,), "rows": ("A",)}
    twice = torch.cat([images[:20]] * 2)
    with pytest.raises(ArithmeticError, match="take larger --dual-ridges"):
        dual(run, context(tmp_path), twice, torch.cat([y[:20]] * 2), images[20:], y[20:])
