"""New processes from a server that has torch and the packages: they begin in milliseconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

__all__ = ["in_a_group", "server"]


def server() -> Any:
    """The fork server of this process, which has imported what the children need.

    A spawned process imports torch, the packages and scikit-learn anew, which takes it seconds.
    """
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.faults.works"])
    return found


def in_a_group(work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Have two new processes, a group of ``torch.distributed``, do ``work(rank, *arguments)``.

    An error in one of them is raised here; ``folder`` is where they meet.
    """
    server()
    mp.start_processes(_member, (work, str(folder), arguments), nprocs=2, start_method="forkserver")


def _member(rank: int, work: Callable[..., None], folder: str, arguments: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    work(rank, *arguments)
    dist.barrier()  # gloo aborts a process whose peer left first
    dist.destroy_process_group()
