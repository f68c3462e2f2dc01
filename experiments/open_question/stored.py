"""Arrays that a long run makes once: read where they are whole, made again where they are not."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.runs.results import Context
from tangent.training.checkpoint import digest


def stored(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """An array from its file where its digest is right; made and written where it is not.

    Parameters
    ----------
    path : Path
        Of an ``.npy`` file; its digest lies beside it.
    make : callable
    """
    beside = path.with_suffix(".sha256")
    if path.exists() and beside.exists():
        # Damage takes any form: headers of .npy files are read as Python, for one.
        with contextlib.suppress(Exception):
            array = torch.from_numpy(np.load(path, allow_pickle=False))
            if digest([array]) == beside.read_text(encoding="ascii"):
                return array
    array = make().contiguous()
    np.save(path, array.numpy())
    beside.write_text(digest([array]), encoding="ascii")
    return array


@contextlib.contextmanager
def work_folder(context: Context, suffix: str, name: str = "") -> Iterator[Path]:
    """A folder beside the run's checkpoint, or a temporary one; removed when the work is done.

    Work that fails leaves it beside the checkpoint, for the next time.
    """
    with contextlib.ExitStack() as stack:
        if context.checkpoint is None:
            whole = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            whole = context.checkpoint.with_suffix(suffix)
        (whole / name).mkdir(parents=True, exist_ok=True)
        yield whole / name
        shutil.rmtree(whole, ignore_errors=True)
