"""CIFAR-10 in the forms it is found in, and the forms it must not be read in."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import cache
from experiments.cifar10 import CLASSES
from experiments.data import DataError, load_dataset


@pytest.fixture
def load(tmp_path):
    """`load_dataset` of CIFAR-10 with a cache folder of the test's own."""

    def _load(data_dir=None, **more):
        return load_dataset("cifar10", data_dir=data_dir, cache_dir=tmp_path / "cache", **more)

    return _load


def pixels(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)


def write_batches(folder: Path) -> dict[str, np.ndarray]:
    """Small batches as published: Python 2 pickles of dictionaries with str keys."""
    folder.mkdir(parents=True)
    images = {}
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    for k, name in enumerate(names):
        images[name] = pixels(k, 4)
        batch = {
            "batch_label": name,
            "labels": [k, 9, 0, 1],
            "data": images[name].reshape(4, 3072),
            "filenames": ["a.png"] * 4,
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return images


def write_tree(folder: Path, suffix: str = ".jpg", per_class: int = 2, **options) -> None:
    for split in ("train", "test"):
        for k, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for i, image in enumerate(pixels(k + (split == "test"), per_class)):
                path = folder / split / name / f"{i:04}{suffix}"
                Image.fromarray(image.transpose(1, 2, 0)).save(path, **options)


def pack(folder: Path, archive: Path) -> Path:
    kind = {".tar": "w", ".gz": "w:gz", ".xz": "w:xz"}[archive.suffix]
    with tarfile.open(archive, kind) as file:
        for path in sorted(folder.iterdir()):
            file.add(path, arcname=path.name)
    return archive


def test_a_torchvision_folder_is_read(tmp_path, load):
    images = write_batches(tmp_path / "data" / "cifar-10-batches-py")
    for data_dir in (tmp_path / "data", tmp_path / "data" / "cifar-10-batches-py"):
        data = load(data_dir)
        np.testing.assert_array_equal(data.train_images[4:8], images["data_batch_2"])
        np.testing.assert_array_equal(data.test_images, images["test_batch"])
        np.testing.assert_array_equal(data.train_labels[4:8], [1, 9, 0, 1])
        assert data.label == "CIFAR-10"


def test_torchvision_reads_the_same(tmp_path, load, monkeypatch):
    from torchvision.datasets import CIFAR10

    write_batches(tmp_path / "cifar-10-batches-py")
    meta = {"label_names": list(CLASSES)}
    (tmp_path / "cifar-10-batches-py" / "batches.meta").write_bytes(pickle.dumps(meta))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: None)
    theirs = CIFAR10(str(tmp_path), train=True)
    ours = load(tmp_path)
    np.testing.assert_array_equal(ours.train_images.transpose(0, 2, 3, 1), theirs.data)
    np.testing.assert_array_equal(ours.train_labels, theirs.targets)


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".tar.xz"])
def test_an_archive_gives_what_its_tree_gives(tmp_path, load, kind):
    write_tree(tmp_path / "tree")
    archive = pack(tmp_path / "tree", tmp_path / f"cifar{kind}")
    tree, packed = load(tmp_path / "tree"), load(archive)
    assert packed.fingerprint == tree.fingerprint
    assert load(tmp_path).fingerprint == tree.fingerprint  # the folder that holds the archive
    np.testing.assert_array_equal(packed.train_labels, np.repeat(np.arange(10), 2))


def test_an_archive_of_the_torchvision_folder_is_read(tmp_path, load):
    write_batches(tmp_path / "data" / "cifar-10-batches-py")
    archive = pack(tmp_path / "data", tmp_path / "cifar-10-python.tar.gz")
    assert load(archive).fingerprint == load(tmp_path / "data").fingerprint


def test_images_of_a_lossless_tree_are_read_bit_for_bit(tmp_path, load):
    write_tree(tmp_path / "tree", ".png")
    data = load(tmp_path / "tree")
    np.testing.assert_array_equal(data.train_images[6:8], pixels(3, 2))
    assert data.label == "CIFAR-10"
    assert data.class_names[3] == "cat"


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_the_label_says_that_images_were_encoded_again(tmp_path, load, quality):
    write_tree(tmp_path / "tree", per_class=1, quality=quality)
    assert load(tmp_path / "tree").label == f"CIFAR-10, JPEG-{quality}"


