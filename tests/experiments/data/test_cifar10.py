"""CIFAR-10 in the forms it is found in, and the forms it must not be read in."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.data import cache
from experiments.data.batches import BatchError, read_batch
from experiments.data.cifar10 import CLASSES
from experiments.data.datasets import DataError, load_dataset


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
    monkeypatch.setattr("experiments.data.cifar10._decode", None)  # not to be called
    second = load(tmp_path / "tree")
    assert second.fingerprint == first.fingerprint
    assert second.label == first.label
    np.testing.assert_array_equal(second.test_images, first.test_images)


@pytest.mark.parametrize(
    "damage", ["truncate", "change", "header", "label", "no about", "nested", "pickle"]
)
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
    elif damage == "header":  # the letters of the shape are read as Python
        file.write_bytes(file.read_bytes().replace(b"(20, 3,", b"(\xff0, 3,"))
    elif damage == "label":
        about = (folder / "about.json").read_text()
        (folder / "about.json").write_text(about.replace("CIFAR-10, JPEG", "CIFAR-10, PNGG"))
    elif damage == "nested":
        (folder / "about.json").write_text("[" * 10**5)
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


def test_what_a_killed_process_left_in_the_cache_is_swept(tmp_path, load):
    import socket
    import subprocess
    import sys

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = tmp_path / "cache" / f".cifar10-1.abc.{socket.gethostname()}.{process.pid}.part"
    left.mkdir(parents=True)
    (left / "train_images.npy").touch()
    write_tree(tmp_path / "tree", per_class=1)
    load(tmp_path / "tree")
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name.startswith("cifar10-")


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
    monkeypatch.setattr("experiments.data.archive._LARGEST", 100)
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


def batch_of(data: bytes, labels: bytes = b"]K\x03a") -> bytes:
    """A pickle of labels and data, given as the steps that make them."""
    return b"\x80\x02}(U\x06labels" + labels + b"U\x04data" + data + b"u."


_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def array_of(kind: bytes, kind_state: bytes, shape: bytes, raw: bytes) -> bytes:
    """The steps of an array, as NumPy writes them."""
    dtype = b"cnumpy\ndtype\nU" + bytes([len(kind)]) + kind + b"K\x00K\x01\x87R" + kind_state
    state = b"(K\x01" + shape + dtype + b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    return _ARRAY + state


_U1 = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
_ONE = b"K\x01M\x00\x0c\x86"  # (1, 3072)


def test_the_steps_written_here_are_those_of_a_batch():
    data, labels = read_batch(batch_of(array_of(b"u1", _U1, _ONE, bytes(3072))))
    assert data.shape == (1, 3072)
    assert labels.tolist() == [3]


@pytest.mark.parametrize("protocol", range(6))
def test_batches_of_every_protocol_are_read(protocol):
    images = pixels(0, 3).reshape(3, 3072)
    batch = {"data": images, "labels": [0, 9, 3], "filenames": ["a.png"] * 3}
    data, labels = read_batch(pickle.dumps(batch, protocol=protocol))
    np.testing.assert_array_equal(data, images)
    assert labels.tolist() == [0, 9, 3]
    assert labels.dtype == np.int64
    both = pickle.dumps({**batch, "labels": np.array([0, 9, 3])}, protocol=protocol)
    assert read_batch(both)[1].tolist() == [0, 9, 3]


# What makes NumPy take bytes for pointers, or memory of any size: each ended a process that
# unpickled it, whatever names were allowed to it.
_HOSTILE = {
    "objects": batch_of(array_of(b"O8", b"", _ONE, bytes(24576))),
    "objects by state": batch_of(
        array_of(b"u1", b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb", _ONE, bytes(8))
    ),
    "fields": batch_of(
        array_of(b"V8", b"(K\x03U\x01|NU\x01a\x85}U\x01aNsK\x08K\x01K\x10tb", _ONE, bytes(8))
    ),
    "subarrays": batch_of(array_of(b"u1", b"(K\x03U\x01|}NNK\x01K\x01K\x00tb", _ONE, bytes(3072))),
    "too few bytes": batch_of(array_of(b"u1", _U1, b"J\xff\xff\xff\x7fM\x00\x0c\x86", b"a")),
    "a negative shape": batch_of(array_of(b"u1", _U1, b"J\xff\xff\xff\xffK\x00\x86", b"")),
    "a far memory": b"\x80\x02Nr\xff\xff\xff\xff0Nr\xff\xff\xff\x7f.",
    "many bytes": b"\x80\x05\x96\x00\x00\x00\x80\x00\x00\x00\x00.",
    "labels without end": batch_of(
        array_of(b"u1", _U1, _ONE, bytes(3072)),
        b"]" + b"".join(b"](h%ch%ce" % (0, 0) for _ in "ab"),
    ),
    "labels that are lists": batch_of(array_of(b"u1", _U1, _ONE, bytes(3072)), b"]]q\x00K\x01aa"),
    "a reduction of ndarray": b"\x80\x02cnumpy\nndarray\n(K\x01\x85tR.",
    "an extension": b"\x80\x02\x82\x01.",
    "a new object": b"\x80\x02cnumpy\nndarray\nK\x01\x85\x81.",
    "a list of itself": b"\x80\x02]q\x00h\x00a.",
    "steps without end": b"\x80\x02" + b"]" * 1001 + b".",
}


# What is refused before NumPy sees it; of the others, that they are refused is enough.
_REASONS = {
    "objects": "it has an array of 'O8'; a batch has u1 or i8",
    "fields": "it has an array of 'V8'; a batch has u1 or i8",
    "subarrays": "it has an array of other than plain numbers",
    "too few bytes": "it has an array whose bytes do not fit its shape",
    "a negative shape": "it has an array of other than plain numbers",
    "a reduction of ndarray": "it asks for 'numpy ndarray', which no batch needs",
    "a new object": "it has the step NEWOBJ, which no batch needs",
    "steps without end": "it has more than 1000 steps",
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_a_hostile_batch_is_refused(name, monkeypatch):
    if name == "steps without end":  # a million of them take ten seconds
        monkeypatch.setattr("experiments.data.batches._MOST_STEPS", 1000)
    with pytest.raises(BatchError) as refused:
        read_batch(_HOSTILE[name])
    assert len(str(refused.value)) < 300
    assert str(refused.value).startswith(_REASONS.get(name, ""))


def test_every_flipped_bit_of_a_batch_is_refused_or_harmless():
    content = pickle.dumps({"labels": [1, 2], "data": pixels(0, 2).reshape(2, 3072)}, protocol=2)
    rng = np.random.default_rng(0)
    # The program around the pixels; the pixels themselves are any bytes.
    for place in (*range(200), *range(len(content) - 20, len(content))):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(BatchError):
            data, labels = read_batch(bytes(damaged))
            assert data.shape == (len(labels), 3072)
            assert data.dtype == np.uint8


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


_EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 32 32
(MARK) (w) file closefile
showpage
%%EOF
"""


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_a_file_that_is_no_image_by_its_content_starts_no_program(
    tmp_path, load, monkeypatch, suffix
):
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")  # as where Ghostscript is installed
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *words, **more: started.append(words))
    write_tree(tmp_path / "a", per_class=1)
    mark = tmp_path / "mark"
    path = tmp_path / "a" / "train" / "cat" / f"0001{suffix}"
    path.write_bytes(_EPS.replace(b"MARK", str(mark).encode()))
    with pytest.raises(DataError, match=rf"cat/0001{suffix} cannot be read as an image, JPEG, PNG"):
        load(tmp_path / "a")
    assert not started
    assert not mark.exists()


