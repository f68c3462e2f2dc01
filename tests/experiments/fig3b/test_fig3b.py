"""Figure 3(b): its runs, its classifiers, its table and its figure."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest

from baselines import published
from experiments.command import cli, registry
from experiments.command.registry import experiment
from experiments.fig3b import draw as fig3b_figure
from experiments.networks.classifiers import classifier, stability
from experiments.runs.results import read_result
from experiments.usage import UsageError

fig3b = experiment("fig3b")


def frame(settings, **columns):
    """Results as if the runs had been computed."""
    rng = np.random.default_rng(0)
    rows = []
    for run in fig3b.runs(settings):
        test = rng.uniform(0.2, 0.8)
        measured = {
            "test_accuracy": test,
            "train_accuracy": test + 0.1,
            "stability": 0.875 if "alpha" in run else np.nan,
            "size": 1234.0,
            "cpu_seconds": 2.0,
            "peak_memory_bytes": 3 * 2**20,
            "memory_before_bytes": 2**20,
            "status": "done",
            "data_label": "CIFAR-10, JPEG-75",
            "data_fingerprint": "0123456789abcdef",
        }
        rows.append({**run, **measured})
    return pd.DataFrame(rows).assign(**columns)


def test_there_is_a_run_for_every_method_and_seed():
    runs = fig3b.runs(fig3b.Settings(seeds=(0, 5)))
    assert [(r["method"], r["seed"]) for r in runs] == [
        (method, seed) for seed in (0, 5) for method in fig3b.METHODS
    ]
    alphas = {r["method"]: r["alpha"] for r in runs if "alpha" in r}
    assert alphas == {
        f"{net}{kind}": alpha
        for net in ("vgg11", "resnet18")
        for kind, alpha in (("", 1.0), ("-lazy", 1e7), ("-linear", math.inf))
    }


def test_a_run_holds_its_own_settings_and_no_others():
    before = fig3b.runs(fig3b.Settings())
    after = fig3b.runs(fig3b.Settings(n_filters=7, vgg11_lazy_lr=0.3))
    changed = {a["method"] for a, b in zip(after, before, strict=True) if a != b}
    assert changed == {
        "random-features",
        "vgg11-lazy",
        "vgg11-linear",
    }


def test_the_paper_preset_is_as_printed():
    runs = {r["method"]: r for r in fig3b.runs(registry.preset(fig3b, "paper"))}
    for network, width, gain in (("vgg11", 8, 1.3), ("resnet18", 7, 1.2)):
        for kind, lr in (("", 0.01), ("-lazy", 1.0)):
            run = runs[network + kind]
            assert (run["width"], run["gain"], run["lr"]) == (width, gain, lr)
            assert (run["loss"], run["batch_size"], run["epochs"]) == ("cross_entropy", 8, 70)
            assert (run["dataset"], run["n_train"], run["augment"]) == ("cifar10", None, False)


def test_no_methods_is_wrong_usage():
    with pytest.raises(UsageError, match="need one value at least"):
        fig3b.runs(fig3b.Settings(methods=()))


def test_the_classifiers_take_the_settings_of_their_run():
    runs = {r["method"]: r for r in fig3b.runs(registry.preset(fig3b, "smoke"))}
    net = classifier(runs["vgg11-linear"], (1, 32, 32), device="cpu", dtype="float64")
    run = runs["vgg11-linear"]
    given = net.get_params()
    for key in ("alpha", "width", "gain", "loss", "epochs", "lr", "lr_decay", "momentum"):
        assert given[key] == run[key]
    assert (given["dtype"], given["random_state"], given["model"]) == ("float64", 0, "vgg11")
    patches = classifier(runs["random-features"], (1, 32, 32), device="cpu", dtype="float32")
    assert patches.features.n_filters == runs["random-features"]["n_filters"]
    waves = classifier(runs["scattering"], (1, 32, 32), device="cpu", dtype="float32")
    assert waves.features.get_params()["J"] == runs["scattering"]["scale"]


def test_stability_is_that_of_the_relus():
    run = next(r for r in fig3b.runs(registry.preset(fig3b, "smoke")) if r["method"] == "vgg11")
    X = np.random.default_rng(0).random((8, 1024), dtype=np.float32)
    model = classifier(run, (1, 32, 32), device="cpu", dtype="float32").fit(X, np.arange(8) % 2)
    layers = stability(model, X)
    assert len(layers) == 8  # eight convolutions, a ReLU each; five poolings are left out
    assert set(layers) < set(model.stability_of_activations(X))
    assert stability(object(), X) is None


def test_the_published_rows_are_those_of_the_paper():
    numbers = {(n.key, n.metric): n.value for n in published.load("3(b)")}
    used = fig3b_figure.published(pd.DataFrame({"dataset": ["cifar10"]}))
    assert used["vgg11"]["test_accuracy"].value == numbers["vgg11-standard", "test_accuracy"]
    assert (
        used["resnet18-lazy"]["train_accuracy"].value
        == (numbers["resnet18-linearized", "train_accuracy"])
    )
    assert "vgg11-linear" not in used  # the paper's linearized networks are those at 1e7
    assert all(row for row in used.values())


@pytest.fixture(scope="module")
def results():
    return frame(fig3b.Settings(dataset="cifar10", n_train=5000, n_test=2000))


def test_the_table_shows_mean_and_range_beside_the_paper(results):
    table = fig3b_figure.accuracy_table(results)
    rows = table.numbers.set_index("method")
    assert list(rows.index) == list(fig3b.METHODS)
    own = results[results["method"] == "vgg11-lazy"]["test_accuracy"]
    assert rows.loc["vgg11-lazy", "test_accuracy_mean"] == pytest.approx(own.mean())
    assert rows.loc["vgg11-lazy", "test_accuracy_min"] == own.min()
    assert rows.loc["vgg11-lazy", "published_test_accuracy"] == 0.617
    assert rows.loc["vgg11-lazy", "published_test_accuracy_status"] == "recalled"
    shown = table.shown.set_index("method")
    assert shown.loc["VGG-11, α = 10⁷", "paper: test %"] == "61.7†"
    assert shown.loc["VGG-11, linearized (α = ∞)", "paper: test %"] == "–"
    assert shown.loc["VGG-11, α = 1", "stable %"] == "87.50"
    assert shown.loc["scattering", "stable %"] == "–"
    assert shown.loc["scattering", "peak MB"] == "3 [+2]"
    assert table.title == ("Figure 3(b) on CIFAR-10, JPEG-75 (5,000 training, 2,000 test images)")
    assert any("† Recalled" in note and "not checked against print" in note for note in table.notes)
    assert any("nothing here tests the order of its methods" in note for note in table.notes)
    assert any("0123456789ab" in note for note in table.notes)


def test_digits_stand_alone_and_say_what_they_cannot_show(results):
    digits = results.assign(dataset="digits")
    table = fig3b_figure.accuracy_table(digits)
    assert not any("paper" in column for column in table.shown.columns)
    assert table.numbers["published_test_accuracy"].isna().all()
    assert any("What they cannot: the paper's order" in note for note in table.notes)
    assert not any("recalled" in note.lower() or "50,000" in note for note in table.notes)
    fig = fig3b_figure.accuracies(digits)
    assert not [line for line in fig.axes[0].lines if line.get_marker() == "^"]


def test_one_seed_has_no_error_bar(results):
    count = {}
    for name, some in (("two", results), ("one", results[results["seed"] == 0])):
        (ax,) = fig3b_figure.accuracies(some).axes
        count[name] = len(ax.containers) - 1  # bars are one each
    assert count["two"] == count["one"] + len(fig3b.METHODS)


def test_diverged_runs_are_counted_and_drawn(results, tmp_path):
    lost = results.copy()
    bad = (lost["method"] == "vgg11") & (lost["seed"] == 0) | (lost["method"] == "resnet18")
    lost.loc[bad, ["test_accuracy", "train_accuracy", "stability", "size"]] = np.nan
    lost.loc[bad, "status"] = "diverged"
    table = fig3b_figure.accuracy_table(lost)
    shown = table.shown.set_index("method")
    assert shown.loc["ResNet-18, α = 1", "test %"] == "diverged"
    assert shown.loc["VGG-11, α = 1", "test %"].endswith("(1 of 2 diverged)")
    assert len(fig3b.draw(lost, tmp_path)) == 3


def test_a_figure_of_diverged_networks_alone_can_be_drawn(tmp_path):
    results = frame(fig3b.Settings(methods=("vgg11",)), status="diverged")
    assert len(fig3b.draw(results.drop(columns=["test_accuracy", "size"]), tmp_path)) == 3


def test_the_figure_shows_measured_and_published_values_apart(results):
    fig = fig3b_figure.accuracies(results)
    (ax,) = fig.axes
    bars = [patch.get_width() for patch in ax.patches]
    means = results.groupby("method")["test_accuracy"].mean() * 100
    np.testing.assert_allclose(bars, [means[m] for m in fig3b.METHODS])
    triangles = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "^"]
    paper = fig3b_figure.published(results)
    values = [n.value * 100 for row in paper.values() for n in row.values()]
    np.testing.assert_allclose(sorted(triangles), sorted(values))
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "test, measured",
        "train, measured",
        "test, paper† (CIFAR-10)",
        "train, paper† (CIFAR-10)",
    ]
    assert "not checked against print" in ax.get_xlabel()


def test_the_same_results_give_the_same_files(results, tmp_path, every_format):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first = fig3b.draw(results, tmp_path / "a")
    second = fig3b.draw(results.copy(), tmp_path / "b")
    assert [p.name for p in first] == [f"fig3b.{s}" for s in ("csv", "md", "pdf", "svg", "png")]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()


def test_the_smallest_size_runs_from_the_command_to_the_figure(tmp_path, capsys):
    words = ["fig3b", "--preset", "smoke", "--out", str(tmp_path), "--threads", "1"]
    assert cli.run(words) == 0
    said = capsys.readouterr()
    paths = sorted((tmp_path / "fig3b" / "runs").glob("*.json"))
    documents = [read_result(path) for path in paths]
    assert {d["run"]["method"] for d in documents} == set(fig3b.METHODS)
    for document in documents:
        assert document["status"] == "done"
        assert 0 <= document["metrics"]["test_accuracy"] <= 1
        assert document["metrics"]["size"] > 0
        assert document["data"]["label"] == "digits"
    stable = {d["run"]["method"]: d["metrics"].get("stability") for d in documents}
    assert stable["vgg11-linear"] == stable["resnet18-linear"] == 1
    assert stable["vgg11"] < 1
    assert "Gaussian kernel on pixels" in said.out
    assert str(tmp_path / "fig3b" / "smoke-digits" / "fig3b.png") in said.out
    first = {path: path.read_bytes() for path in paths}
    figure = (tmp_path / "fig3b" / "smoke-digits" / "fig3b.png").read_bytes()
    assert cli.run(words) == 0
    assert "0 runs computed, 9 were finished before" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in paths} == first
    assert (tmp_path / "fig3b" / "smoke-digits" / "fig3b.png").read_bytes() == figure


def test_a_second_computation_ends_with_the_same_numbers(tmp_path):
    words = ["fig3b", "--preset", "smoke", "--threads", "1"]
    words += ["--methods", "vgg11-lazy", "random-features"]
    for folder in ("a", "b"):
        assert cli.run([*words, "--out", str(tmp_path / folder)]) == 0
    names = [p.name for p in sorted((tmp_path / "a/fig3b/runs").glob("*.json"))]
    assert len(names) == 2
    for name in names:
        one, two = (read_result(tmp_path / f / "fig3b/runs" / name) for f in ("a", "b"))
        drop = "fit_seconds"
        assert {k: v for k, v in one["metrics"].items() if k != drop} == {
            k: v for k, v in two["metrics"].items() if k != drop
        }
        assert one["curves"] == two["curves"]


_HANG = 1500  # seconds: against hangs alone


@pytest.mark.slow
@pytest.mark.timeout(3 * _HANG)
def test_a_killed_comparison_goes_on_to_the_same_numbers(start, tmp_path):
    def words(folder):
        return ["fig3b", "--preset", "smoke", "--threads", 1, "--out", tmp_path / folder]

    def numbers(folder):
        found = {}
        for path in (tmp_path / folder / "fig3b" / "runs").glob("*.json"):
            metrics = read_result(path)["metrics"]
            found[path.name] = {k: v for k, v in metrics.items() if k != "fit_seconds"}
        return found

    straight = start(*words("straight"), real=True)
    _, said = straight.communicate(timeout=_HANG)
    assert straight.returncode == 0, said
    killed = start(*words("killed"), real=True)
    while len(numbers("killed")) < 3:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    kept = numbers("killed")
    assert len(kept) >= 3
    again = start(*words("killed"), real=True)
    _, said = again.communicate(timeout=_HANG)
    assert again.returncode == 0, said
    assert f"{len(kept)} were finished before" in said
    assert numbers("killed") == numbers("straight")


def test_exact_rows_stand_after_their_linearized_network():
    methods = ("vgg11-linear", "gaussian", "vgg11-exact")
    settings = fig3b.Settings(methods=methods, seeds=(0,))
    exact = fig3b.runs(settings)[2]
    assert (exact["model"], exact["width"], exact["gain"]) == ("vgg11", 0.125, 1.3)
    table = fig3b_figure.accuracy_table(frame(settings)).shown
    assert table["method"].tolist() == [
        "VGG-11, linearized (α = ∞)",
        "VGG-11, linearized, solved",
        "Gaussian kernel on pixels",
    ]


def test_the_published_way_of_training_is_a_row_on_request(tmp_path, capsys):
    words = ["fig3b", "--preset", "smoke", "--out", str(tmp_path), "--device", "cpu"]
    with pytest.warns(UserWarning, match="rounds away"):
        assert cli.run([*words, "--methods", "vgg11-lazy", "vgg11-direct"]) == 0
    shown = capsys.readouterr().out
    assert "VGG-11, α = 10⁷, by subtraction" in shown
    runs = {r["method"]: r for r in fig3b.runs(fig3b.Settings(methods=("vgg11-direct", "vgg11")))}
    assert runs["vgg11-direct"]["parametrization"] == "direct"
    assert runs["vgg11-direct"]["alpha"] == 1e7
    assert "parametrization" not in runs["vgg11"]
