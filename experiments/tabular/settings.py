"""Small tables: tangent kernels beside scikit-learn's classifiers, tuned alike.

Every method sees the same outer folds. scikit-learn's methods, and the support vector machine on
the tangent kernel, are tuned by cross validation inside each training fold;
`tangent.TangentKernelClassifier` is taken as it comes and tunes itself by leaving one out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.usage import UsageError, one_of

SUMMARY = "Small tables: tangent-kernel classifiers beside SVC, kernel ridge, forest and boosting"


DTYPE = "float64"


PROBLEMS = (
    "iris",
    "wine",
    "breast-cancer",
    "digits",
    "moons",
    "circles",
    "clusters-20",
    "clusters-50",
    "shells",
    "hastie",
    "blobs",
)


METHODS = (
    "tangent-kernel",
    "tangent-kernel-svc",
    "svc",
    "kernel-ridge",
    "random-forest",
    "gradient-boosting",
)


@dataclass(frozen=True)
class Settings:
    """Settings of the tabular comparison."""

    problems: tuple[str, ...] = PROBLEMS
    """the classification sets that scikit-learn ships, and make_* problems"""
    methods: tuple[str, ...] = METHODS
    """rows of the table"""
    folds: int = 5
    """outer folds; each is tested once"""
    inner_folds: int = 3
    """folds of the cross validation that tunes the others"""
    max_rows: int = 600
    """rows of a problem, drawn in the classes' shares when it has more"""
    seed: int = 0
    """problems, folds, initial weights, forests"""


PRESETS = {
    "smoke": Settings(
        problems=("iris", "moons"),
        methods=("tangent-kernel", "svc", "kernel-ridge"),
        folds=2,
        inner_folds=2,
        max_rows=80,
    ),
    # Not seed 0: the defaults of TangentKernelClassifier were settled on that seed's folds.
    "laptop": Settings(methods=tuple(m for m in METHODS if m != "tangent-kernel-svc"), seed=1),
    # Not in the paper; every row of every problem, with a longer inner cross validation.
    "paper": Settings(folds=10, inner_folds=5, max_rows=100_000, seed=1),
}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run a problem, a method and an outer fold."""
    for problem in settings.problems:
        one_of("problem", problem, PROBLEMS)
    for method in settings.methods:
        one_of("method", method, METHODS)
    if settings.folds < 2 or settings.inner_folds < 2:
        raise UsageError("--folds and --inner-folds must be at least 2")
    return [
        {
            "problem": problem,
            "method": method,
            "fold": fold,
            "folds": settings.folds,
            "inner_folds": settings.inner_folds,
            "max_rows": settings.max_rows,
            "seed": settings.seed,
        }
        for problem in settings.problems
        for method in settings.methods
        for fold in range(settings.folds)
    ]
