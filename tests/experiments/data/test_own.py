"""Data sets of the user's own: folders of images of any size, arrays, and Figure 3(b) on them."""

from __future__ import annotations

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments.command import cli
from experiments.data.datasets import DataError, load_dataset
from experiments.runs.results import load_results


def picture(path, value, size=(40, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 60, (*size, 3)) + 40 * (value % 5)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def tree(tmp_path):
    """Two classes, told apart by their brightness, in files of several sizes."""
    root = tmp_path / "pets"
    for i in range(20):
        picture(root / "cat" / f"{i}.png", 5 * i, (40 + i, 60))
        picture(root / "dog" / f"{i}.jpg", 5 * i + 4, (50, 33 + i))
    return root


def test_a_tree_of_any_sizes_is_cut_resized_and_split(tree):
    data = load_dataset(f"folder:{tree}@36")
    assert data.class_names == ("cat", "dog")
    assert data.train_images.shape == (32, 3, 36, 36)
    assert data.train_images.dtype == np.uint8
    assert np.bincount(data.train_labels).tolist() == [16, 16]
    assert np.bincount(data.test_labels).tolist() == [4, 4]
    bright = data.train_images.mean((1, 2, 3)) > 100
    assert (bright == (data.train_labels == 1)).all()
    assert data.label == "pets, 36x36"
    again = load_dataset(f"folder:{tree}@36")
    assert again.fingerprint == data.fingerprint
    assert load_dataset(f"folder:{tree}").image_shape == (3, 32, 32)


def test_an_archive_gives_what_its_folder_gives(tree, tmp_path):
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        for path in sorted(tree.rglob("*.*"), reverse=True):
            tar.add(path, path.relative_to(tmp_path))
    packed, plain = load_dataset(f"folder:{tmp_path / 'pets.tar'}"), load_dataset(f"folder:{tree}")
    assert packed.fingerprint == plain.fingerprint


def test_train_and_test_folders_are_kept_apart(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for i in range(count):
            for kind in ("a", "b"):
                picture(tmp_path / split / kind / f"{i}.png", i)
    data = load_dataset(f"folder:{tmp_path}")
    assert (len(data.train_images), len(data.test_images)) == (6, 4)
    for path in (tmp_path / "test").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="holds no image test/"):
        load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("shape", [(10, 8, 8), (10, 8, 8, 3), (10, 1, 8, 8)])
def test_arrays_of_any_layout_become_images(tmp_path, shape):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    y = np.array(["b", "a"] * 5)
    np.savez(tmp_path / "own.npz", X=x, y=y)
    data = load_dataset(f"npz:{tmp_path / 'own.npz'}")
    assert data.image_shape == ({3: 1}.get(x.ndim, 3 if shape[-1] == 3 else 1), 8, 8)
    assert data.class_names == ("a", "b")
    assert (len(data.train_images), len(data.test_images)) == (8, 2)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=range(10), x_test=x[:2], y_test=[10, 9])
    data = load_dataset(f"npz:{tmp_path / 'own.npz'}")
    assert data.class_names == tuple(map(str, range(11)))
    assert data.test_labels.tolist() == [10, 9]
    images = np.moveaxis(x, -1, 1) if shape[-1] == 3 else x.reshape(10, 1, 8, 8)
    np.testing.assert_array_equal(data.train_images, images)


def bad(folder):
    x, y = np.zeros((4, 8, 8), np.uint8), [0, 1, 0, 1]
    yield "must hold x_train", {"a": x}
    yield "images must be uint8", {"X": x.astype(float), "y": y}
    yield "labels must be integers or words", {"X": x, "y": y[:3]}
    yield "two classes at least", {"X": x, "y": [1, 1, 1, 1]}


@pytest.mark.parametrize("case", range(4))
def test_what_is_wrong_with_arrays_is_said(tmp_path, case):
    words, arrays = list(bad(tmp_path))[case]
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError, match=words):
        load_dataset(f"npz:{tmp_path / 'own.npz'}")


def archive_of(header: str) -> bytes:
    """An .npz whose X has this header, with the checksum that belongs to it."""
    text = header.encode("latin-1")
    labels, packed = io.BytesIO(), io.BytesIO()
    np.save(labels, np.arange(4))
    with zipfile.ZipFile(packed, "w") as file:
        start = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little")
        file.writestr("X.npy", start + text + bytes(36))
        file.writestr("y.npy", labels.getvalue())
    return packed.getvalue()


_HEADERS = [
    "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 3, 3",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999,), }\n",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (100000000000000,), }\n",
    "{'descr': '|O', 'fortran_order': False, 'shape': (4,), }\n",
    "{[]: 1}\n",
    "(" * 5000 + "\n",
]


@pytest.mark.parametrize("header", _HEADERS, ids=range(len(_HEADERS)))
def test_a_hostile_header_of_an_array_is_refused(tmp_path, header):
    (tmp_path / "own.npz").write_bytes(archive_of(header))
    with pytest.raises(
        DataError, match=r"own\.npz cannot be read as an \.npz of arrays"
    ) as refused:
        load_dataset(f"npz:{tmp_path / 'own.npz'}")
    assert len(str(refused.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_flipped_byte_of_an_archive_of_arrays_is_refused_or_harmless(tmp_path, save):
    x = np.random.default_rng(0).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    path = tmp_path / "own.npz"
    save(path, X=x, y=np.arange(4) % 2)
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            data = load_dataset(f"npz:{path}")
        except DataError:
            continue
        assert {len(data.train_images), len(data.test_images)} == {2}


def test_an_archive_of_arrays_larger_than_any_data_set_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, X=np.zeros((400, 8, 8), np.uint8), y=np.arange(400) % 2)
    monkeypatch.setattr("experiments.data.archive.LARGEST_IN_ALL", 20_000)
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match=r"own\.npz holds \d+ bytes, too many"):
        load_dataset(f"npz:{path}")


def test_what_is_not_there_or_no_data_set_is_said(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(f"folder:{tmp_path / 'none'}")
    with pytest.raises(DataError, match="holds no image"):
        load_dataset(f"folder:{tmp_path}")
    (tmp_path / "own.npz").write_text("no arrays")
    with pytest.raises(DataError, match=r"cannot be read as an \.npz"):
        load_dataset(f"npz:{tmp_path / 'own.npz'}")
    with pytest.raises(DataError, match="must be a number"):
        load_dataset(f"folder:{tmp_path}@big")


def test_figure_3b_is_made_for_a_folder_that_was_never_seen(tree, tmp_path, capsys):
    words = ["fig3b", "smoke", "--dataset", f"folder:{tree}", "--out", str(tmp_path / "out")]
    words += ["--n-train", "24", "--n-test", "6", "--methods", "vgg11", "vgg11-lazy", "scattering"]
    assert cli.run([*words, "--device", "cpu"]) == 0
    found = load_results(tmp_path / "out")
    assert set(found["data_label"]) == {"pets, 32x32"}
    assert found.set_index("method")["test_accuracy"]["scattering"] > 0.7
    assert "pets" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out" / "fig3b").iterdir()}
    assert names >= {path.parent.name for path in (tmp_path / "out").rglob("study.json")}
    assert next((tmp_path / "out").rglob("fig3b.png")).stat().st_size > 5_000


def test_a_misspelt_data_set_is_named_with_the_nearest(tmp_path, capsys):
    assert cli.run(["fig3b", "smoke", "--dataset", "cifar", "--out", str(tmp_path)]) == 2
    assert "cifar10" in capsys.readouterr().err
