"""A support vector machine with the tangent kernel of a network."""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import make_moons
from sklearn.svm import SVC

from tangent import TangentKernel

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/pictures")
folder.mkdir(parents=True, exist_ok=True)
X, y = make_moons(200, noise=0.2, random_state=0)
X_test, y_test = make_moons(500, noise=0.2, random_state=1)

machines = {
    "Gaussian kernel": SVC(kernel="rbf", C=10),
    "tangent kernel of a perceptron": SVC(kernel=TangentKernel(width=0.25), C=10),
}
grid = np.stack(np.meshgrid(np.linspace(-1.7, 2.7, 50), np.linspace(-1.2, 1.7, 50)), axis=-1)
figure = Figure(figsize=(7, 3.2), layout="constrained")
for axes, (name, machine) in zip(figure.subplots(1, 2, sharey=True), machines.items(), strict=True):
    accuracy = machine.fit(X, y).score(X_test, y_test)
    print(f"{name:32} {accuracy:.3f}, {len(machine.support_)} support vectors")
    scores = machine.decision_function(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    axes.contourf(grid[..., 0], grid[..., 1], scores, levels=20, cmap="RdBu", alpha=0.6)
    axes.contour(grid[..., 0], grid[..., 1], scores, levels=[0], colors="black")
    axes.scatter(*X.T, c=y, cmap="RdBu", edgecolors="white", s=18)
    axes.set_title(f"{name}: {accuracy:.1%}", fontsize=9)
figure.savefig(folder / "svc_with_a_tangent_kernel.png", dpi=120)
