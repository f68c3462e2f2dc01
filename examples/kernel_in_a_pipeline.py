"""Tangent kernels and tangent features where scikit-learn expects a classifier or a transformer."""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tangent import TangentFeatures, TangentKernelClassifier

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/pictures")
folder.mkdir(parents=True, exist_ok=True)
X, y = load_breast_cancer(return_X_y=True)
X, y = X[:300], y[:300]

linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
features = make_pipeline(
    StandardScaler(),
    TangentFeatures(width=0.1, random_state=0),
    StandardScaler(),
    LogisticRegression(max_iter=1000),
)
search = GridSearchCV(features, {"logisticregression__C": [1e-4, 1e-3, 1e-2]}, cv=3)
kernel = make_pipeline(
    StandardScaler(), TangentKernelClassifier("mlp", width=0.25, n_ensemble=1, random_state=0)
)

scores = {
    "logistic regression": cross_val_score(linear, X, y, cv=3),
    "on tangent features": cross_val_score(search, X, y, cv=3),
    "tangent kernel": cross_val_score(kernel, X, y, cv=3),
}
for name, values in scores.items():
    print(f"{name:20} {values.mean():.3f} ± {values.std():.3f}")

figure = Figure(figsize=(5, 2.4), layout="constrained")
axes = figure.subplots()
for row, values in enumerate(scores.values()):
    axes.plot(values, [row] * len(values), "o", alpha=0.6)
    axes.plot(values.mean(), row, "k|", ms=16)
axes.set_yticks(range(len(scores)), scores)
axes.set(xlabel="accuracy of three folds (bar: mean)", ylim=(len(scores) - 0.5, -0.5))
axes.set_title("Breast cancer, 300 rows")
figure.savefig(folder / "kernel_in_a_pipeline.png", dpi=120)
