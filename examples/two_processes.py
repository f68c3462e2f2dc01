"""One training shared by two processes: ``torchrun --nproc-per-node 2 examples/two_processes.py``.

Every process takes its share of each batch; gradients are added up. The result is that of one
process. Started without torchrun it trains alone.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from tangent import ScaledDifference, mlp
from tangent.training.batches import Inputs
from tangent.training.distributed import Share, my_share
from tangent.training.lazy import LazySettings, train

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/pictures")
many = "WORLD_SIZE" in os.environ
if many:
    dist.init_process_group("gloo")
share = my_share() if many else Share()

X, labels = load_digits(return_X_y=True)
x = torch.tensor(X[:600] / 16, dtype=torch.float32)
y = torch.nn.functional.one_hot(torch.tensor(labels[:600]), 10).float()
inputs = Inputs(x, torch.tensor(0.3), torch.tensor(1.0), torch.float32)
network = mlp(64, 10, hidden=(64,), generator=torch.Generator().manual_seed(0))
module = ScaledDifference(network, alpha=1e7)
settings = LazySettings(lr=0.5, epochs=20, batch_size=60)
history = train(
    module, inputs, y, settings, generator=torch.Generator().manual_seed(1), share=share
)

if share.rank == 0:
    print(f"{share.size} process(es): loss {history.loss[0]:.5f} -> {history.loss[-1]:.5f}")
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(4.6, 3), layout="constrained")
    axes = figure.subplots()
    axes.semilogy(range(1, len(history.loss) + 1), history.loss, "o-", ms=3)
    axes.set(xlabel="epoch", ylabel="loss", title=r"A lazy network ($\alpha = 10^7$) on digits")
    figure.savefig(folder / "two_processes.png", dpi=120)
if many:
    dist.barrier()  # none leaves while another still talks to it
    dist.destroy_process_group()