def test_the_second_time_comes_from_the_cache(tmp_path, load, monkeypatch):
    write_tree(tmp_path / "tree")
    first = load(tmp_path / "tree")
    monkeypatch.setattr("experiments.cifar10._decode", None)  # not to be called
    second = load(tmp_path / "tree")
    assert second.fingerprint == first.fingerprint
    assert second.label == first.label
    np.testing.assert_array_equal(second.test_images, first.test_images)


@pytest.mark.parametrize("damage", ["truncate", "change", "no about", "pickle"])
def test_a_damaged_cache_is_made_again(tmp_path, load, damage):
    write_tree(tmp_path / "tree")
    first = load(tmp_path / "tree")
    (folder,) = (tmp_path / "cache").iterdir()
    file = folder / "train_images.npy"
    if damage == "truncate":
        os.truncate(file, 1000)
    elif damage == "change":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "no about":
        (folder / "about.json").write_text('{"name"')
    else:
        np.save(file, np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    with pytest.warns(UserWarning, match="is damaged and is made again"):
        second = load(tmp_path / "tree")
    assert second.fingerprint == first.fingerprint
    assert load(tmp_path / "tree").fingerprint == first.fingerprint  # no warning: it is whole


def test_a_changed_source_is_decoded_again(tmp_path, load):
    write_tree(tmp_path / "tree")
    first = load(tmp_path / "tree")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "tree" / "train" / "cat" / "0000.jpg")
    assert load(tmp_path / "tree").fingerprint != first.fingerprint


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, load):
    write_tree(tmp_path / "tree")
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="decoded images are not kept: cannot write"):
        assert len(load(tmp_path / "tree").test_labels) == 20


def test_the_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.default_folder() == tmp_path / "tangent-lazy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.default_folder() == Path.home() / ".cache" / "tangent-lazy"


def test_download_lets_torchvision_fetch(tmp_path, load, monkeypatch):
    asked = []

    class StandIn:
        def __init__(self, root, download):
            asked.append((root, download))
            if not (Path(root) / "cifar-10-batches-py").exists():
                write_batches(Path(root) / "cifar-10-batches-py")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", StandIn)
    data = load(tmp_path / "here", download=True)
    assert asked == [(str(tmp_path / "here"), True)]
    assert len(data.train_labels) == 20
    assert load(download=True).fingerprint == data.fingerprint
    assert asked[1] == (str(tmp_path / "cache" / "downloads"), True)


def test_a_download_that_fails_is_a_clear_error(tmp_path, load, monkeypatch):
    class StandIn:
        def __init__(self, root, download):
            raise RuntimeError("Error downloading")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", StandIn)
    with pytest.raises(DataError, match=r"torchvision could not fetch CIFAR-10 into .*Error down"):
        load(tmp_path, download=True)


def test_without_a_source_the_error_says_what_to_do(load, tmp_path):
    with pytest.raises(DataError, match=r"give --data-dir .* or let torchvision .* --download"):
        load()
    with pytest.raises(DataError, match=r"--data-dir .*missing does not exist: give --data-dir"):
        load(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"there is no CIFAR-10 in --data-dir .*empty: give"):
        load(tmp_path / "empty")


def test_two_archives_in_a_folder_have_to_be_told_apart(tmp_path, load):
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"holds 2 archives \(a.tar, b.tar\): name one"):
        load(tmp_path)


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".tar.xz"])
def test_an_archive_cut_short_is_refused_and_nothing_is_cached(tmp_path, load, kind):
    write_tree(tmp_path / "tree")
    archive = pack(tmp_path / "tree", tmp_path / f"cifar{kind}")
    os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises(DataError, match=r"cannot be read as an archive .* cut short"):
        load(archive)
    assert not (tmp_path / "cache").exists()


