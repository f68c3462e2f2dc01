"""Tangent kernels larger than memory: blocks on disk, resumed after an interruption."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tangent.engine.blocks import (
    Block,
    FactorCache,
    Reporter,
    block_list,
    default_budget,
    fitting_size,
    place,
)
from tangent.engine.cost import Problem, Rates, Shape, calibrated
from tangent.engine.engine import Engine
from tangent.engine.factors import Layer
from tangent.engine.functional import check_inputs
from tangent.kernel import check_outputs

__all__ = ["stored_tangent_kernel"]

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def stored_tangent_kernel(
    folder: str | Path,
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: str | int = "full",
    parameters: Sequence[str] | None = None,
    batch_size: int | None = None,
    memory_budget: int | None = None,
    dtype: torch.dtype | None = None,
    accumulate: torch.dtype | None = None,
    progress: bool | Callable[[int, int], Any] = False,
) -> np.memmap:
    """Tangent kernel in a ``.npy`` file, written block by block.

    A call that was interrupted is taken up by the same call: finished blocks are checked and
    kept, the others computed, and the file ends with the same bits as without the interruption.
    Under ``torchrun`` the processes share the blocks of one folder.

    Parameters
    ----------
    folder : path
        Gets ``kernel.npy``, ``settings.json`` and a journal a process; made if it is not there.
    model, x1, x2, outputs, parameters, batch_size, memory_budget, dtype, accumulate, progress
        As in `tangent.tangent_kernel`. The kernel is stored in float32 or float64.

    Returns
    -------
    numpy.memmap
        Read-only, in the shape that `tangent.tangent_kernel` gives for ``outputs``.

    Raises
    ------
    ValueError
        If the folder was begun with other settings, inputs or weights; the message says which.
    OSError
        If the disk has no room for the kernel; before anything is computed.

    Notes
    -----
    Every finished block has a line with its SHA-256 in the journal, written after the block
    itself has been flushed; a line that is cut short counts for nothing, a block that does not
    match its line is computed again.
    """
    x1 = check_inputs(model, x1, "x1")
    x2 = None if x2 is None else check_inputs(model, x2, "x2")
    check_outputs(outputs)
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    problem = Problem(n1, n2, symmetric=x2 is None, full=outputs == "full")
    engine = Engine(model, outputs, problem, parameters, dtype, accumulate)
    if engine.summed not in _NUMPY:
        raise ValueError(f"accumulate must be float32 or float64 to be stored; got {engine.summed}")
    folder = Path(folder)
    rank, world = _process()
    asked = {
        "outputs": outputs,
        "parameters": engine.names,
        "dtype": str(engine.kept),
        "accumulate": str(engine.summed),
        "weights": _digest(list(engine.tensors.values())),
        "x1": _digest([x1]),
        "x2": None if x2 is None else _digest([x2]),
    }
    if rank == 0:
        _begin(folder, asked, engine, x1, batch_size, memory_budget, (n1, n2))
    if world > 1:
        torch.distributed.barrier()
    settings = _settings(folder)
    _restore_plan(engine, settings["plan"])
    blocks = block_list(n1, n2, settings["batch_size"], x2 is None)
    array = np.load(folder / "kernel.npy", mmap_mode="r+", allow_pickle=False)
    view = _by_group(array, outputs)
    done = _finished(folder, view, blocks, engine.problem.full)
    if world > 1:
        torch.distributed.barrier()  # nobody writes while another still checks
    mine = [b for b in blocks if (b.start1 // settings["batch_size"]) % world == rank]
    report = Reporter(progress, sum(b.pairs for b in mine))
    report.add(sum(b.pairs for b in mine if str(b) in done))
    cache = FactorCache(engine, x1, x2)
    with (folder / f"journal-{rank}.jsonl").open("a") as journal:
        for block in mine:
            if str(block) in done:
                continue
            part = engine.total(*cache.pair(block)).cpu().numpy()
            place(view, block, part, engine.problem.full, x2 is None)
            array.flush()
            _note(journal, block, part)
            report.add(block.pairs)
    report.close()
    if world > 1:
        torch.distributed.barrier()
    del array, view
    return np.load(folder / "kernel.npy", mmap_mode="r", allow_pickle=False)


def _process() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _digest(tensors: list[Tensor]) -> str:
    sha = hashlib.sha256()
    for t in tensors:
        sha.update(f"{tuple(t.shape)} {t.dtype}".encode())
        flat = t.detach().cpu().contiguous().view(-1)  # a counter has no axis to take bytes along
        sha.update(flat.view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _begin(
    folder: Path,
    asked: dict[str, Any],
    engine: Engine,
    x: Tensor,
    batch_size: int | None,
    budget: int | None,
    sizes: tuple[int, int],
) -> None:
    """Make the folder, or check that it is the one that was begun with these settings."""
    path = folder / "settings.json"
    if path.exists():
        found = _settings(folder)
        given = {**asked, **({} if batch_size is None else {"batch_size": batch_size})}
        wrong = [key for key, value in given.items() if found.get(key) != value]
        if wrong:
            raise ValueError(
                f"folder {str(folder)!r} holds a kernel with other {', '.join(wrong)}; take "
                "another folder, or delete this one"
            )
        return
    n1, n2 = sizes
    if batch_size is None:
        limit = default_budget(engine.device) if budget is None else budget
        batch_size = min(fitting_size(engine, x, n1, n2, limit), -(-max(n1, n2) // 8))
    factors = engine.factors(x[:1])
    o = next(iter(factors.values())).outputs
    full, groups = engine.problem.full, engine.problem.groups
    shape: tuple[int, ...] = (n1, o, n2, o) if full else (n1, n2)
    if asked["outputs"] == "diagonal":
        shape = (n1, n2, groups)
    dtype = np.dtype(_NUMPY[engine.summed])
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = int(np.prod(shape)) * dtype.itemsize, shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"the kernel takes {needed} bytes and {free} are free; take another folder, fewer "
            "inputs, or outputs='trace'",
            str(folder),
        )
    array = np.lib.format.open_memmap(folder / "kernel.npy", mode="w+", dtype=dtype, shape=shape)
    array.flush()
    plan = {
        "layers": [dataclasses.asdict(layer) for layer in engine.layers or []],
        "opaque": sorted(engine.opaque),
        "groups": groups,
        "largest": engine.largest,
        "rates": dataclasses.asdict(engine.rates or calibrated(engine.device, engine.kept)),
    }
    text = json.dumps({**asked, "batch_size": batch_size, "plan": plan}, indent=1)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)  # last: a folder without settings is begun anew


def _settings(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "settings.json").read_text())


def _restore_plan(engine: Engine, plan: dict[str, Any]) -> None:
    """Give the engine the plan that the folder was begun with: it decides the last bits."""
    layers = []
    for entry in plan["layers"]:
        shape = None if entry["shape"] is None else Shape(**entry["shape"])
        layers.append(Layer(**{**entry, "shape": shape}))
    engine.layers = layers
    engine.opaque = set(plan["opaque"])
    engine.rates = Rates(tuple(plan["rates"]["products"]), plan["rates"]["elements"])
    engine.problem = dataclasses.replace(engine.problem, groups=plan["groups"])
    engine.largest = plan["largest"]


def _by_group(array: np.memmap, outputs: str | int) -> np.ndarray:
    """View of the file with the axes of a block: (n1, o, n2, o) or (groups, n1, n2)."""
    if outputs == "full":
        return array
    return array.transpose(2, 0, 1) if outputs == "diagonal" else array[None]


def _read(array: np.ndarray, block: Block, full: bool) -> np.ndarray:
    rows, columns = slice(block.start1, block.stop1), slice(block.start2, block.stop2)
    return array[rows, :, columns] if full else array[..., rows, columns]


def _finished(folder: Path, array: np.ndarray, blocks: list[Block], full: bool) -> set[str]:
    """Blocks whose bytes match the journals of all processes."""
    known = {str(b): b for b in blocks}
    done = set()
    for path in sorted(folder.glob("journal-*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
                name, digest = entry["block"], entry["sha256"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
            if name in known and _sha(_read(array, known[name], full)) == digest:
                done.add(name)
    return done


def _sha(part: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()


def _note(journal: Any, block: Block, part: np.ndarray) -> None:
    line = {"block": str(block), "sha256": _sha(part)}
    journal.write("\n" + json.dumps(line))  # a line that was cut short ends here
    journal.flush()
    os.fsync(journal.fileno())
