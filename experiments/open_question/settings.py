"""The open question of the paper: can a linearized CNN compete with fixed representations?

Chizat, Oyallon and Bach 2019, Section 3.3: "Whether variations of standard architectures and
pipelines can lead to competitive performances with linearized CNNs, remains an open question."
Here one is compared, exactly solved, with random patches and scattering on the same images, and
the steps that lead to it from the paper's VGG-11 are taken one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.usage import UsageError, one_of

SUMMARY = "The open question: a linearized CNN against random patches and scattering"


PARTS = (
    "table",
    "roto-translation",
    "waterfall",
    "wide",
    "infinite",
    "trained",
    "primal",
    "dual",
)


_ORDER = (
    "table",
    "waterfall",
    "pixels",
    "infinite",
    "trained",
    "roto-translation",
    "primal",
    "dual",
)


_PIXELS = ("vgg11", "vgg11-average", "vgg11-global")


_STEPS = ("random", "patches", "whitened", "overlapping", "mirrored", "branches")


_NETWORKS = ("A", "B")


_GAUSSIANS = ("patches, Gaussian", "scattering, Gaussian", "both Gaussians")


_MANY = 4_000  # images from which on more channels pay


LEVERS = (*_PIXELS, *_STEPS)


@dataclass(frozen=True)
class Settings:
    """Settings of the open question."""

    dataset: str = "digits"
    """digits (comes with scikit-learn), cifar10, or your own: folder:PATH[@SIDE], a tree of images
    with a folder a class, or npz:PATH"""
    parts: tuple[str, ...] = PARTS[:-2]
    """table; roto-translation (a row of it, with features selected by labels); waterfall; wide (A
    ever wider); infinite (A's infinite-width kernel); trained (A at alpha = 1); primal (A by its
    normal equations); dual (A and B on many images, kernels in blocks on disk)"""
    n_train: tuple[int, ...] = (100, 300)
    """training images of the table, a run each"""
    n_test: int = 500
    """test images"""
    seeds: tuple[int, ...] = (1, 2)
    """draws of images, filters and weights, a run each; the architecture was chosen on 0"""
    filters: int = 64
    """random patches of the first layer, of all rows that have one"""
    mirror: bool = False
    """average every row over images and mirror images; for photographs, not for digits"""
    channels: tuple[int, ...] = (32, 64)
    """whitened channels, of which the table's A takes the best by leave-one-out: up to 64 below
    4,000 images and 64 or more from there on, where there are such"""
    width: int = 64
    """channels of the linearized convolution"""
    units: int = 512
    """hidden units of each dense branch of B"""
    levers: tuple[str, ...] = LEVERS
    """steps of the waterfall"""
    waterfall_n: int = 200
    """training images of waterfall, wide and trained"""
    waterfall_test: int = 500
    """their test images"""
    waterfall_channels: int = 64
    """whitened channels of waterfall, wide and trained"""
    vgg_width: float = 0.125
    """channels of VGG-11, as a multiple of the original's"""
    widths: tuple[int, ...] = (16, 256)
    """widths of the part wide"""
    infinite_n: int = 200
    """training images of the part infinite, whose time goes with their square"""
    infinite_test: int = 200
    """its test images"""
    epochs: int = 20
    """epochs of the part trained"""
    trained_rates: tuple[float, ...] = (0.1, 0.03)
    """its learning rates, falling to 0"""
    trained_decays: tuple[float, ...] = (0.0, 0.002, 0.005)
    """its weight decays; rate, decay and epoch are chosen on a tenth of the training images"""
    selected: int = 20
    """roto-translation features selected for each class and round"""
    primal_n: int = 1_000
    """training images of the part primal"""
    primal_width: int = 8
    """its width: it takes the features of waterfall_channels channels, squared, in memory"""
    primal_ridges: tuple[float, ...] = (0.1, 0.03, 0.01)
    """its ridges, in units of the kernel's centred diagonal"""
    dual_n: int = 1_000
    """training images of the part dual: 4 bytes times their square in memory, as much on disk"""
    dual_rows: tuple[str, ...] = ("A", "B")
    """its rows, one after the other: A and B in a run; patches, Gaussian; scattering, Gaussian and
    both Gaussians (the sum of both kernels) in another"""
    dual_widths: tuple[float, float] = (1.0, 1.0)
    """its widths of the Gaussian kernels on patches and on scattering; 1 is what leaving one of
    10,000 images out chose, but for patches in one draw of two (1.4)"""
    dual_channels: int = 64
    """its whitened channels"""
    dual_width: int = 64
    """its channels of the linearized convolution"""
    dual_block: int = 500
    """images of a block of its kernel, whose tangent features are held twice"""
    dual_ridges: tuple[float, ...] = (0.3, 0.1, 0.03)
    """ridges of its A and B, tried from the largest until a smaller one is worse; A's kernel has
    mean centred diagonal 1.25, B's 1.85"""
    dual_gaussian_ridges: tuple[float, ...] = (0.3, 0.1, 0.03)
    """ridges of its Gaussian kernels, likewise; they have mean centred diagonal 1 each"""


