"""The training images that speak for and against a prediction of a tangent kernel."""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from tangent import TangentKernelClassifier

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/pictures")
folder.mkdir(parents=True, exist_ok=True)
X, y = load_digits(return_X_y=True)
X_train, y_train, X_new, y_new = X[:400], y[:400], X[400:700], y[400:700]

model = TangentKernelClassifier("mlp", width=0.25, loss="square", n_ensemble=1, random_state=0)
predicted = model.fit(X_train, y_train).predict(X_new)
print(f"accuracy {np.mean(predicted == y_new):.3f} on {len(y_new)} digits")

# two mistakes, and one digit that is right
chosen = [*np.flatnonzero(predicted != y_new)[:2], int(np.flatnonzero(predicted == y_new)[0])]
found = model.explain(X_new[chosen])
figure = Figure(figsize=(8, 3.6), layout="constrained")
axes = figure.subplots(len(chosen), 9)
for row, i in enumerate(chosen):
    for_it, against_it = found.speakers(row, count=4)
    print(f"a {y_new[i]} taken for {predicted[i]}: for it {for_it}, against it {against_it}")
    pictures = [(X_new[i], f"{y_new[i]}, taken for {predicted[i]}")]
    pictures += [(X_train[j], f"a {y_train[j]}: {v:+.2f}") for j, v in for_it + against_it]
    for ax, (image, title) in zip(axes[row], pictures, strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray_r")
        ax.set_title(title, fontsize=7)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
figure.supxlabel(
    "the digit | the four that speak most for the class it was given | against it", size=9
)
figure.savefig(folder / "which_examples_made_this_prediction.png", dpi=120)
