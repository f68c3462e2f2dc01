"""What a run of `experiments.tabular` measures."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from experiments.runs.results import Context, Outcome
from experiments.tabular.methods import chosen, method
from experiments.tabular.problems import table


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Fit one method on one outer fold and score it on the rest."""
    X, y = table(run["problem"], run["max_rows"], run["seed"])
    splits = StratifiedKFold(run["folds"], shuffle=True, random_state=run["seed"])
    train, test = list(splits.split(X, y))[run["fold"]]
    model = method(run["method"], run["inner_folds"], run["seed"], X.shape[1])
    start = time.perf_counter()
    model.fit(X[train], y[train])
    seconds = time.perf_counter() - start
    predicted = model.predict(X[test])
    return Outcome(
        {
            "test_accuracy": float(np.mean(predicted == y[test])),
            "fit_seconds": seconds,
            "n_train": len(train),
            "n_test": len(test),
            "n_features": X.shape[1],
            "n_classes": len(np.unique(y)),
            "chosen": chosen(model),
        }
    )
