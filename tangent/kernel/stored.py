"""Tangent kernels larger than memory: blocks on disk, resumed after an interruption."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tangent.capture import picking
from tangent.capture.functional import check_inputs
from tangent.kernel.engine.blocks import (
    Block,
    FactorCache,
    Reporter,
    block_list,
    default_budget,
    fitting_size,
    place,
)
from tangent.kernel.engine.cost import Problem, Rates, Shape
from tangent.kernel.engine.factors import Layer
from tangent.kernel.engine.passes import planned_factors
from tangent.kernel.engine.plan import Network, Plan, network_of
from tangent.kernel.engine.sums import total
from tangent.kernel.matrix import check_finite, check_outputs, factor_dtype
from tangent.machine.storage import allocate_array, locked, replacing

__all__ = ["stored_tangent_kernel"]

_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
_INSTEAD = "take another folder, fewer inputs, or outputs='trace'"
_BUSY = (
    "another process computes the kernel of this folder; wait for it, take another folder, or "
    "share the work under torchrun"
)


def stored_tangent_kernel(
    folder: str | Path,
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    outputs: str | int = "full",
    parameters: str | Sequence[str] | None = None,
    output: Any = None,
    input_shape: tuple[int, ...] | None = None,
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
        One call works in a folder at a time (a lock that ends with its process sees to it).
    model, x1, x2, outputs, parameters, output, batch_size, memory_budget, dtype, accumulate,
    progress
        As in `tangent.tangent_kernel`. The kernel is stored in float32 or float64. A callable
        ``output`` is known by its name when a call is taken up again.
    input_shape : tuple of int, optional
        Shape of one input, where ``x1`` and ``x2`` hold inputs as rows.

    Returns
    -------
    numpy.memmap
        Read-only, in the shape that `tangent.tangent_kernel` gives for ``outputs``.

    Raises
    ------
    ValueError
        If the folder was begun with other settings, inputs or weights (the message says which), if
        its ``settings.json`` was changed since, or if the kernel is not finite.
    OSError
        If the disk has no room for the kernel, all of which is allocated before anything is
        computed, or if another process is at work in the folder.

    Notes
    -----
    Every finished block has a line with its SHA-256 in the journal, written after the block
    itself has been flushed; a line that is cut short counts for nothing, a block that does not
    match its line is computed again, and so is one whose mirror image (of a symmetric kernel) is
    not the same bits. ``settings.json`` holds its own SHA-256. Whatever a call gives back it has
    written or checked itself.
    """
    model = picking(model, output)
    x1 = _shaped_inputs(model, x1, "x1", input_shape)
    x2 = None if x2 is None else _shaped_inputs(model, x2, "x2", input_shape)
    check_outputs(outputs)
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    problem = Problem(n1, n2, symmetric=x2 is None, full=outputs == "full")
    dtype = factor_dtype(model) if dtype is None else dtype
    network = network_of(model, outputs, parameters, dtype, accumulate)
    if network.summed not in _NUMPY:
        summed = network.summed
        raise ValueError(f"accumulate must be float32 or float64 to be stored; got {summed}")
    folder = Path(folder)
    rank, world = _process()
    asked = {
        "outputs": outputs,
        "parameters": network.names,
        "output": _named(output),
        "dtype": str(network.kept),
        "accumulate": str(network.summed),
        "weights": _digest(list(network.tensors.values())),
        "x1": _digest([x1]),
        "x2": None if x2 is None else _digest([x2]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "kernel.lock", _BUSY) if rank == 0 else contextlib.nullcontext():
        if rank == 0:
            _begin(folder, asked, network, problem, x1, (batch_size, memory_budget))
        _together(world)
        _compute(folder, network, problem, (x1, x2), progress, (rank, world))
        _together(world)
        return np.load(folder / "kernel.npy", mmap_mode="r", allow_pickle=False)


def _shaped_inputs(
    model: nn.Module, x: Tensor, name: str, input_shape: tuple[int, ...] | None
) -> Tensor:
    """The inputs, checked, and out of their rows where a shape is given."""
    x = check_inputs(model, x, name)
    if input_shape is None:
        return x
    if math.prod(input_shape) != x[0].numel():
        raise ValueError(
            f"input_shape {tuple(input_shape)} has {math.prod(input_shape)} values but an input "
            f"of {name} has {x[0].numel()}; pass the shape of one input, without their number"
        )
    return x.reshape(len(x), *input_shape)


def _named(output: Any) -> Any:
    """What an output is called in the settings."""
    if isinstance(output, list | tuple):
        return [_named(step) for step in output]
    return getattr(output, "__qualname__", repr(output)) if callable(output) else output


def _compute(
    folder: Path,
    network: Network,
    problem: Problem,
    inputs: tuple[Tensor, Tensor | None],
    progress: bool | Callable[[int, int], Any],
    process: tuple[int, int],
) -> None:
    """Write the blocks of this process that are not there, or not as they were written."""
    (x1, x2), (rank, world) = inputs, process
    settings = _settings(folder)
    plan = _plan(network, problem, settings["plan"])
    size, symmetric, full = settings["batch_size"], problem.symmetric, problem.full
    blocks = block_list(problem.n1, problem.n2, size, symmetric)
    array = np.load(folder / "kernel.npy", mmap_mode="r+", allow_pickle=False)
    view = _by_group(array, settings["outputs"])
    done = _finished(folder, view, blocks, full, symmetric)
    _together(world)  # nobody writes while another still checks
    mine = [b for b in blocks if (b.start1 // size) % world == rank]
    report = Reporter(progress, sum(b.pairs for b in mine))
    report.add(sum(b.pairs for b in mine if str(b) in done))
    cache = FactorCache(plan, x1, x2)
    with (folder / f"journal-{rank}.jsonl").open("a") as journal:
        for block in mine:
            if str(block) in done:
                continue
            found = total(plan, *cache.pair(block))
            check_finite(found)
            part = found.cpu().numpy()
            place(view, block, part, full, symmetric)
            array.flush()
            _note(journal, block, part)
            report.add(block.pairs)
    report.close()


def _together(world: int) -> None:
    if world > 1:
        torch.distributed.barrier()


def _process() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _digest(tensors: list[Tensor]) -> str:
    sha = hashlib.sha256()
    for t in tensors:
        sha.update(f"{tuple(t.shape)} {t.dtype}".encode())
        flat = t.detach().cpu().contiguous()
        # A counter has no axis to take bytes along, and one value may have any stride.
        flat = flat.as_strided((flat.numel(),), (1,))
        sha.update(flat.view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _begin(
    folder: Path,
    asked: dict[str, Any],
    network: Network,
    problem: Problem,
    x: Tensor,
    limits: tuple[int | None, int | None],
) -> None:
    """Make the folder, or check that it is the one that was begun with these settings.

    ``limits`` are the batch size and the memory budget that were asked for.
    """
    path, dtype = folder / "settings.json", np.dtype(_NUMPY[network.summed])
    batch_size, budget = limits
    if path.exists():
        found = _settings(folder)
        given = {**asked, **({} if batch_size is None else {"batch_size": batch_size})}
        wrong = [key for key, value in given.items() if found.get(key) != value]
        if wrong:
            raise ValueError(
                f"folder {str(folder)!r} holds a kernel with other {', '.join(wrong)}; take "
                "another folder, or delete this one"
            )
        allocate_array(folder / "kernel.npy", tuple(found["shape"]), dtype, _INSTEAD)
        return
    plan, factors = planned_factors(network, problem, x[:1])
    n1, n2, o = problem.n1, problem.n2, next(iter(factors.values())).outputs
    if batch_size is None:
        limit = default_budget(network.device) if budget is None else budget
        batch_size = min(fitting_size(plan, factors, n1, n2, limit), -(-max(n1, n2) // 8))
    shape: tuple[int, ...] = (n1, o, n2, o) if problem.full else (n1, n2)
    if asked["outputs"] == "diagonal":
        shape = (n1, n2, plan.problem.groups)
    allocate_array(folder / "kernel.npy", shape, dtype, _INSTEAD)
    noted = {
        "layers": [dataclasses.asdict(layer) for layer in plan.layers],
        "opaque": sorted(plan.opaque),
        "groups": plan.problem.groups,
        "working": plan.working,
        "rates": dataclasses.asdict(plan.rates),
    }
    # As it will be read: a tuple has become a list when its digest is compared.
    begun = {**asked, "shape": shape, "batch_size": batch_size, "plan": noted}
    settings = json.loads(json.dumps(begun))
    text = json.dumps({**settings, "sha256": _settings_digest(settings)}, indent=1)
    with replacing(path) as file:  # last: a folder without settings is begun anew
        file.write(text.encode())


def _settings(folder: Path) -> dict[str, Any]:
    """What the folder was begun with.

    Raises
    ------
    ValueError
        When it was changed since: the kernel's last bits, and its scale, hang on it.
    """
    path = folder / "settings.json"
    try:
        settings = json.loads(path.read_text())
        whole = settings.pop("sha256") == _settings_digest(settings)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(
            f"{path} was changed or cut short since the kernel was begun: its checksum does not "
            "fit; delete the folder, or take another one"
        )
    return settings


def _settings_digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _plan(network: Network, problem: Problem, noted: dict[str, Any]) -> Plan:
    """The plan that the folder was begun with: it decides the last bits."""
    layers = []
    for entry in noted["layers"]:
        shape = None if entry["shape"] is None else Shape(**entry["shape"])
        layers.append(Layer(**{**entry, "shape": shape}))
    return Plan(
        network,
        dataclasses.replace(problem, groups=noted["groups"]),
        Rates(tuple(noted["rates"]["products"]), noted["rates"]["elements"]),
        noted.get("working", network.working),
        tuple(layers),
        frozenset(noted["opaque"]),
    )


def _by_group(array: np.memmap, outputs: str | int) -> np.ndarray:
    """View of the file with the axes of a block: (n1, o, n2, o) or (groups, n1, n2)."""
    if outputs == "full":
        return array
    return array.transpose(2, 0, 1) if outputs == "diagonal" else array[None]


def _read(array: np.ndarray, block: Block, full: bool) -> np.ndarray:
    rows, columns = slice(block.start1, block.stop1), slice(block.start2, block.stop2)
    return array[rows, :, columns] if full else array[..., rows, columns]


def _mirrored(array: np.ndarray, block: Block, full: bool) -> np.ndarray:
    """The block across the diagonal, transposed: the same bits in a symmetric kernel."""
    across = Block(block.start2, block.stop2, block.start1, block.stop1)
    part = _read(array, across, full)
    return part.transpose((2, 3, 0, 1) if full else (0, 2, 1))


def _finished(
    folder: Path, array: np.ndarray, blocks: list[Block], full: bool, symmetric: bool
) -> set[str]:
    """Blocks whose bytes match the journals of all processes, on both sides of the diagonal."""
    known = {str(b): b for b in blocks}
    done = set()
    for path in sorted(folder.glob("journal-*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
                block, digest = known[entry["block"]], entry["sha256"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            parts = [_read(array, block, full)]
            if symmetric and not block.diagonal:
                parts.append(_mirrored(array, block, full))
            if all(_sha(part) == digest for part in parts):
                done.add(str(block))
    return done


def _sha(part: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()


def _note(journal: Any, block: Block, part: np.ndarray) -> None:
    line = {"block": str(block), "sha256": _sha(part)}
    journal.write("\n" + json.dumps(line))  # a line that was cut short ends here
    journal.flush()
    os.fsync(journal.fileno())
