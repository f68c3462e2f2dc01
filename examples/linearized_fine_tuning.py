"""Linearized fine-tuning: start from trained weights, linearize, tune on few images; add tasks.

A network learns the digits 0 to 4. Its linearization at the trained weights (with a new head) is
tuned on few images of the digits 5 to 9, beside the same from random weights. In the tangent space
the displacements of two tasks add up: the sum of two linear models is what each one said, together.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn

from tangent import linearize, mlp

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/pictures")
folder.mkdir(parents=True, exist_ok=True)
X, labels = load_digits(return_X_y=True)
X, labels = torch.tensor(X / 16 - 0.3, dtype=torch.float32), torch.tensor(labels)
low = labels < 5


def trained(model, x, y, *, lr, epochs):
    """Train any module by full-batch gradient descent on cross entropy."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr, 0.9)
    for _ in range(epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def accuracy(model, x, y):
    with torch.no_grad():
        return float((model(x).argmax(1) == y).double().mean())


def fresh(seed):
    return mlp(64, 5, hidden=(128, 128), generator=torch.Generator().manual_seed(seed))


pretrained = trained(fresh(0), X[low], labels[low], lr=0.1, epochs=150)
x_new, y_new = X[~low], labels[~low] - 5
x_test, y_test = x_new[400:], y_new[400:]

counts, curves = (10, 20, 50, 100, 200), {"from trained weights": [], "from random weights": []}
for name, start in zip(curves, (pretrained, fresh(1)), strict=True):
    for count in counts:
        tuned = trained(linearize(start), x_new[:count], y_new[:count], lr=0.02, epochs=200)
        curves[name].append(accuracy(tuned, x_test, y_test))
    print(f"linearized {name:22}", *(f"{a:.3f}" for a in curves[name]))

# Task vectors: tuned apart on the classes 5-6 and on 7-9, their displacements add.
first, second = y_new < 2, y_new >= 2
one = trained(
    linearize(pretrained), x_new[:200][first[:200]], y_new[:200][first[:200]], lr=0.02, epochs=100
)
two = trained(
    linearize(pretrained), x_new[:200][second[:200]], y_new[:200][second[:200]], lr=0.02, epochs=100
)
both = linearize(pretrained)
with torch.no_grad():
    for delta, a, b in zip(both.delta, one.delta, two.delta, strict=True):
        delta.copy_(a + b)
    exact = torch.allclose(both(x_test), one(x_test) + two(x_test), atol=1e-4)
print("outputs of the summed displacements are the summed outputs:", exact)
for name, model in (("task 5-6", one), ("task 7-9", two), ("their sum", both)):
    print(f"{name:10} on all five classes: {accuracy(model, x_test, y_test):.3f}")

figure = Figure(figsize=(5, 3.2), layout="constrained")
axes = figure.subplots()
for name, values in curves.items():
    axes.semilogx(counts, [100 * v for v in values], "o-", label=name)
axes.set(xlabel="images of the digits 5 to 9", ylabel="test accuracy (%)")
axes.set_title("Linearized networks tuned on few images", fontsize=10)
axes.legend()
figure.savefig(folder / "linearized_fine_tuning.png", dpi=120)