def test_a_file_that_is_no_archive_is_refused(tmp_path, load):
    (tmp_path / "cifar.tar.xz").write_bytes(b"not an archive" * 100)
    with pytest.raises(DataError, match=r"cifar.tar.xz cannot be read as an archive"):
        load(tmp_path / "cifar.tar.xz")
    (tmp_path / "cifar.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="is a file, but no archive by its name"):
        load(tmp_path / "cifar.zip")


def entry(name: str, **attributes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "bad",
    [
        entry("../evil.jpg"),
        entry("train/cat/../../../evil.jpg"),
        entry("/etc/evil.jpg"),
        entry("train/cat/link.jpg", type=tarfile.SYMTYPE, linkname="../../../etc/passwd"),
        entry("train/cat/link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("train/cat/hard.jpg", type=tarfile.LNKTYPE, linkname="../../etc/passwd"),
        entry("train/cat/device.jpg", type=tarfile.CHRTYPE),
        entry("train/cat/pipe.jpg", type=tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name} {info.linkname}",
)
def test_an_archive_entry_that_escapes_is_refused(tmp_path, load, bad):
    write_tree(tmp_path / "tree", per_class=1)
    archive = pack(tmp_path / "tree", tmp_path / "cifar.tar")
    with tarfile.open(archive, "a") as file:
        file.addfile(bad)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"the entry '.*' points out of the archive or is not"):
        load(archive)
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent / "evil.jpg").exists()


def test_an_enormous_entry_is_refused(tmp_path, load, monkeypatch):
    write_tree(tmp_path / "tree", per_class=1)
    archive = pack(tmp_path / "tree", tmp_path / "cifar.tar")
    monkeypatch.setattr("experiments.archive._LARGEST", 100)
    with pytest.raises(DataError, match="bytes, too many"):
        load(archive)


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), b"", b"\x80\x02}q", pickle.dumps([1])])
def test_a_batch_that_is_not_one_is_refused_and_runs_nothing(tmp_path, load, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_batches(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_3 is not a batch of CIFAR-10"):
        load(tmp_path)
    assert not (tmp_path / "evil").exists()


def test_a_batch_of_another_shape_is_refused(tmp_path, load):
    write_batches(tmp_path / "cifar-10-batches-py")
    batch = {"data": np.zeros((2, 10), dtype=np.uint8), "labels": [0, 1]}
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(DataError, match="test_batch is not a batch of CIFAR-10: it holds arrays"):
        load(tmp_path)


def test_a_missing_batch_is_named(tmp_path, load):
    write_batches(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match="lacks data_batch_4: fetch it again"):
        load(tmp_path)


def test_a_tree_of_other_classes_sizes_or_files_is_refused(tmp_path, load):
    write_tree(tmp_path / "a", per_class=1)
    (tmp_path / "a" / "train" / "cat").rename(tmp_path / "a" / "train" / "lion")
    with pytest.raises(DataError, match=r"class folders of train are .*lion.*CIFAR-10's are"):
        load(tmp_path / "a")
    write_tree(tmp_path / "b", per_class=1)
    Image.new("RGB", (28, 28)).save(tmp_path / "b" / "train" / "dog" / "0000.jpg")
    with pytest.raises(DataError, match=r"train/dog/0000.jpg is 28x28; CIFAR-10 is 32x32"):
        load(tmp_path / "b")
    write_tree(tmp_path / "c", per_class=1)
    (tmp_path / "c" / "test" / "dog" / "0000.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"test/dog/0000.jpg cannot be read as an image"):
        load(tmp_path / "c")


def test_a_tree_without_test_images_is_refused(tmp_path, load):
    write_tree(tmp_path / "tree", per_class=1)
    (tmp_path / "tree" / "test").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"holds no image test/<class>/<name>.jpg"):
        load(tmp_path / "tree")


@pytest.mark.slow
def test_the_whole_of_cifar10_is_read_from_its_archive(cifar10_dir, load):
    data = load(cifar10_dir)
    assert data.train_images.shape == (50000, 3, 32, 32)
    np.testing.assert_array_equal(np.bincount(data.test_labels), [1000] * 10)
    assert data.label == "CIFAR-10, JPEG-75"
    # Means that are known of the lossless images; JPEG moves them little.
    means = data.train_images.mean(axis=(0, 2, 3)) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=2e-3)


def test_bytes_read_from_memory_and_from_disk_agree(tmp_path):
    from experiments import archive

    write_tree(tmp_path / "tree", per_class=1)
    packed = pack(tmp_path / "tree", tmp_path / "cifar.tar.gz")
    assert dict(archive.files(packed)) == dict(archive.files(tmp_path / "tree"))
    assert all(Image.open(io.BytesIO(c)).size == (32, 32) for _, c in archive.files(packed))
