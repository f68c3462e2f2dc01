"""The open question: its runs, what they fit, and how it is shown."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from baselines.gaussian import gaussian_kernel
from baselines.patches import patch_features
from experiments.command import cli
from experiments.command.registry import experiment
from experiments.open_question import rows as rows_of
from experiments.open_question import steps as steps_module
from experiments.open_question.frozen import Views, frozen
from experiments.open_question.paired import paired_difference
from experiments.open_question.primal import _accumulate, primal
from experiments.open_question.rows import (
    Convolution,
    Dense,
    Gaussian,
    InfiniteConvolution,
    Linear,
    fitted,
)
from experiments.open_question.steps import steps_table
from experiments.runs.results import Context, load_results, read_arrays
from experiments.usage import UsageError
from tangent import tangent_kernel
from tangent.nets import designed_cnn
from tangent.solve.normal_equations import NormalEquations

open_question = experiment("open-question")

SMOKE = open_question.PRESETS["smoke"]


@pytest.fixture
def images(generator):
    coarse = torch.rand(24, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, 32) * 0.8 + 0.1 * torch.rand(
        24, 3, 32, 32, generator=generator
    )


@pytest.fixture
def y(generator):
    return torch.randint(3, (24,), generator=generator)


@pytest.fixture
def made(images):
    return frozen(images[:16], filters=6, channels=5, seed=3)


def context(tmp_path):
    return Context("cpu", "float32", lambda name: None, lambda message: None, tmp_path / "x.ckpt")


def test_the_smoke_preset_measures_every_part_and_draws(tmp_path, capsys):
    code = cli.run(["open-question", "--preset", "smoke", "--out", str(tmp_path)])
    assert code == 0
    results = load_results(tmp_path)
    parts = results["part"].value_counts()
    expected = {"table": 1, "roto-translation": 1, "pixels": 3, "waterfall": 7, "trained": 1}
    assert parts.to_dict() == {**expected, "primal": 1, "dual": 1, "infinite": 1}
    table = results[results["part"] == "table"].iloc[0]
    for row in ("A", "B", "patches, Gaussian", "both Gaussians"):
        assert 0.3 < table[f"{row}: test accuracy"] <= 1
        assert table[f"{row}: condition number"] > 1
        arrays = read_arrays(Path(table["path"]))
        for kind, number in (("correct", "test"), ("left out", "left-out")):
            expected = table[f"{row}: {number} accuracy"]
            assert arrays[f"{kind} {row}"].mean() == pytest.approx(expected)
    (folder,) = (tmp_path / "open-question").glob("smoke-*")
    for stem in ("accuracy", "steps"):
        for kind in ("csv", "md", "png"):
            assert (folder / f"{stem}.{kind}").exists(), (stem, kind)
    steps = pd.read_csv(folder / "steps.csv").set_index("step")
    assert np.isnan(steps.loc["A infinitely wide", "features"])
    assert 0.3 < steps.loc["A infinitely wide", "test_accuracy"] <= 1
    assert "A: linearized convolution" in capsys.readouterr().out


def test_candidates_of_channels_grow_with_the_images():
    settings = dataclasses.replace(SMOKE, n_train=(500, 5_000), channels=(32, 64, 96))
    tables = [r for r in open_question.runs(settings) if r["part"] == "table"]
    assert [r["channels"] for r in tables] == [(32, 64), (64, 96)]


def test_photographs_are_mirrored_and_digits_are_not():
    for settings in open_question.PRESETS.values():
        runs = [r for r in open_question.runs(settings) if r["part"] != "pixels"]
        assert {r["mirror"] for r in runs} == {settings.dataset == "cifar10"}


@pytest.mark.parametrize("name", open_question.PRESETS)
def test_runs_of_a_preset_differ_and_never_take_the_draw_of_the_design(name):
    runs = open_question.runs(open_question.PRESETS[name])
    assert len({repr(sorted(r.items())) for r in runs}) == len(runs)
    assert all(r["seed"] != 0 for r in runs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": ("tabel",)}, "table"),
        ({"levers": ("whiten",)}, "whitened"),
        ({"seeds": ()}, "--seeds needs one value"),
        ({"channels": ()}, "--channels needs one value"),
    ],
)
def test_wrong_settings_are_usage_errors(change, message):
    with pytest.raises(UsageError, match=message):
        open_question.runs(dataclasses.replace(SMOKE, **change))


def test_the_table_fits_the_kernel_of_the_network_itself(images):
    seeded = torch.Generator().manual_seed(3)
    model = designed_cnn(images, 1, filters=6, channels=5, width=4, generator=seeded).double()
    made = frozen(images, filters=6, channels=5, seed=3, scattering=False)
    # The same weights on the same maps: the shares are the network's, each of its own scale.
    model.frozen = _Frozen(made)
    row = Convolution(made.views(images), 5, 4, seed=0)
    for ours, theirs in zip((row.conv, row.head), model.layers()[::2], strict=True):
        theirs.load_state_dict(ours.state_dict())
    kernel = tangent_kernel(model.float(), images, outputs=0)
    torch.testing.assert_close(sum(row.kernels()), kernel, rtol=1e-4, atol=1e-3)


class _Frozen(torch.nn.Module):
    """The table's frozen layers as a module."""

    def __init__(self, made):
        super().__init__()
        self.whitening = made.whitening

    def forward(self, x):
        return self.whitening(x)


