"""Theorems 2.2 to 2.5, Proposition A.1 and the law of kappa (Chizat, Oyallon and Bach 2019).

Each is run on small models for which its hypotheses hold (smooth activations, float64, an
adaptive integrator) and, as a contrast, on a ReLU network, for which they do not. The verdicts
are computed from the measured numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.usage import UsageError, one_of

SUMMARY = "Theorems 2.2 to 2.5, Proposition A.1 and the law of kappa, with measured verdicts"


DTYPE = "float64"


PARTS = (
    "finite-horizon",
    "held-out",
    "square-loss",
    "over-parameterized",
    "under-parameterized",
    "kappa",
    "not-necessary",
    "wide",
    "mean-field",
)


@dataclass(frozen=True)
class Settings:
    """Settings of the experiments on the theorems."""

    parts: tuple[str, ...] = PARTS
    """finite-horizon (2.2), held-out (Proposition A.1), square-loss (2.3), over-parameterized
    (2.4), under-parameterized (2.5), kappa (Section 2), not-necessary (footnote 3: lazy although
    kappa is large), wide (the remark on wide networks in their standard parametrization),
    mean-field (1/m learns what lazy training cannot: the paper's [7])"""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """repetitions: each draws data and an initialization"""
    alphas: tuple[float, ...] = (4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
    """scales of Theorems 2.2 and 2.5 and Proposition A.1; slopes are fitted from 64 on"""
    horizon: float = 5.0
    """the time T of Theorem 2.2"""
    ks: tuple[float, ...] = (1.0, 4.0, 16.0, 64.0, 100.0)
    """the constants K of Theorem 2.3"""
    square_alphas: tuple[float, ...] = (10.0, 100.0, 1000.0)
    """scales of Theorem 2.3"""
    multiples: tuple[float, ...] = (1.0001, 4.0, 16.0)
    """scales of Theorem 2.4, in units of the smallest that it allows"""
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    """hidden units of the law of kappa; slopes are fitted from 32 on"""
    width_inputs: int = 30
    """inputs of the law of kappa"""
    curvatures: tuple[float, ...] = (0.0, 10.0, 1000.0, 1e5)
    """second derivatives, in a direction that training never takes, of footnote 3"""
    wide_widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """hidden units of both layers of the wide networks"""
    vgg_widths: tuple[float, ...] = (0.0625, 0.125, 0.25, 0.5)
    """widths of VGG-11 among the wide networks"""
    mean_field_widths: tuple[int, ...] = (8, 32, 128)
    """units of the students of mean-field, even"""
    mean_field_inputs: int = 30
    """dimension of its inputs"""
    mean_field_horizon: float = 3000.0
    """time that it trains, 2 a step"""
    kappa_seeds: int = 10
    """repetitions of the law of kappa; the verdict is on their mean"""


PRESETS = {
    "smoke": Settings(
        seeds=(0,),
        alphas=(64.0, 1024.0),
        ks=(1.0, 4.0),
        square_alphas=(10.0, 100.0),
        multiples=(1.0001, 4.0),
        curvatures=(0.0, 1000.0),
        wide_widths=(16, 64),
        vgg_widths=(0.05, 0.2),
        mean_field_widths=(8, 16),
        mean_field_inputs=10,
        mean_field_horizon=400.0,
        widths=(8, 32),
        width_inputs=6,
        kappa_seeds=2,
    ),
    "laptop": Settings(seeds=(0, 1)),
    "paper": Settings(seeds=tuple(range(10))),
}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run a theorem, a model or loss, and a seed."""
    for part in settings.parts:
        one_of("part", part, PARTS)
    if not settings.seeds:
        raise UsageError("--seeds needs one value at least")
    if settings.kappa_seeds < 1:
        raise UsageError(f"--kappa-seeds must be at least 1; got {settings.kappa_seeds}")
    found: list[dict[str, Any]] = []
    for seed in settings.seeds:
        variants: dict[str, list[dict[str, Any]]] = {
            "finite-horizon": [
                {
                    "model": model,
                    "loss": loss,
                    "alphas": settings.alphas,
                    "horizon": settings.horizon,
                }
                for model, loss in (
                    ("tanh", "square"),
                    ("tanh", "logistic"),
                    ("tanh", "bounded"),
                    ("relu", "square"),
                )
            ],
            "held-out": [{"model": "tanh", "alphas": settings.alphas, "horizon": settings.horizon}],
            "square-loss": [
                {"model": model, "ks": settings.ks, "alphas": settings.square_alphas}
                for model in ("quadratic", "relu")
            ],
            "over-parameterized": [
                {"model": model, "condition": condition, "multiples": settings.multiples}
                for model, condition in (("quadratic", 1.0), ("quadratic", 4.0), ("relu", 1.0))
            ],
            "under-parameterized": [
                {"model": model, "alphas": (1.0, *settings.alphas)}
                for model in ("tanh-unit", "relu-unit")
            ]
            + [{"model": "tanh-population", "alphas": settings.alphas}],
            "not-necessary": [
                {"model": "tanh", "curvatures": settings.curvatures, "horizon": settings.horizon}
            ],
            "wide": [{"model": model, "widths": settings.wide_widths} for model in ("tanh", "relu")]
            + [{"model": "vgg11", "widths": settings.vgg_widths}] * bool(settings.vgg_widths),
            "mean-field": [
                {
                    "widths": settings.mean_field_widths,
                    "inputs": settings.mean_field_inputs,
                    "horizon": settings.mean_field_horizon,
                }
            ],
        }
        for part in settings.parts:
            for variant in variants.get(part, ()):
                found.append({"part": part, "seed": seed, **variant})
    if "kappa" in settings.parts:
        common = {"part": "kappa", "widths": settings.widths, "inputs": settings.width_inputs}
        found += [
            {**common, "model": model, "seed": seed}
            for seed in range(settings.kappa_seeds)
            for model in ("tanh", "relu")
        ]
    return found
