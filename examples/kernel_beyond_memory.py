"""A tangent kernel on disk: computed block by block in little memory, interrupted, resumed."""

import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure

from tangent import mlp, stored_tangent_kernel, tangent_kernel

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/pictures")
folder.mkdir(parents=True, exist_ok=True)
network = mlp(20, 1, hidden=(50,), generator=torch.Generator().manual_seed(0))
x = torch.randn(400, 20, generator=torch.Generator().manual_seed(1))
x = x[x[:, 0].argsort()]


class Interrupted(Exception):
    """What stops the first attempt."""


def stop_half_way(done, total):
    if done * 2 >= total:
        raise Interrupted


with tempfile.TemporaryDirectory() as place:
    options = {"outputs": "trace", "batch_size": 100}
    try:
        stored_tangent_kernel(place, network, x, progress=stop_half_way, **options)
    except Interrupted:
        lines = sum(len(p.read_text().splitlines()) for p in Path(place).glob("*journal*"))
        print(f"interrupted; {lines} blocks are finished and recorded with their checksums")
    kernel = stored_tangent_kernel(place, network, x, **options)
    print(f"resumed: a memory map of shape {kernel.shape}, {kernel.nbytes / 2**20:.1f} MiB")
    whole = tangent_kernel(network, x, outputs="trace").numpy()
    print(f"largest difference from the kernel in memory: {abs(kernel - whole).max():.1e}")

    figure = Figure(figsize=(4, 3.4), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(kernel, cmap="viridis")
    axes.set(title="400 inputs by first feature", xlabel="input", ylabel="input")
    figure.colorbar(shown, label="tangent kernel")
    figure.savefig(folder / "kernel_beyond_memory.png", dpi=120)