def test_blocks_of_hidden_channels_are_the_features_of_all(images, made, generator, monkeypatch):
    train, new = made.views(images[:16]), made.views(images[16:])
    dual = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    row = Convolution(train, 4, 5, 0)
    whole = [*row.kernels(), *row.products(dual)(new)]
    assert len(list(row.blocks())) == 1
    monkeypatch.setattr(rows_of, "_BLOCK_BYTES", 16 * 4 * 2 * row.n_features // 5)
    blocks = list(row.blocks())
    assert len(blocks) == 3
    assert sum(f.shape[1] for block in blocks for f in block) == row.n_features
    for share, all_at_once in zip(zip(*blocks, strict=True), row.features(train), strict=True):
        torch.testing.assert_close(torch.cat(share, dim=1), all_at_once)
    for some, expected in zip([*row.kernels(), *row.products(dual)(new)], whole, strict=True):
        torch.testing.assert_close(
            some, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )


def test_products_of_a_row_are_its_kernel_times_the_coefficients(images, made, generator):
    train, new = made.views(images[:16]), made.views(images[16:])
    dual = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    rows = [
        Convolution(train, 4, 3, 0),
        InfiniteConvolution(train),
        Linear(train, "pooled"),
        Gaussian(Linear(train, "scattering"), 1.0),
        Dense(train, "pooled", 5, 0),
    ]
    for row in rows:
        kernels, products = row.kernels(), row.products(dual)(train)
        for kernel, product in zip(kernels, products, strict=True):
            expected = kernel.double() @ dual
            size = float(expected.abs().max())
            torch.testing.assert_close(product.double(), expected, rtol=1e-4, atol=1e-4 * size)
        assert [p.shape for p in row.products(dual)(new)] == [(8, 3)] * len(kernels)


def test_the_rows_on_patches_read_what_the_baseline_reads(images):
    """Features, their average over mirror images, and the kernel of `baselines`."""
    made = frozen(images, filters=6, channels=5, seed=3, scattering=False)
    linear = Linear(made.views(images), "pooled")
    row = Gaussian(linear, 1.3)
    sums = torch.empty(2, 24, 2, 9, 6)
    for view, out in zip((images, images.flip(3)), sums, strict=True):
        patch_features(view, made.filters, bias=0.5, grid=(3, 3), out=out)
    rows = sums.mean(0).transpose(2, 3).flatten(1)
    rows = (rows - rows.mean(0)) / rows.std(0)
    torch.testing.assert_close(linear.rows, rows, rtol=1e-3, atol=1e-3)
    expected = gaussian_kernel(rows, rows, 1 / (2 * 1.3**2 * rows.shape[1]))
    torch.testing.assert_close(row.kernels()[0], expected, rtol=1e-3, atol=1e-4)


def test_leaving_one_out_chooses_the_candidate(images, made, y):
    views = made.views(images)
    nonsense = Views(views.maps, torch.randn(2, 24, 7), views.scattering)
    clear = Views(
        views.maps, torch.nn.functional.one_hot(y, 3).float().repeat(2, 1, 1), views.scattering
    )
    targets = torch.nn.functional.one_hot(y, 3).double()
    candidates = [
        (name, [Linear(v, "pooled")], [(1.0,)])
        for name, v in (("nonsense", nonsense), ("clear", clear))
    ]
    row = fitted(candidates, targets)
    assert row.chosen == "clear"
    assert row.left_out == 1.0


def test_the_normal_equations_predict_as_the_dual_does(images, y, tmp_path):
    run = {
        "filters": 6,
        "channels": 4,
        "width": 2,
        "seed": 3,
        "ridges": (0.1,),
        "part": "primal",
        "mirror": True,
    }
    train, labels = images[:20], y[:20]
    outcome = primal(run, context(tmp_path), train, labels, images[20:], y[20:])
    made = frozen(train, filters=6, channels=4, scattering=False, seed=3)
    part = Convolution(made.views(train), 4, 2, 3)
    targets = torch.nn.functional.one_hot(labels, 3).double()
    row = fitted([("", [part], [(1.0, 0.25)])], targets, [0.1])
    right = row.predictor()(made.views(images[20:])).argmax(1) == y[20:]
    assert (outcome.arrays["correct A"] == right.numpy()).all()
    assert outcome.metrics["A: left-out accuracy"] == pytest.approx(row.left_out)
    assert outcome.metrics["normal_residual"] < 1e-6
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["state.json", "moments-20.npy"])
def test_damaged_moments_are_named_and_accumulated_again(images, y, tmp_path, name):
    features = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))

    class Features:
        def blocks(self, y, start=0):
            return [(features[start:], y[start:])] if start < 20 else []

    said = []
    now = dataclasses.replace(context(tmp_path), log=said.append)
    targets = torch.ones(20, 2)
    moments = functools.partial(NormalEquations, tmp_path, 5, 2, "it")
    _accumulate(tmp_path, moments, Features(), targets, now)
    before = moments().moments.clone()
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-3])
    _accumulate(tmp_path, moments, Features(), targets, now)
    assert torch.equal(moments().moments, before)
    assert any(name in line and "accumulated again" in line for line in said)


