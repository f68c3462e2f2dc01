from __future__ import annotations

import errno
import json
import shutil

import numpy as np
import pytest
import torch

from tangent import mlp
from tangent.kernel.matrix import tangent_kernel
from tangent.kernel.stored import stored_tangent_kernel
from tests.tangent.networks import example


@pytest.fixture
def case():
    return example("stride, groups and dilation", 7, seed=3)


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace", 0])
@pytest.mark.parametrize("rectangle", [False, True])
def test_the_file_holds_the_kernel(tmp_path, case, outputs, rectangle):
    model, x = case
    x2 = x[2:] if rectangle else None
    stored = stored_tangent_kernel(tmp_path, model, x, x2, outputs=outputs, batch_size=3)
    expected = tangent_kernel(model, x, x2, outputs=outputs)
    assert stored.shape == tuple(expected.shape)
    torch.testing.assert_close(torch.from_numpy(np.array(stored)), expected)
    plain = np.load(tmp_path / "kernel.npy", allow_pickle=False)
    assert np.array_equal(plain, stored)


class Two(torch.nn.Module):
    """Two outputs of sequences."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x):
        h = self.layer(x).tanh()
        return {"last": h[:, -1], "mean": h.mean(1)}


def test_the_output_that_counts_and_inputs_as_rows(tmp_path):
    torch.manual_seed(0)
    model, x = Two().double(), torch.randn(5, 4, 3, dtype=torch.float64)
    options = {"output": "last", "input_shape": (4, 3)}
    stored = stored_tangent_kernel(tmp_path, model, x.flatten(1), x[:2].flatten(1), **options)
    expected = tangent_kernel(model, x, x[:2], output="last")
    torch.testing.assert_close(torch.from_numpy(np.array(stored)), expected)
    for output in ("mean", lambda found: found["last"]):
        with pytest.raises(ValueError, match="holds a kernel with other output"):
            stored_tangent_kernel(tmp_path, model, x, x[:2], output=output)
    with pytest.raises(ValueError, match=r"input_shape \(4, 4\) has 16 values but an input of x1"):
        stored_tangent_kernel(tmp_path, model, x.flatten(1), input_shape=(4, 4), output="last")


class Killed(Exception):
    pass


def kill_after(blocks: int):
    calls = []

    def progress(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) > blocks:
            raise Killed

    return progress


def test_a_killed_run_resumes_and_ends_with_the_same_bits(tmp_path, case):
    model, x = case
    whole = stored_tangent_kernel(tmp_path / "a", model, x, batch_size=2)
    with pytest.raises(Killed):
        stored_tangent_kernel(tmp_path / "b", model, x, batch_size=2, progress=kill_after(4))
    finished = len((tmp_path / "b" / "journal-0.jsonl").read_text().split())
    assert finished > 0
    seen = []
    resumed = stored_tangent_kernel(
        tmp_path / "b", model, x, progress=lambda done, total: seen.append(done)
    )
    assert seen[0] > 0  # the finished blocks were not computed again
    assert len(seen) < 11
    assert np.array_equal(resumed, whole)


def test_a_damaged_block_and_a_line_cut_short_are_computed_again(tmp_path, case):
    model, x = case
    whole = np.array(stored_tangent_kernel(tmp_path, model, x, batch_size=3))
    array = np.load(tmp_path / "kernel.npy", mmap_mode="r+")
    array[0, 0, 0, 0] += 1
    array.flush()
    del array
    journal = tmp_path / "journal-0.jsonl"
    journal.write_text(journal.read_text()[:-30])
    again = stored_tangent_kernel(tmp_path, model, x)
    assert np.array_equal(again, whole)


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace"])
def test_every_flipped_bit_of_the_kernel_is_computed_again(tmp_path, case, outputs):
    model, x = case
    whole = np.array(stored_tangent_kernel(tmp_path, model, x, outputs=outputs, batch_size=3))
    content = (tmp_path / "kernel.npy").read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 15):  # the header, both sides of the diagonal
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "kernel.npy").write_bytes(damaged)
        again = np.array(stored_tangent_kernel(tmp_path, model, x, outputs=outputs))
        assert np.array_equal(again, whole)
        assert (tmp_path / "kernel.npy").read_bytes() == content


@pytest.mark.parametrize("row", [0, 6])
def test_an_entry_changed_on_one_side_of_the_diagonal_is_computed_again(tmp_path, case, row):
    model, x = case
    whole = np.array(stored_tangent_kernel(tmp_path, model, x, batch_size=3))
    array = np.load(tmp_path / "kernel.npy", mmap_mode="r+")
    array[row, 0, 6 - row, 0] += 5
    array.flush()
    del array
    assert np.array_equal(stored_tangent_kernel(tmp_path, model, x), whole)


@pytest.mark.parametrize("place", [0, 1, 7, 9, 25, 40, 60, 100])
def test_a_flipped_header_is_written_again(tmp_path, case, place):
    model, x = case
    whole = np.array(stored_tangent_kernel(tmp_path, model, x, batch_size=3))
    with (tmp_path / "kernel.npy").open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    assert np.array_equal(stored_tangent_kernel(tmp_path, model, x), whole)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_kernel_cut_short_is_completed(tmp_path, case, keep):
    model, x = case
    whole = np.array(stored_tangent_kernel(tmp_path, model, x, batch_size=3))
    path = tmp_path / "kernel.npy"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert np.array_equal(stored_tangent_kernel(tmp_path, model, x), whole)
    path.unlink()
    assert np.array_equal(stored_tangent_kernel(tmp_path, model, x), whole)


def changed_plan(settings):
    settings["plan"]["layers"][0]["extra"] = 1


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings["plan"].update(working=settings["plan"]["working"] + 1),
        lambda settings: settings["plan"]["layers"][0].update(name="other"),
        lambda settings: settings["plan"].update(groups=7),
        lambda settings: settings.update(batch_size=2),
        lambda settings: settings.update(shape=[7, 3, 7, 4]),
        lambda settings: settings.pop("sha256"),
        changed_plan,
    ],
)
def test_changed_settings_are_noticed(tmp_path, case, change):
    model, x = case
    with pytest.raises(Killed):
        stored_tangent_kernel(tmp_path, model, x, batch_size=3, progress=kill_after(2))
    path = tmp_path / "settings.json"
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=r"settings\.json was changed or cut short since"):
        stored_tangent_kernel(tmp_path, model, x)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 10**5, '{"outputs": "full"'])
def test_settings_that_are_none_are_named(tmp_path, case, text):
    model, x = case
    stored_tangent_kernel(tmp_path, model, x, batch_size=3)
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=r"settings\.json was changed or cut short since"):
        stored_tangent_kernel(tmp_path, model, x)


def test_a_journal_of_nonsense_counts_for_nothing(tmp_path, case):
    model, x = case
    whole = np.array(stored_tangent_kernel(tmp_path, model, x, batch_size=3))
    lines = [b"[" * 10**5, b"\xff\xfe", b"null", b'{"block": ["0:3,0:3"], "sha256": 1}', b"7"]
    (tmp_path / "journal-0.jsonl").write_bytes(b"\n".join(lines))
    assert np.array_equal(stored_tangent_kernel(tmp_path, model, x), whole)


def test_the_disk_is_allocated_before_anything_is_computed(tmp_path):
    model, x = example("stride, groups and dilation", 64, seed=3)  # eight pages, written one by one
    blocks = []

    def look(done, total):
        blocks.append((tmp_path / "kernel.npy").stat().st_blocks * 512)

    kernel = stored_tangent_kernel(tmp_path, model, x, outputs="trace", batch_size=8, progress=look)
    assert blocks[0] >= kernel.nbytes
    assert len(set(blocks)) == 1


def test_a_disk_that_fills_up_is_a_clear_error(tmp_path, case, monkeypatch):
    def full(handle, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    model, x = case
    monkeypatch.setattr("tangent.machine.storage.os.posix_fallocate", full)
    with pytest.raises(
        OSError, match=r"kernel\.npy takes \d+ bytes and \d+ are free; take another"
    ):
        stored_tangent_kernel(tmp_path, model, x)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [AttributeError(), OSError(errno.EOPNOTSUPP, "not here")])
def test_a_system_without_allocation_writes_zeros(tmp_path, case, monkeypatch, missing):
    def refuse(*arguments):
        raise missing

    model, x = case
    monkeypatch.setattr("tangent.machine.storage.os.posix_fallocate", refuse)
    stored = stored_tangent_kernel(tmp_path, model, x, batch_size=3)
    assert np.array_equal(stored, tangent_kernel(model, x, batch_size=3))


def test_two_calls_do_not_work_in_one_folder(tmp_path, case):
    model, x = case
    refused = []

    def second(done, total):
        with pytest.raises(OSError, match="another process computes the kernel of this folder"):
            stored_tangent_kernel(tmp_path, model, x)
        refused.append(done)

    whole = stored_tangent_kernel(tmp_path, model, x, batch_size=3, progress=second)
    assert refused
    assert np.array_equal(stored_tangent_kernel(tmp_path, model, x), whole)
    assert {p.name for p in tmp_path.iterdir()} == {
        "kernel.npy",
        "settings.json",
        "journal-0.jsonl",
    }


def test_a_folder_begun_with_something_else_is_refused(tmp_path, case):
    model, x = case
    stored_tangent_kernel(tmp_path, model, x, batch_size=3)
    with pytest.raises(ValueError, match="other outputs"):
        stored_tangent_kernel(tmp_path, model, x, outputs="trace")
    with pytest.raises(ValueError, match="other x1"):
        stored_tangent_kernel(tmp_path, model, x + 1)
    with pytest.raises(ValueError, match="other batch_size"):
        stored_tangent_kernel(tmp_path, model, x, batch_size=2)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(ValueError, match="other weights"):
        stored_tangent_kernel(tmp_path, model, x)


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, case, monkeypatch):
    model, x = case
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="bytes and 100 are free"):
        stored_tangent_kernel(tmp_path / "new", model, x)
    assert list((tmp_path / "new").iterdir()) == []


def test_the_settings_are_readable(tmp_path, case):
    model, x = case
    stored_tangent_kernel(tmp_path, model, x, batch_size=3, outputs="trace")
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["outputs"] == "trace"
    assert settings["batch_size"] == 3


def test_one_input_out_of_a_longer_row_has_a_kernel(tmp_path):
    """Its stride is not 1, which torch's view as bytes refuses."""
    model = mlp(1, 1, hidden=(3,), generator=torch.Generator().manual_seed(0)).double()
    x = torch.arange(4.0, dtype=torch.float64)[1::4, None]
    stored = stored_tangent_kernel(tmp_path, model, x)
    np.testing.assert_allclose(stored, tangent_kernel(model, x).numpy())
