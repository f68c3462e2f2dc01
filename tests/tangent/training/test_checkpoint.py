from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys

import pytest
import torch

from tangent import ScaledDifference, mlp, vgg11
from tangent.models.direct import DirectScaling
from tangent.models.losses import loss_named
from tangent.training.batches import Inputs
from tangent.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    digest,
    load_checkpoint,
    save_checkpoint,
)
from tangent.training.lazy import LazySettings, train
from tangent.training.run import Run

SETTINGS = LazySettings(lr=0.05, decay=0.3, epochs=3, batch_size=4, augment=True)


def problem():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (14, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (14,), generator=generator)
    inputs = Inputs(
        images, torch.full((3, 1, 1), 120.0), torch.full((3, 1, 1), 60.0), torch.float32
    )
    return inputs, loss_named("square").targets(labels, 10, torch.float32)


def network():
    return vgg11(width=0.03, generator=torch.Generator().manual_seed(1))


class Interruption(Exception):
    pass


def interrupted_at(monkeypatch, step):
    """Let training break off in front of the step with this number."""
    taken = [0]
    original = Run.step

    def counted(self):
        if taken[0] == step:
            raise Interruption
        taken[0] += 1
        original(self)

    monkeypatch.setattr(Run, "step", counted)


@pytest.mark.parametrize("kind", [ScaledDifference, DirectScaling])
@pytest.mark.parametrize("step", [2, 4, 9])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path, monkeypatch, kind, step):
    inputs, targets = problem()
    whole = kind(network(), 10.0)
    generator = torch.Generator().manual_seed(2)
    history = train(whole, inputs, targets, SETTINGS, generator=generator)

    checkpoint = Checkpoint(tmp_path / "run.ckpt", every=0)
    first, seed = kind(network(), 10.0), torch.Generator().manual_seed(2)
    with monkeypatch.context() as patch:
        interrupted_at(patch, step)
        with pytest.raises(Interruption):
            train(first, inputs, targets, SETTINGS, generator=seed, checkpoint=checkpoint)
    resumed = kind(network(), 10.0)
    other = torch.Generator().manual_seed(99)  # its state comes from the file
    again = train(resumed, inputs, targets, SETTINGS, generator=other, checkpoint=checkpoint)
    assert again.loss == history.loss
    assert again.lr == history.lr
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(generator.get_state(), other.get_state())


def test_a_finished_training_goes_on_for_more_epochs(tmp_path):
    inputs, targets = problem()
    whole, parts = (ScaledDifference(network(), 1e3) for _ in range(2))
    train(whole, inputs, targets, SETTINGS, generator=torch.Generator().manual_seed(2))
    checkpoint = Checkpoint(tmp_path / "run.ckpt")
    for epochs in (1, 3):
        settings = dataclasses.replace(SETTINGS, epochs=epochs)
        seed = torch.Generator().manual_seed(2)
        train(parts, inputs, targets, settings, generator=seed, checkpoint=checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(whole.delta, parts.delta, strict=True))


def written(tmp_path):
    inputs, targets = problem()
    path = tmp_path / "run.ckpt"
    module = ScaledDifference(network(), 10.0)
    settings = dataclasses.replace(SETTINGS, epochs=1)
    train(module, inputs, targets, settings, checkpoint=Checkpoint(path))
    return path, inputs, targets


def test_truncated_changed_and_foreign_files_are_refused(tmp_path):
    path, inputs, targets = written(tmp_path)
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for damaged, reason in [
        (content[:-1], "damaged"),
        (content[:40], "no checkpoint"),
        (b"", "no checkpoint"),
        (flipped, "damaged"),
        (b"PK" + content[2:], "no checkpoint"),
    ]:
        path.write_bytes(damaged)
        module = ScaledDifference(network(), 10.0)
        with pytest.raises(CheckpointError, match=rf"run.ckpt is .*{reason}.*remove it"):
            train(module, inputs, targets, SETTINGS, checkpoint=Checkpoint(path))
        assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"lr": 0.1}, "its lr is 0.05, here it is 0.1"),
        ({"alpha": 20.0}, "its alpha is 10.0, here it is 20.0"),
        ({"seed": 5}, "its initial weights is"),
        ({"images": 1}, "its data is"),
        ({"targets": 1}, "its targets is"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, change, what):
    path, inputs, targets = written(tmp_path)
    settings = SETTINGS
    net = network()
    if "lr" in change:
        settings = dataclasses.replace(SETTINGS, lr=change["lr"])
    if "seed" in change:
        net = vgg11(width=0.03, generator=torch.Generator().manual_seed(change["seed"]))
    if "images" in change:
        inputs.x[3, 2, 1, 0] ^= 1
    if "targets" in change:
        targets[0, 0] += 1
    module = ScaledDifference(net, change.get("alpha", 10.0))
    with pytest.raises(CheckpointError, match=what):
        train(module, inputs, targets, settings, checkpoint=Checkpoint(path))