PRESETS = {
    "smoke": Settings(
        parts=PARTS,
        n_train=(40,),
        n_test=30,
        seeds=(1,),
        filters=8,
        channels=(4, 6),
        width=3,
        units=8,
        waterfall_n=30,
        waterfall_test=20,
        waterfall_channels=6,
        vgg_width=0.02,
        widths=(4,),
        infinite_n=20,
        infinite_test=10,
        epochs=2,
        trained_decays=(0.0, 0.002),
        selected=2,
        primal_n=60,
        primal_width=2,
        dual_n=60,
        dual_channels=6,
        dual_width=3,
        dual_block=25,
    ),
    "laptop": Settings(),
    "laptop/cifar10": Settings(
        dataset="cifar10",
        mirror=True,
        n_train=(500, 1_000, 2_000),
        n_test=2_000,
        filters=256,
        units=2_048,
        waterfall_n=1_000,
        waterfall_test=2_000,
        infinite_n=500,
    ),
    # An hour or so of two cores.
    "subsets": Settings(
        dataset="cifar10",
        mirror=True,
        n_train=(500, 1_000, 2_000, 5_000),
        n_test=2_000,
        filters=512,
        channels=(32, 64, 96),
        width=128,
        units=2_048,
        waterfall_n=1_000,
        waterfall_test=2_000,
        widths=(16, 512),
        infinite_n=1_000,
        infinite_test=2_000,
        epochs=30,
        selected=100,
    ),
    # Not in the paper, which asks the question.
    "paper": Settings(
        dataset="cifar10",
        mirror=True,
        n_train=(500, 1_000, 2_000, 5_000, 10_000),
        n_test=10_000,
        filters=1_024,
        channels=(32, 48, 64, 96),
        width=256,
        units=2_048,
        waterfall_n=5_000,
        waterfall_test=10_000,
        widths=(16, 64, 1_024),
        infinite_n=1_000,
        infinite_test=2_000,
        epochs=40,
        selected=200,
    ),
    # A and B on all images: some hours of two cores, 16 GB, 26 GB of disk, resumable.
    "full": Settings(
        dataset="cifar10",
        mirror=True,
        parts=("dual",),
        n_test=10_000,
        seeds=(1,),
        filters=1_024,
        waterfall_channels=64,
        primal_n=50_000,
        primal_width=64,
        units=2_048,
        dual_n=50_000,
        dual_channels=96,
        dual_width=128,
        dual_block=5_000,
    ),
}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run a draw of images for the table, and one a step and draw for the waterfall."""
    for name in settings.parts:
        one_of("part", name, PARTS)
    for name in settings.levers:
        one_of("lever", name, LEVERS)
    for name in ("n_train", "channels", "seeds"):
        if not getattr(settings, name):
            raise UsageError(f"--{name.replace('_', '-')} needs one value at least")
    found: list[dict[str, Any]] = []
    for seed in settings.seeds:
        common = {"dataset": settings.dataset, "seed": seed}
        for n_train in settings.n_train:
            if "table" in settings.parts:
                found.append({**common, **_table(settings, n_train)})
            if "roto-translation" in settings.parts:
                images = {"n_train": n_train, "n_test": settings.n_test}
                own = {
                    "part": "roto-translation",
                    "selected": settings.selected,
                    "mirror": settings.mirror,
                }
                found.append({**common, **images, **own})
        found += [{**common, **run} for run in _steps(settings)]
    return sorted(found, key=lambda run: (run["n_train"], _ORDER.index(run["part"])))


def _table(settings: Settings, n_train: int) -> dict[str, Any]:
    return {
        "part": "table",
        "n_train": n_train,
        "n_test": settings.n_test,
        "filters": settings.filters,
        "mirror": settings.mirror,
        "channels": _channels(settings.channels, n_train),
        "width": settings.width,
        "units": settings.units,
    }


def _channels(channels: tuple[int, ...], n_train: int) -> tuple[int, ...]:
    """The candidates that suit a number of images; all where none does."""
    fitting = [c for c in channels if (c >= 64 if n_train >= _MANY else c <= 64)]
    return tuple(fitting) or channels


def _steps(settings: Settings) -> list[dict[str, Any]]:
    """The runs of the parts other than the table, but for the draw."""
    images = {"n_train": settings.waterfall_n, "n_test": settings.waterfall_test}
    network = {
        "filters": settings.filters,
        "mirror": settings.mirror,
        "channels": settings.waterfall_channels,
    }
    found: list[dict[str, Any]] = []
    if "waterfall" in settings.parts:
        for lever in settings.levers:
            own: dict[str, Any] = {"vgg_width": settings.vgg_width}
            if lever in _STEPS:
                own = {**network, "width": settings.width}
            if lever == "branches":
                own["units"] = settings.units
            part = "waterfall" if lever in _STEPS else "pixels"
            found.append({**images, **own, "part": part, "lever": lever})
    if "wide" in settings.parts:
        found += [
            {**images, **network, "part": "waterfall", "lever": "mirrored", "width": width}
            for width in settings.widths
        ]
    if "infinite" in settings.parts:
        own = {"n_train": settings.infinite_n, "n_test": settings.infinite_test}
        found.append({**network, **own, "part": "infinite"})
    if "trained" in settings.parts:
        own = {**network, "width": settings.width, "epochs": settings.epochs}
        own |= {"rates": settings.trained_rates, "decays": settings.trained_decays}
        found.append({**images, **own, "part": "trained"})
    if "primal" in settings.parts:
        own = {"n_train": settings.primal_n, "n_test": settings.n_test}
        own |= {"width": settings.primal_width, "ridges": settings.primal_ridges}
        found.append({**network, **own, "part": "primal"})
    if "dual" in settings.parts:
        found += [{**network, **run} for run in _blocked(settings)]
    return found


def _blocked(settings: Settings) -> list[dict[str, Any]]:
    """The runs of the part dual: networks, Gaussian kernels."""
    for row in settings.dual_rows:
        one_of("row", row, (*_NETWORKS, *_GAUSSIANS))
    common = {"n_train": settings.dual_n, "n_test": settings.n_test, "part": "dual"}
    common |= {"channels": settings.dual_channels, "block": settings.dual_block}
    found: list[dict[str, Any]] = []
    networks = tuple(row for row in settings.dual_rows if row in _NETWORKS)
    if networks:
        own = {"rows": networks, "width": settings.dual_width, "units": settings.units}
        found.append({**common, **own, "ridges": settings.dual_ridges})
    gaussians = tuple(row for row in settings.dual_rows if row in _GAUSSIANS)
    if gaussians:
        own = {"rows": gaussians, "widths": settings.dual_widths}
        found.append({**common, **own, "ridges": settings.dual_gaussian_ridges})
    return found
