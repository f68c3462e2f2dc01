"""New processes from a server that has torch and the packages: they begin in milliseconds."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

__all__ = ["as_torchrun", "cluster", "in_a_group", "server"]


def server() -> Any:
    """The fork server of this process, which has imported what the children need.

    A spawned process imports torch, the packages and scikit-learn anew, which takes it seconds.
    """
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.faults.works", "baselines"])
    forkserver.ensure_running()  # with these, whoever asks for others after this
    return found


@contextlib.contextmanager
def cluster(**environment: str) -> Iterator[Any]:
    """Two workers of Dask, processes of their own with ``environment``."""
    import dask
    import distributed

    server()
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",  # None takes port 8787, whoever has it
            env=environment,
        ) as found,
    ):
        yield found


def in_a_group(work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Have two new processes, a group of ``torch.distributed``, do ``work(rank, *arguments)``.

    An error in one of them is raised here; ``folder`` is where they meet.
    """
    server()
    mp.start_processes(_member, (work, str(folder), arguments), nprocs=2, start_method="forkserver")


def as_torchrun(script: Path, folder: Path) -> list[str]:
    """What two processes say that run ``script folder`` in the environment torchrun gives them."""
    server()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.start_processes(
        _under_torchrun, (str(script), str(folder), store.port), 2, start_method="forkserver"
    )
    return [(folder / f"{rank}.txt").read_text() for rank in range(2)]


def _under_torchrun(rank: int, script: str, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store is the launcher's
    sys.argv = [script, folder]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        runpy.run_path(script, run_name="__main__")
    Path(folder, f"{rank}.txt").write_text(said.getvalue())


def _member(rank: int, work: Callable[..., None], folder: str, arguments: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    work(rank, *arguments)
    dist.barrier()  # gloo aborts a process whose peer left first
    dist.destroy_process_group()