def test_an_interval_has_the_images_and_the_draws():
    first, second = np.array([1, 1, 0, 1] * 25, bool), np.array([1, 0, 0, 1] * 25, bool)
    mean, half = paired_difference([first], [second])
    assert mean == pytest.approx(0.25)
    assert half == pytest.approx(1.96 * (0.25 * 0.75 / 99) ** 0.5)
    mean, wider = paired_difference([first, first], [second, first])
    assert mean == pytest.approx(0.125)
    images = 0.25 * 0.75 / 99 / 2
    assert wider == pytest.approx(1.96 * (images + 0.03125 / 2) ** 0.5)


def test_steps_stand_in_the_order_in_which_they_are_taken():
    rows = [
        {"part": part, "lever": lever, "width": width, "n_train": 100, "n_test": 50,
         "test_accuracy": 0.5, "left_out_accuracy": 0.5, "features": 10.0,
         "condition_number": 3.0, "total_cpu_seconds": 1.0, "data_label": "digits"}
        for part, lever, width in (
            ("waterfall", "mirrored", 256), ("waterfall", "branches", 64),
            ("pixels", "vgg11", None), ("waterfall", "mirrored", 64), ("trained", None, 64),
        )
    ]  # fmt: skip
    steps = list(steps_table(pd.DataFrame(rows)).numbers["step"])
    assert steps[0].startswith("VGG-11")
    assert [s.rpartition(": ")[2] for s in steps[1:4:2]] == ["A", "B"]
    assert steps[2] == "A with width 256"
    assert steps[4] == "A trained at alpha = 1"


def test_a_row_alone_has_no_table_of_differences(tmp_path):
    words = ["--preset", "smoke", "--parts", "primal", "--out", str(tmp_path)]
    assert cli.run(["open-question", *words]) == 0
    assert list(tmp_path.rglob("accuracy.md"))
    assert not list(tmp_path.rglob("differences.*"))


def test_beside_a_kernel_without_width_a_is_a():
    row = {"n_train": 100, "n_test": 50, "test_accuracy": 0.5, "left_out_accuracy": 0.5,
           "condition_number": 3.0, "total_cpu_seconds": 1.0, "data_label": "digits"}  # fmt: skip
    rows = [
        {**row, "part": "waterfall", "lever": "mirrored", "width": 64, "features": 10.0},
        {**row, "part": "infinite", "lever": None, "width": None, "features": None},
    ]
    steps = list(steps_table(pd.DataFrame(rows)).numbers["step"])
    assert steps == ["mirror images averaged: A", "A infinitely wide"]


def test_every_step_shows_its_gain_over_the_one_it_builds_on(tmp_path, monkeypatch):
    right = {
        "vgg11": [1, 0, 0, 0] * 10,
        "mirrored": [1, 1, 0, 0] * 10,
        "branches": [1, 1, 1, 0] * 10,
        "trained": [0, 1, 1, 1] * 10,
    }
    monkeypatch.setattr(
        steps_module, "read_arrays", lambda path: {"correct": np.array(right[path.name], bool)}
    )
    rows = [
        {"part": part, "lever": lever, "width": width, "n_train": 100, "n_test": 40, "seed": 1,
         "test_accuracy": float(np.mean(right[lever or part])), "left_out_accuracy": 0.5,
         "features": 10.0, "condition_number": 3.0, "total_cpu_seconds": 1.0,
         "data_label": "digits", "path": str(tmp_path / (lever or part))}
        for part, lever, width in (
            ("waterfall", "mirrored", 64), ("waterfall", "branches", 64),
            ("pixels", "vgg11", None), ("trained", None, 64),
        )
    ]  # fmt: skip
    gains = steps_table(pd.DataFrame(rows)).numbers
    assert np.isnan(gains["gain"][0])
    assert list(gains["gain"][1:]) == pytest.approx([0.25, 0.25, 0.25])
    assert gains["gain ±"][3] > gains["gain ±"][2] == pytest.approx(gains["gain ±"][1])
    elsewhere = pd.DataFrame(rows).assign(seed=[1, 2, 3, 4])
    assert steps_table(elsewhere).numbers["gain"].isna().all()
