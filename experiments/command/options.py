"""Options that are no settings of an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RunOptions:
    """Options that mean the same for every experiment."""

    preset: str = "laptop"
    """smoke (seconds), laptop (minutes on two cores) or paper (as printed; wants a GPU)"""
    out: Path = Path("results")
    """folder of results; what is finished there is not computed again"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    dtype: Literal["auto", "float32", "float64"] = "auto"
    """precision; auto is the experiment's own"""
    threads: int | None = None
    """threads of torch and of the matrix library; all cores when left out"""
    jobs: int = 1
    """processes that share the runs, and the threads; of submitit, jobs queued or run at a time"""
    executor: Literal["local", "dask", "submitit"] = "local"
    """where the runs go: this machine's processes, a Dask cluster, or SLURM through submitit"""
    scheduler: str | None = None
    """address of Dask's scheduler, tcp://host:8786 say"""
    job_parameters: tuple[str, ...] = ()
    """NAME=VALUE for submitit: timeout_min=60 slurm_partition=gpu, or cluster=local"""
    force: bool = False
    """compute finished runs again"""
    dry_run: bool = False
    """say what would run, with estimated minutes and memory, and write nothing"""


@dataclass(frozen=True)
class DataOptions:
    """Options of experiments that take a data set."""

    data_dir: Path | None = None
    """where the data set is: a folder, an archive, or a folder that holds the archive"""
    download: bool = False
    """let torchvision fetch CIFAR-10 into --data-dir"""
    cache_dir: Path | None = None
    """folder of decoded archives; the user's cache folder when left out"""
