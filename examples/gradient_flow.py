"""A linearized network trained in closed form, against the same training step by step."""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from tangent import linearize, mlp, tangent_kernel
from tangent.solve import spectrum, training_path

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/pictures")
folder.mkdir(parents=True, exist_ok=True)
X, labels = load_digits(return_X_y=True)
X = torch.tensor(X / 16 - 0.3)
y = torch.nn.functional.one_hot(torch.tensor(labels), 10).double()
x, x_test, y, y_test = X[:100], X[100:300], y[:100], y[100:300]
network = mlp(64, 10, hidden=(64,), generator=torch.Generator().manual_seed(0)).double()

# Closed form: one kernel, one eigendecomposition, all times. The loss is half the mean over the
# inputs of the squared distance.
found = spectrum(tangent_kernel(network, x))
rate = 1.0 / float(found.eigenvalues[0]) * len(x)
times = torch.logspace(0, 4, 60, dtype=torch.float64) * rate
path = training_path(found, y, times, cross_kernel=tangent_kernel(network, x_test, x))

# The same, step by step, by gradient descent on the linearized network.
model = linearize(network)
steps, losses = [], []
for step in range(1, 1001):
    loss = (model(x) - y).square().sum() / (2 * len(x))
    gradients = torch.autograd.grad(loss, list(model.delta))
    with torch.no_grad():
        for delta, gradient in zip(model.delta, gradients, strict=True):
            delta -= rate * gradient
    if step in (1, 3, 10, 30, 100, 300, 1000):
        steps.append(step * rate)
        losses.append(float((model(x) - y).detach().square().sum() / (2 * len(x))))

at = training_path(found, y, torch.tensor(steps, dtype=torch.float64)).train_loss
print("time      flow      descent")
for time, exact, stepped in zip(steps, at.tolist(), losses, strict=True):
    print(f"{time:<9.3g} {exact:.6f}  {stepped:.6f}")

accuracy = (path.test_predictions.argmax(-1) == y_test.argmax(-1)).double().mean(-1)
figure = Figure(figsize=(7, 3), layout="constrained")
left, right = figure.subplots(1, 2)
left.loglog(times, path.train_loss, label="gradient flow, closed form")
left.loglog(steps, losses, "o", label="gradient descent, step by step")
left.set(xlabel="time (rate times steps)", ylabel="training loss")
left.legend(fontsize=8)
right.semilogx(times, 100 * accuracy)
right.set(xlabel="time", ylabel="test accuracy of the flow (%)")
figure.savefig(folder / "gradient_flow.png", dpi=120)
