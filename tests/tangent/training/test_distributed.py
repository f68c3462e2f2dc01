from __future__ import annotations

import pytest
import torch

from tangent import ScaledDifference, mlp, vgg11
from tangent.models.losses import loss_named
from tangent.training.batches import Inputs
from tangent.training.checkpoint import Checkpoint, load_checkpoint
from tangent.training.distributed import Share, my_share
from tangent.training.lazy import LazySettings, train
from tangent.training.run import Run
from tests.processes import in_a_group


def trained(share=None, n=13):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 32, 32), generator=generator, dtype=torch.uint8)
    inputs = Inputs(images, torch.tensor(100.0), torch.tensor(60.0), torch.float32)
    targets = loss_named("square").targets(torch.arange(n) % 4, 4, torch.float32)
    module = ScaledDifference(vgg11(4, in_channels=1, width=0.05, generator=generator), 100.0)
    settings = LazySettings(lr=0.05, epochs=2, batch_size=4, augment=True)
    order = torch.Generator().manual_seed(1)
    history = train(module, inputs, targets, settings, generator=order, share=share)
    return history.loss, [d.detach().clone() for d in module.delta]


def one_of_two(rank, folder):
    losses, delta = trained(my_share())
    torch.save({"losses": losses, "delta": delta}, folder / f"{rank}.pt")


def test_two_processes_give_what_one_gives(tmp_path):
    # 13 inputs in batches of 4: the last batch has one row, and the second process none.
    in_a_group(one_of_two, tmp_path, tmp_path)
    losses, delta = trained()
    for rank in range(2):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert theirs["losses"] == pytest.approx(losses, rel=1e-5)
        for a, b in zip(delta, theirs["delta"], strict=True):
            assert (a - b).norm() <= 1e-5 * a.norm()


def test_shares_part_a_batch_without_rest():
    rows = torch.arange(7)
    parts = [Share(rank, 3).of(rows)[0] for rank in range(3)]
    assert torch.equal(torch.cat(parts), rows)


@pytest.mark.parametrize(("size", "known"), [(1, True), (2, False)])
def test_a_checkpoint_of_several_processes_does_not_take_one_s_cpu_time_for_all(
    tmp_path, size, known
):
    model = ScaledDifference(mlp(2, 1, hidden=(3,)), 1.0)
    inputs, targets = Inputs.plain(torch.rand(4, 2)), torch.rand(4, 1)
    run = Run(model, inputs, targets, LazySettings(batch_size=2), None, Share(0, size))
    run.begin_epoch()
    run.keep(Checkpoint(tmp_path / "run.ckpt"))
    assert (load_checkpoint(tmp_path / "run.ckpt")["cpu_seconds"] is not None) == known


def test_a_share_needs_an_initialized_group():
    with pytest.raises(RuntimeError, match="init_process_group"):
        my_share()
