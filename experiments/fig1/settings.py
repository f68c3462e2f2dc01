"""Figure 1: a two-layer network leaves the lazy regime as its initialization shrinks.

Chizat, Oyallon and Bach 2019, Section 3.1. (a, b): paths of the units of a doubled network in the
plane, for a small and a large initialization. (c): test loss in 100 dimensions against the scale
tau of the initialization, with the linearized network's own loss as the plateau's reference,
which the paper does not show.

tau multiplies both layers. ReLU networks are homogeneous of degree two, so this is the model
``tau**2 h`` started at tau = 1; steps of the weights become steps of the scaled displacement
times tau**2. Doubling makes the sign of the a_j irrelevant: the published code's absolute values
and the text's Gaussians are one law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from experiments.usage import UsageError, one_of

SUMMARY = "Figure 1: paths of two-layer networks, and test loss against the scale tau"


PARTS = ("ab", "c")


_TAUS = tuple(round(10 ** (-2.2 + 0.1 * i), 8) for i in range(33))


@dataclass(frozen=True)
class Settings:
    """Settings of Figure 1."""

    parts: tuple[str, ...] = PARTS
    """ab (paths in the plane) and c (test loss against tau)"""
    seeds: tuple[int, ...] = tuple(range(10))
    """repetitions of panel c; each draws a teacher, data and an initialization"""
    together: int = 5
    """repetitions of panel c kept in one result file"""
    taus: tuple[float, ...] = _TAUS
    """scales of the initialization in panel c"""
    units: int = 50
    """hidden units of panel c (doubled: half of them are different)"""
    features: int = 100
    """dimension of the inputs of panel c"""
    n_train: int = 1000
    """training inputs of panel c"""
    n_test: int = 1000
    """test inputs of panel c"""
    steps: int = 10_000
    """steps of gradient descent in panel c"""
    step: float = 0.1
    """step size times tau**2 in panel c"""
    largest_step: float = 10.0
    """largest step size in panel c"""
    test_every: int = 10
    """steps between looks at the test loss, for its best value (1 in the published code)"""
    path_seed: int = 4
    """draws the teacher, data and initialization of panels a and b"""
    path_taus: tuple[float, ...] = (0.1, 2.0)
    """scales of the initialization in panels a and b (0.1 and 2 in the published code's comment)"""
    path_units: int = 20
    """hidden units of panels a and b (20 in the text, 16 in the published code)"""
    path_law: Literal["gaussian", "circle"] = "gaussian"
    """gaussian (text), or b on the unit circle and a uniform on (0, 1) (published code)"""
    path_n_train: int = 15
    """training inputs of panels a and b"""
    path_steps: int = 100_000
    """steps of gradient descent in panels a and b"""
    path_step: float = 0.005
    """step size in panels a and b"""
    animate: bool = False
    """write an animation of panels a and b too"""
    animation: Literal["gif", "mp4"] = "gif"
    """its format; mp4 needs ffmpeg"""


PRESETS = {
    "smoke": Settings(
        seeds=(0, 1),
        taus=(0.01, 0.1, 1.0, 10.0),
        units=10,
        features=10,
        n_train=40,
        n_test=40,
        steps=60,
        path_units=6,
        path_steps=300,
    ),
    "laptop": Settings(
        seeds=(0, 1, 2, 3),
        together=1,
        taus=_TAUS[2::3],
        features=50,  # ten inputs a dimension, as printed
        n_train=500,
        n_test=500,
        steps=3000,
        path_steps=50_000,
        path_step=0.01,
    ),
    "paper": Settings(),
    "published-code": Settings(
        test_every=1, path_units=16, path_law="circle", path_taus=(0.2, 2.0)
    ),
}


def check_animation(kind: str) -> None:
    """Raise `UsageError` where animations of this kind cannot be written."""
    from matplotlib.animation import FFMpegWriter

    if kind == "mp4" and not FFMpegWriter.isAvailable():
        raise UsageError(
            "--animation mp4 needs the program ffmpeg, which is not on the path; install it, or "
            "take --animation gif"
        )


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run for panels a and b, and one for every ``together`` repetitions of panel c."""
    for part in settings.parts:
        one_of("part", part, PARTS)
    if not settings.seeds or settings.together < 1:
        raise UsageError("--seeds needs one value at least, and --together at least 1")
    if settings.units % 2 or settings.path_units % 2:
        raise UsageError("--units and --path-units must be even: the networks are doubled")
    if settings.animate:
        one_of("animation", settings.animation, ("gif", "mp4"))
        check_animation(settings.animation)
    found: list[dict[str, Any]] = []
    if "ab" in settings.parts:
        own = ("seed", "taus", "units", "law", "n_train", "steps", "step")
        found.append(
            {
                "figure": "fig1",
                "part": "ab",
                **{name: getattr(settings, f"path_{name}") for name in own},
                "animate": settings.animate,
                **({"animation": settings.animation} if settings.animate else {}),
            }
        )
    if "c" in settings.parts:
        names = ("taus", "units", "features", "n_train", "n_test", "steps", "step")
        common = {name: getattr(settings, name) for name in (*names, "largest_step", "test_every")}
        for i in range(0, len(settings.seeds), settings.together):
            group = settings.seeds[i : i + settings.together]
            found.append({"figure": "fig1", "part": "c", "seeds": group, **common})
    return found
