"""The tabular comparison: its runs, its classifiers, its table and its figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import ParameterGrid

from experiments.command import cli
from experiments.command.registry import experiment
from experiments.runs.results import Context
from experiments.tabular.draw import accuracy_table, ranks
from experiments.tabular.methods import KernelRidgeClassifier, method
from experiments.tabular.problems import table
from experiments.usage import UsageError

tabular = experiment("tabular")


def frame(settings, accuracy):
    rows = [
        {
            **run,
            "test_accuracy": accuracy(run["problem"], run["method"]) + 0.01 * run["fold"],
            "fit_seconds": 1.0,
            "cpu_seconds": 2.0,
        }
        for run in tabular.runs(settings)
    ]
    return pd.DataFrame(rows)


def test_there_is_a_run_for_every_problem_method_and_fold():
    settings = tabular.Settings(problems=("iris", "wine"), methods=("svc",), folds=3)
    runs = tabular.runs(settings)
    assert [(r["problem"], r["fold"]) for r in runs] == [
        (problem, fold) for problem in ("iris", "wine") for fold in range(3)
    ]


def test_wrong_settings_are_explained():
    with pytest.raises(UsageError, match="titanic"):
        tabular.runs(tabular.Settings(problems=("titanic",)))
    with pytest.raises(UsageError, match="at least 2"):
        tabular.runs(tabular.Settings(folds=1))


@pytest.mark.parametrize("problem", tabular.PROBLEMS)
def test_problems_are_reproducible_and_bounded(problem):
    X, y = table(problem, 120, 3)
    again, _ = table(problem, 120, 3)
    np.testing.assert_array_equal(X, again)
    assert len(X) == len(y) <= 120
    assert set(y) == set(range(y.max() + 1))


def test_outer_folds_cover_every_row_once():
    context = Context(device="cpu", dtype="float64", load=None, log=print)
    settings = tabular.Settings(
        problems=("iris",), methods=("kernel-ridge",), max_rows=60, folds=3, inner_folds=2
    )
    sizes = [tabular.compute(run, context).metrics["n_test"] for run in tabular.runs(settings)]
    assert sum(sizes) == 60


def test_kernel_ridge_classifier_is_ridge_on_one_hot_targets():
    X, y = table("iris", 60, 0)
    kernel = rbf_kernel(X, gamma=0.5)
    targets = np.eye(3)[y]
    solved = np.linalg.solve(kernel + 0.1 * np.eye(60), targets - targets.mean(0))
    expected = (kernel @ solved + targets.mean(0)).argmax(1)
    ours = KernelRidgeClassifier(alpha=0.1, gamma=0.5).fit(X, y)
    np.testing.assert_array_equal(ours.predict(X), expected)


@pytest.mark.parametrize("name", [m for m in tabular.METHODS if not m.startswith("tangent")])
def test_the_others_are_tuned_by_the_same_inner_folds(name):
    search = method(name, 4, 0, 10)
    assert search.cv.n_splits == 4
    assert len(ParameterGrid(search.param_grid)) >= 4


def test_ranks_share_ties_and_the_table_marks_the_best():
    values = {"svc": 0.8, "kernel-ridge": 0.8, "random-forest": 0.6}
    settings = tabular.Settings(problems=("iris", "wine"), methods=tuple(values), folds=2)
    results = frame(settings, lambda problem, method: values[method])
    assert ranks(results).to_dict() == {"svc": 1.5, "kernel-ridge": 1.5, "random-forest": 3.0}
    shown = accuracy_table(results).shown.set_index("problem")
    assert shown.loc["iris", "SVC, Gaussian kernel"] == "**80.5**"
    assert shown.loc["iris", "random forest"] == "60.5"
    assert shown.loc["first, or tied for it", "kernel ridge, Gaussian"] == "2"


def test_the_mean_without_the_tables_the_defaults_were_settled_on_stands_beside_the_mean():
    names = ("iris", "shells", "hastie")
    settings = tabular.Settings(problems=names, methods=("tangent-kernel", "svc"), folds=2)
    own = {"iris": 0.6, "shells": 0.9, "hastie": 0.9}
    results = frame(settings, lambda p, m: own[p] if m == "tangent-kernel" else 0.7)
    numbers = accuracy_table(results).numbers.set_index("problem")
    without = numbers.loc["mean accuracy without shells and hastie"]
    assert without["tangent-kernel"] == pytest.approx(numbers.loc["iris", "tangent-kernel"])
    assert without["svc"] > without["tangent-kernel"]
    assert numbers.loc["mean rank without shells and hastie", "svc"] == 1
    assert numbers.loc["mean rank", "svc"] > 1
    assert numbers.loc["cpu_seconds"].tolist() == [2.0, 2.0]


def test_smallest_preset_runs_end_to_end(tmp_path):
    assert cli.run(["tabular", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "tabular" / "smoke"
    assert {p.name for p in folder.iterdir()} >= {"tabular.csv", "tabular.md", "tabular.png"}
    assert "tangent kernel (ours)" in (folder / "tabular.md").read_text()
