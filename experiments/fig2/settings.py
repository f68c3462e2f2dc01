"""Figure 2: how width and scale decide between learning features and laziness.

Chizat, Oyallon and Bach 2019, Section 3.1. (a): test loss against the width m for the scalings
1/sqrt(m) (lazy as m grows) and 1/m (not lazy), beside the infinite-width lazy limit. (b):
population loss against the scale tau of a doubled initialization, by stochastic gradient descent
on fresh inputs, beside the best population loss of the tangent model. The two references are
exact and not in the paper.

Panel (b) follows the published code: the student is divided by m, the teacher by the batch size,
gradients carry no factor 1/m, and the step of the hidden weights is d times that of the output
weights. In the displacement ``u = alpha (w - w0)`` with ``alpha = tau**2 / m`` all of this is one
step size ``min(step / tau**2, largest) * alpha``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.usage import UsageError, one_of

SUMMARY = "Figure 2: test loss against width for two scalings, population loss against tau"


PARTS = ("a", "b")


_OF_B = (
    "taus",
    "units",
    "batch_size",
    "population_steps",
    "population_step",
    "largest_step",
    "teacher_divisor",
    "window",
    "shared_draws",
)


_TAUS = (0.01, 0.02, 0.04, *(round(10 ** (-1 + 0.1 * i), 8) for i in range(11)), 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Settings:
    """Settings of Figure 2."""

    parts: tuple[str, ...] = PARTS
    """a (test loss against width) and b (population loss against tau)"""
    seeds: tuple[int, ...] = tuple(range(5))
    """repetitions: 5 in the text, 10 in the published code"""
    features: int = 100
    """dimension of the inputs of panel a"""
    widths: tuple[int, ...] = (2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512)
    """hidden units m of panel a"""
    units_together: int = 1024
    """repetitions of a width are kept in one result file up to so many units"""
    n_train: int = 1000
    """training inputs of panel a"""
    n_test: int = 1000
    """test inputs of panel a"""
    teacher_scale: float = 100.0
    """multiplies the targets of panel a"""
    steps: int = 25_000
    """steps of gradient descent in panel a"""
    root_step: float = 1.0
    """step size times m for the scaling 1/sqrt(m)"""
    inverse_step: float = 0.05
    """step size times m for the scaling 1/m"""
    population_features: int = 100
    """dimension of the inputs of panel b"""
    population_together: int = 5
    """repetitions of panel b kept in one result file"""
    taus: tuple[float, ...] = _TAUS
    """scales of the initialization in panel b"""
    units: int = 50
    """hidden units of panel b (doubled: half of them are different)"""
    batch_size: int = 200
    """fresh inputs a step in panel b"""
    population_steps: int = 20_000
    """steps of stochastic gradient descent in panel b"""
    population_step: float = 0.25
    """step size times tau**2 in panel b"""
    largest_step: float = 25.0
    """largest step size in panel b"""
    teacher_divisor: float = 200.0
    """divides the targets of panel b (the batch size in the published code)"""
    window: int = 2000
    """batch losses averaged at the end of panel b"""
    shared_draws: bool = True
    """all tau of a repetition see the same inputs and initialization; the published code draws
    both anew for each"""


PRESETS = {
    "smoke": Settings(
        seeds=(0, 1),
        features=10,
        widths=(2, 4, 8),
        n_train=40,
        n_test=40,
        teacher_scale=10.0,
        steps=60,
        taus=(0.05, 0.3, 2.0),
        population_features=10,
        units=6,
        batch_size=20,
        population_steps=60,
        window=20,
    ),
    "laptop": Settings(
        seeds=(0, 1, 2),
        features=50,  # ten training inputs a dimension, as printed
        widths=(2, 3, 4, 8, 16, 32, 64, 128, 256, 512),
        units_together=192,
        n_train=500,
        n_test=500,
        steps=8000,
        taus=(0.01, 0.04, 0.1, 0.15848932, 0.25118864, 0.39810717, 0.63095734, 1.0, 2.0, 8.0),
        population_steps=6000,
        window=1000,
    ),
    "paper": Settings(),
    "published-code": Settings(seeds=tuple(range(10)), shared_draws=False),
}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """Runs of panel a (a limit, then the widths) and of panel b."""
    for part in settings.parts:
        one_of("part", part, PARTS)
    if not settings.seeds:
        raise UsageError("--seeds needs one value at least")
    if settings.units % 2:
        raise UsageError("--units must be even: the networks are doubled")
    if settings.units_together < 1 or settings.population_together < 1:
        raise UsageError("--units-together and --population-together must be at least 1")
    found: list[dict[str, Any]] = []
    if "a" in settings.parts:
        names = ("features", "n_train", "n_test", "teacher_scale", "steps")
        common = {name: getattr(settings, name) for name in names}
        limit = {"figure": "fig2", "part": "a-limit", "seeds": settings.seeds, **common}
        found.append(limit | {"root_step": settings.root_step})
        for m in settings.widths:
            count = max(1, settings.units_together // m)
            for i in range(0, len(settings.seeds), count):
                group = {"figure": "fig2", "part": "a", "m": m, "seeds": settings.seeds[i:][:count]}
                step = {"root_step": settings.root_step, "inverse_step": settings.inverse_step}
                found.append(group | common | step)
    if "b" in settings.parts:
        own = {name: getattr(settings, name) for name in _OF_B}
        own["features"] = settings.population_features
        for i in range(0, len(settings.seeds), settings.population_together):
            some = settings.seeds[i:][: settings.population_together]
            found.append({"figure": "fig2", "part": "b", "seeds": some, **own})
    return found
