"""scikit-learn's sets by name."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_wine

from experiments.command import cli
from experiments.data.datasets import DataError, load_dataset
from experiments.data.scikit import SETS
from experiments.runs.results import load_results
from experiments.usage import UsageError


@pytest.mark.parametrize(
    ("name", "columns", "classes"), [("iris", 4, 3), ("wine", 13, 3), ("breast_cancer", 30, 2)]
)
def test_a_table_is_one_pixel_with_a_channel_a_column(name, columns, classes):
    data = load_dataset(name)
    assert data.image_shape == (columns, 1, 1)
    assert len(data.class_names) == classes
    shares = [np.bincount(y) for y in (data.train_labels, data.test_labels)]
    np.testing.assert_allclose(shares[1] / sum(shares), 0.2, atol=0.03)
    assert load_dataset(name).fingerprint == data.fingerprint
    seeds = [data.subset(30, 10, seed).arrays() for seed in (0, 0, 1)]
    np.testing.assert_array_equal(seeds[0][0], seeds[1][0])
    assert not np.array_equal(seeds[0][0], seeds[2][0])


def test_the_rows_are_those_of_scikit_learn():
    X, y, X_test, y_test = load_dataset("wine").arrays()
    rows, labels = load_wine(return_X_y=True)
    ours = np.column_stack([np.concatenate([y, y_test]), np.concatenate([X, X_test])])
    theirs = np.column_stack([labels, rows.astype(np.float32)])
    np.testing.assert_array_equal(*(a[np.lexsort(a.T)] for a in (ours, theirs)))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_set_that_is_fetched_works_where_it_is_on_disk(home):
    faces = np.random.default_rng(0).random((400, 4096), dtype=np.float32)
    faces[0, :2] = 0, 1  # scikit-learn stretches the grey values to all of [0, 1]
    joblib.dump(faces, home / "olivetti_py3.pkz", compress=6)
    data = load_dataset("olivetti_faces")
    assert data.image_shape == (1, 64, 64)
    assert (len(data.train_images), len(data.test_images)) == (320, 80)
    expected = np.round(faces * 255).astype(np.uint8).sum(1)
    images = np.concatenate([data.train_images, data.test_images]).reshape(400, -1)
    np.testing.assert_array_equal(np.sort(images.sum(1)), np.sort(expected))


@pytest.mark.parametrize("name", [name for name in SETS if name not in ("lfw_people",)][3:])
def test_a_set_that_is_not_on_disk_is_named_with_the_way_to_it(home, name):
    with pytest.raises(DataError, match=rf"(?s){name}: scikit-learn has not got.*--download"):
        load_dataset(name)


def test_a_set_that_is_none_is_named():
    with pytest.raises(UsageError, match="wine"):
        load_dataset("wines")


def test_figure_3b_of_a_table(tmp_path):
    words = ["fig3b", "own", "--dataset", "wine", "--networks", "mlp:0.1:1", "mlp:0.1:exact"]
    words += ["--methods", "gaussian", "--device", "cpu", "--out", str(tmp_path)]
    assert cli.run(words) == 0
    found = load_results(tmp_path).set_index("method")
    assert (found["status"] == "done").all()
    assert found.loc["mlp-exact", "test_accuracy"] > 0.9
    assert found.loc["gaussian", "test_accuracy"] > 0.9


def test_what_takes_images_says_so_of_a_table(tmp_path, capsys):
    words = [
        "fig3b",
        "own",
        "--dataset",
        "iris",
        "--networks",
        "mlp:0.1:1",
        "--methods",
        "scattering",
    ]
    assert cli.run([*words, "--device", "cpu", "--out", str(tmp_path)]) == 1
    assert "takes images; iris is a table of 4 columns" in capsys.readouterr().err
