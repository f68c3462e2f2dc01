"""The non-learned competitors at full strength: accuracy against features and training images.

Each run fits one classifier on a draw of the training images and scores it on the test images;
time and memory are recorded with it. Published points, on the lossless images, stand beside ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from experiments.usage import UsageError, one_of

SUMMARY = "Random patches, scattering and kernels: accuracy against features and training images"


@dataclass(frozen=True)
class Competitor:
    """A method: what its sizes count, how it is shown, and what makes it."""

    sizes: str
    """the field of `Settings` that has them"""
    label: str
    marker: str
    dash: str = "-"
    coloured_as: str = ""
    """the method whose colour it has in all figures; by default its own"""
    made_by: str = ""
    """``module:function`` of a size, flips, image_shape and random_state, to an estimator with the
    fitted part ``head_``; without it, `experiments.baselines.measure` knows"""
    options: dict[str, Any] = field(default_factory=dict)
    """further arguments of the function"""


COMPETITORS = {
    "random-patches": Competitor("filters", "random patches, ridge", "o"),
    "random-patches-gaussian": Competitor("filters", "random patches, Gaussian kernel", "D", "--"),
    "scattering-ridge": Competitor("scales", "scattering, ridge", "s", "--"),
    "scattering-gaussian": Competitor("scales", "scattering, Gaussian kernel", "^"),
    "roto-translation": Competitor(
        "selected", "roto-translation scattering, selection, Gaussian kernel", "v"
    ),
    "gaussian-nystroem": Competitor(
        "components",
        "pixels, Gaussian kernel (Nystroem), ridge",
        "P",
        made_by="baselines:gaussian_kernel_classifier",
        options={"method": "nystroem"},
    ),
    "gaussian-fourier": Competitor(
        "components",
        "pixels, random Fourier features, ridge",
        "X",
        made_by="baselines:gaussian_kernel_classifier",
        options={"method": "fourier"},
    ),
    "arc-cosine": Competitor(
        "components",
        "pixels, random ReLU features, ridge",
        "d",
        coloured_as="linear",
        made_by="baselines:arc_cosine_classifier",
    ),
    "relu-nngp": Competitor(
        "depths", "pixels, infinite ReLU network, last layer (NNGP)", "<", "--", "mlp"
    ),
    "relu-ntk": Competitor(
        "depths", "pixels, infinite ReLU network, tangent kernel", ">", coloured_as="mlp"
    ),
    "convolutional-ntk": Competitor(
        "depths",
        "convolutional tangent kernel, average pooling",
        "h",
        coloured_as="tangent-kernel",
    ),
}


METHODS = tuple(COMPETITORS)


FLIPS = ("none", "average", "double")


FEW = 12_000  # training rows up to which features are held twice, and no landmarks are taken


@dataclass(frozen=True)
class Settings:
    """Settings of the comparison of baselines."""

    dataset: str = "digits"
    """data set"""
    methods: tuple[str, ...] = tuple(m for m in METHODS if m != "convolutional-ntk")
    """methods; convolutional-ntk has to be asked for, a pair of images takes it long"""
    n_train: tuple[int, ...] = (300, 1_200)
    """training images, a run each"""
    n_test: int = 500
    """test images"""
    filters: tuple[int, ...] = (64, 256)
    """random patch filters, a run each"""
    patch_size: int = 6
    """side of a patch"""
    scales: tuple[int, ...] = (2,)
    """scattering scales J, a run each"""
    components: tuple[int, ...] = (500,)
    """landmarks or random frequencies on pixels, a run each"""
    selected: tuple[int, ...] = (20,)
    """roto-translation features selected for each class and round, a run each"""
    depths: tuple[int, ...] = (3,)
    """hidden layers of infinitely wide networks, a run each"""
    convolutional_side: int = 8
    """pixels a side that images are averaged down to for the convolutional kernel"""
    landmarks: int = 0
    """landmarks of a Gaussian kernel machine with more than 12,000 training images; 0 is exact"""
    flips: str = "none"
    """mirror images: none, average or double"""
    seeds: tuple[int, ...] = (0,)
    """draws of images and of random features"""
    rows: tuple[str, ...] = ()
    """these rows only, METHOD:SIZE:IMAGES or METHOD:SIZE:IMAGES:FLIPS, in this order"""


PRESETS = {
    "smoke": Settings(
        methods=METHODS,
        n_train=(60,),
        n_test=40,
        filters=(8,),
        components=(30,),
        scales=(1,),
        selected=(3,),
        depths=(1,),
        convolutional_side=4,
    ),
    "laptop": Settings(),
    "laptop/cifar10": Settings(
        dataset="cifar10",
        n_train=(2_000, 10_000),
        n_test=10_000,
        filters=(256, 1_024, 4_096),
        components=(2_000,),
        selected=(200,),
    ),
    # Not in the paper, which quotes the competitors from elsewhere: all of CIFAR-10.
    "paper": Settings(
        dataset="cifar10",
        n_train=(10_000, 50_000),
        n_test=10_000,
        filters=(256, 1_024, 4_096),
        components=(4_000,),
        scales=(2, 3),
        selected=(400,),
    ),
    # One row for each accuracy that other programs have reached on JPEG-75, cheapest first.
    "targets": Settings(
        dataset="cifar10",
        n_test=10_000,
        rows=(
            "random-patches:1024:10000",
            "random-patches:1024:10000:average",
            "scattering-gaussian:2:10000",
            "scattering-gaussian:2:10000:average",
            "random-patches-gaussian:1024:10000",
            "random-patches:1024:50000",
            "random-patches:4096:10000:average",
            "scattering-gaussian:2:50000:average",
            "random-patches-gaussian:1024:50000:average",
            "roto-translation:200:10000",
            "roto-translation:200:50000",
        ),
    ),
}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run a method, a size, a number of training images and a seed."""
    for method in settings.methods:
        one_of("method", method, METHODS)
    one_of("flips", settings.flips, FLIPS)
    for name in ("n_train", "filters", "scales", "components", "selected", "depths"):
        if min(getattr(settings, name), default=0) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be numbers above 0")
    rows = [_row(text) for text in settings.rows] or [
        (method, size, n_train, settings.flips)
        for method in settings.methods
        for size in getattr(settings, COMPETITORS[method].sizes)
        for n_train in settings.n_train
    ]
    return [
        {
            "dataset": settings.dataset,
            "method": method,
            "size": size,
            "n_train": n_train,
            "n_test": settings.n_test,
            **_only_where_used(settings, method, n_train),
            "flips": flips,
            "seed": seed,
        }
        for method, size, n_train, flips in rows
        for seed in settings.seeds
    ]


def _row(text: str) -> tuple[str, int, int, str]:
    """Method, size, training images and flips of one of ``Settings.rows``."""
    words = text.split(":")
    if len(words) not in (3, 4) or not all(w.isdecimal() and int(w) > 0 for w in words[1:3]):
        raise UsageError(f"--rows takes METHOD:SIZE:IMAGES[:FLIPS], numbers above 0; got {text!r}")
    one_of("method", words[0], METHODS)
    flips = words[3] if len(words) == 4 else "none"
    one_of("flips", flips, FLIPS)
    return words[0], int(words[1]), int(words[2]), flips


def _only_where_used(settings: Settings, method: str, n_train: int) -> dict[str, Any]:
    used: dict[str, Any] = {}
    if method.startswith("random-patches"):
        used["patch_size"] = settings.patch_size
    if method == "convolutional-ntk":
        used["convolutional_side"] = settings.convolutional_side
    if settings.landmarks and is_gaussian_machine(method) and n_train > FEW:
        used["landmarks"] = settings.landmarks
    return used


def is_gaussian_machine(method: str) -> bool:
    """Whether a method ends in a machine with a Gaussian kernel, whose landmarks can be set."""
    return method in ("random-patches-gaussian", "scattering-gaussian", "roto-translation")