def png(size: tuple[int, int], depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG file by hand: its header, and pixels if given."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + check

    head = size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0])
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def of_mode(mode: str, value: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (32, 32), value).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    return buffer.getvalue()


def frames() -> bytes:
    buffer = io.BytesIO()
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    images[0].save(buffer, "PNG", save_all=True, append_images=images[1:])
    return buffer.getvalue()


def transparent_palette() -> bytes:
    buffer = io.BytesIO()
    image = Image.new("P", (32, 32), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(buffer, "PNG", transparency=0)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png((60000, 60000)), "cannot be read as an image.*decompression bomb"),
        (png((12000, 12000)), "is 12000x12000; CIFAR-10 is 32x32"),
        (png((32, 32), 16, 2, bytes(32 * (1 + 32 * 6))), "has 16 bits a channel; one image of RGB"),
        (png((32, 32), 16, 0, bytes(32 * (1 + 32 * 2))), "has (16 bits a channel|I;16); one image"),
        (of_mode("RGBA", (10, 20, 30, 254)), "is transparent in places"),
        (of_mode("LA", (10, 0)), "is transparent in places"),
        (transparent_palette(), "is transparent in places"),
        (frames(), "has 2 frames; one image of RGB or grey"),
        (of_mode("CMYK", (1, 2, 3, 4)), "cannot be read as an image, JPEG, PNG"),
        (of_mode("RGB", "red")[:60], "cannot be read as an image"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_images_whose_colours_are_not_clear_are_refused(tmp_path, load, content, reason):
    write_tree(tmp_path / "a", per_class=1)
    (tmp_path / "a" / "train" / "dog" / "0001.png").write_bytes(content)
    with pytest.raises(DataError, match=f"dog/0001.png ({reason})"):
        load(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (of_mode("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        (of_mode("LA", (10, 255)), (10, 10, 10)),
        (of_mode("L", 7), (7, 7, 7)),
        (of_mode("1", 1), (255, 255, 255)),
    ],
)
def test_images_whose_colours_are_clear_are_read(tmp_path, load, content, colour):
    write_tree(tmp_path / "a", ".png", per_class=1)
    (tmp_path / "a" / "train" / "dog" / "0000.png").write_bytes(content)
    data = load(tmp_path / "a")
    assert (data.train_images[5] == np.array(colour)[:, None, None]).all()


def test_links_that_lead_nowhere_and_pipes_are_passed_over(tmp_path, load):
    write_tree(tmp_path / "a", per_class=1)
    before = load(tmp_path / "a").fingerprint
    folder = tmp_path / "a" / "train" / "dog"
    (folder / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    os.mkfifo(folder / "pipe.jpg")
    assert load(tmp_path / "a").fingerprint == before
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"link does not exist"):
        load(tmp_path / "link")


def test_more_than_any_data_set_has_is_refused(tmp_path, load, monkeypatch):
    write_tree(tmp_path / "tree", per_class=1)
    monkeypatch.setattr("experiments.data.archive.LARGEST_IN_ALL", 5000)
    for source in (tmp_path / "tree", pack(tmp_path / "tree", tmp_path / "cifar.tar.xz")):
        with pytest.raises(DataError, match="holds more than 5000 bytes, too many"):
            load(source)


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
    from experiments.data import archive

    write_tree(tmp_path / "tree", per_class=1)
    packed = pack(tmp_path / "tree", tmp_path / "cifar.tar.gz")
    assert dict(archive.files(packed)) == dict(archive.files(tmp_path / "tree"))
    assert all(Image.open(io.BytesIO(c)).size == (32, 32) for _, c in archive.files(packed))
