"""The machine a run ran on: what is recorded, and the few global settings.

Packages touch no global state; the command line calls `settled` once and records it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.usage import UsageError, under_torchrun

_PACKAGES = ("tangent-lazy", "torch", "torchvision", "numpy", "scipy", "scikit-learn", "kymatio")


def cores() -> int:
    """``OMP_NUM_THREADS`` where that is set, else the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    else:
        usable = os.cpu_count() or 1
    return int(os.environ.get("OMP_NUM_THREADS") or usable)


@contextlib.contextmanager
def settled(threads: int) -> Iterator[None]:
    """Set threads and determinism for what runs inside; what was set before comes back."""
    # Read when CUDA's matrix library starts: needed for the same bits twice.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import threadpoolctl
    import torch

    fill: Any = torch.utils.deterministic
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        fill.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )
    try:
        torch.set_num_threads(threads)
        # warn_only: an operation without a deterministic form runs, and says so.
        torch.use_deterministic_algorithms(True, warn_only=True)
        fill.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = False
        # On by default in cuDNN: float32 would mean ten bits there, and say float32.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        with threadpoolctl.threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        fill.fill_uninitialized_memory = before[3]
        torch.backends.cudnn.benchmark = before[4]
        torch.backends.cudnn.allow_tf32 = before[5]
        torch.backends.cuda.matmul.allow_tf32 = before[6]


def with_seed(seed: int) -> None:
    """Seed the global generators, for libraries that read them; ours take generators."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def resolve_device(device: str) -> str:
    """``device``, with ``"auto"`` resolved to ``"cuda"`` where there is one, else ``"cpu"``.

    Under ``torchrun`` ``"cuda"`` is the GPU of this process's number on its machine.

    Raises
    ------
    UsageError
        When torch knows no such device or this machine has none.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and under_torchrun():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {device!r} cannot be used ({reason}); take auto") from error
    return device


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(*args: str) -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), *args], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _commit() -> str | None:
    """The commit of the checkout this package lies in, marked where files were changed."""
    top = _git("rev-parse", "--show-toplevel")
    # A package installed below somebody else's checkout has no commit of its own.
    if top is None or Path(top).resolve() != Path(__file__).resolve().parents[2]:
        return None
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/*.py")
    return f"{commit}-modified" if commit and changed else commit


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@lru_cache
def _fixed() -> dict[str, Any]:
    return {
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package) for package in _PACKAGES},
        },
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": _commit(),
    }


def provenance(device: str, threads: int) -> dict[str, Any]:
    """Versions, processor, device, threads and commit, as a run's file records them."""
    found = {**_fixed(), "device": device, "gpu": None, "threads": threads}
    if device.startswith("cuda"):
        import torch

        found["gpu"] = torch.cuda.get_device_name(device)
        found["tf32"] = False  # see `settled`
    return found


class PeakMemory:
    """Peak memory of one run: make it before, read it after.

    On Linux the kernel's high-water mark of resident memory is reset first, so every run has its
    own peak, interpreter, libraries and data included; ``before`` is what was resident at its
    start. Elsewhere (or where the kernel refuses) it is the peak of the process so far, ``own`` is
    False and ``before`` may be None. On CUDA ``gpu`` is the peak that torch allocated.
    """

    def __init__(self, device: str = "cpu"):
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what an earlier run freed is not ours
        self._device = device
        self.own = False
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
            self.own = _status("VmHWM") is not None
        self.before = _status("VmRSS")
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(device)

    def host(self) -> int | None:
        """Bytes of resident memory at the peak; None where the system does not say (Windows)."""
        mark = _status("VmHWM") if self.own else None
        if mark is not None:
            return mark
        try:
            import resource
        except ImportError:
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def gpu(self) -> int | None:
        """Bytes that torch had allocated on the GPU at the peak; None without one."""
        if not self._device.startswith("cuda"):
            return None
        import torch

        return torch.cuda.max_memory_allocated(self._device)


def _status(entry: str) -> int | None:
    """Bytes of an entry of Linux's description of this process."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{entry}:"):
                return int(line.split()[1]) * 1024
    return None
