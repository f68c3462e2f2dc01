from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tangent.kernel.matrix import tangent_kernel
from tangent.kernel.stored import stored_tangent_kernel
from tests.processes import in_a_group
from tests.tangent.networks import example


def work(rank: int, folder: Path) -> None:
    model, x = example("ntk parametrization", 5, seed=6)
    full = tangent_kernel(model, x, distributed=True)
    trace = tangent_kernel(model, x, x[1:], outputs="trace", distributed=True)
    stored_tangent_kernel(folder / "kernel", model, x, batch_size=2)
    torch.save((full, trace), folder / f"{rank}.pt")


def test_two_processes_give_what_one_gives(tmp_path: Path):
    in_a_group(work, tmp_path, tmp_path)
    model, x = example("ntk parametrization", 5, seed=6)
    expected = tangent_kernel(model, x)
    for rank in (0, 1):
        full, trace = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(full, expected)
        torch.testing.assert_close(trace, tangent_kernel(model, x, x[1:], outputs="trace"))
    stored = np.load(tmp_path / "kernel" / "kernel.npy")
    alone = stored_tangent_kernel(tmp_path / "alone", model, x, batch_size=2)
    torch.testing.assert_close(torch.from_numpy(stored), torch.from_numpy(np.array(alone)))
    journals = sorted(p.name for p in (tmp_path / "kernel").glob("journal-*"))
    assert journals == ["journal-0.jsonl", "journal-1.jsonl"]
