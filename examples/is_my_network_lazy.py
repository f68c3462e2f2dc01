"""Is my network lazy? The report, and outputs leaving the linearization as alpha falls."""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from tangent import laziness, mlp

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/pictures")
folder.mkdir(parents=True, exist_ok=True)

X, y = load_digits(return_X_y=True)
X = torch.tensor(X[:200] / 16 - 0.3, dtype=torch.float32)
network = mlp(64, 10, hidden=(100,), generator=torch.Generator().manual_seed(0))

report = laziness(network, X, y[:200], alphas=(0.1, 1, 10, 100, 1000), epochs=4, probes=0)
print(report)

trained = report.trainings[:-1]  # the last one is the linearization itself
figure = Figure(figsize=(5, 3.2), layout="constrained")
axes = figure.subplots()
axes.loglog([t.alpha for t in trained], [t.from_linearized for t in trained], "o-")
axes.set(
    xlabel=r"scale $\alpha$",
    ylabel="distance of the trained outputs\nfrom those of the linearization",
    title="A perceptron on 200 digits, 4 epochs",
)
figure.savefig(folder / "is_my_network_lazy.png", dpi=120)