def test_an_interrupted_writing_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "state.ckpt"
    save_checkpoint(path, {"a": torch.ones(3)})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tangent.machine.storage.os.fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot write.*No space left.*make room"):
        save_checkpoint(path, {"a": torch.zeros(3)})
    assert torch.equal(load_checkpoint(path)["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["state.ckpt"]


def test_a_checkpoint_that_cannot_be_written_is_said_once_and_training_goes_on(
    tmp_path, monkeypatch
):
    inputs, targets = problem()
    whole, other = (ScaledDifference(network(), 10.0) for _ in range(2))
    train(whole, inputs, targets, SETTINGS, generator=torch.Generator().manual_seed(2))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tangent.machine.storage.os.fsync", full)
    checkpoint = Checkpoint(tmp_path / "run.ckpt", every=0)
    seed = torch.Generator().manual_seed(2)
    with pytest.warns(UserWarning, match=r"No space left.*training goes on") as said:
        train(other, inputs, targets, SETTINGS, generator=seed, checkpoint=checkpoint)
    assert len(said) == 1
    assert all(torch.equal(a, b) for a, b in zip(whole.delta, other.delta, strict=True))
    assert list(tmp_path.iterdir()) == []


def test_what_was_measured_before_training_is_kept_with_it(tmp_path):
    inputs, targets = problem()
    path = tmp_path / "run.ckpt"
    checkpoint = Checkpoint(path, measured={"lr": 0.1 + 2**-55})
    settings = dataclasses.replace(SETTINGS, epochs=1)
    train(ScaledDifference(network(), 10.0), inputs, targets, settings, checkpoint=checkpoint)
    again = Checkpoint(path)
    assert again.measurements() == {"lr": 0.1 + 2**-55}
    train(ScaledDifference(network(), 10.0), inputs, targets, settings, checkpoint=again)
    assert Checkpoint(path).measurements() == {"lr": 0.1 + 2**-55}
    assert Checkpoint(tmp_path / "none").measurements() is None


def test_what_a_killed_process_left_is_swept_by_the_next_writing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host = socket.gethostname()
    kept = tmp_path / f".state.ckpt.{host}.{os.getpid()}.part.other"
    for left in (tmp_path / f".state.ckpt.{host}.{process.pid}.part", kept):
        left.touch()
    save_checkpoint(tmp_path / "state.ckpt", {"a": torch.ones(3)})
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([kept.name, "state.ckpt"])


class Harmful:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_checkpoint_that_holds_code_is_not_loaded(tmp_path, capsys):
    path = tmp_path / "state.ckpt"
    save_checkpoint(path, {"a": Harmful()})
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        load_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*none.ckpt"):
        load_checkpoint(tmp_path / "none.ckpt")


def test_the_interval_cannot_be_negative(tmp_path):
    with pytest.raises(ValueError, match="every must be at least 0"):
        Checkpoint(tmp_path / "a", every=-1)


def test_a_checkpoint_does_not_depend_on_the_layout_in_memory():
    weight = mlp(4, 2, generator=torch.Generator().manual_seed(0))[0].weight.data
    images = torch.arange(48.0).view(1, 3, 4, 4)
    last = images.contiguous(memory_format=torch.channels_last)
    assert digest([images]) == digest([last])
    assert digest([weight]) != digest([weight + 1])


def test_the_cpu_time_of_earlier_processes_is_carried_on(tmp_path):
    first = Checkpoint(tmp_path / "run.ckpt")
    first._cpu -= 100.0  # as after 100 seconds of work
    first.save({"of": 1}, {})
    then = Checkpoint(tmp_path / "run.ckpt")
    assert then.load({"of": 1})["cpu_seconds"] >= 100
    then._cpu -= 50.0
    then.save({"of": 1}, {})
    assert 150 <= load_checkpoint(tmp_path / "run.ckpt")["cpu_seconds"] < 200
    save_checkpoint(tmp_path / "run.ckpt", {"of": {"of": 1}})  # of a version that kept no time
    old = Checkpoint(tmp_path / "run.ckpt")
    old.load({"of": 1})
    old.save({"of": 1}, {})
    assert load_checkpoint(tmp_path / "run.ckpt")["cpu_seconds"] is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64, torch.bool])
def test_a_digest_takes_one_value_out_of_a_longer_row(dtype):
    row = torch.arange(8).to(dtype)
    assert digest([row[3::8]]) == digest([row[3:4].clone()])
    assert digest([row[3::8].squeeze()]) == digest([row[3].clone()])
    assert digest([row[:0:8]]) == digest([row[:0].clone()])
