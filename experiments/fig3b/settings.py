"""Figure 3(b): networks, lazy networks and linearized networks beside fixed representations.

Chizat, Oyallon and Bach 2019, Section 3.2. Every method is a scikit-learn classifier, fitted on
the same images; the paper's numbers stand beside ours and are marked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from experiments.networks import held_out, named
from experiments.networks.rows import (
    EXACT,
    STOPPED,
    NetworkRow,
    network_rows,
    row_method,
    split_method,
)
from experiments.usage import UsageError, one_of

SUMMARY = "Figure 3(b): lazy and linearized CNNs beside random features, scattering and kernels"


METHODS = (
    "vgg11",
    "vgg11-lazy",
    "vgg11-linear",
    "resnet18",
    "resnet18-lazy",
    "resnet18-linear",
    "random-features",
    "scattering",
    "gaussian",
)


DIRECT_METHODS = ("vgg11-direct", "resnet18-direct")
EXACT_METHODS = ("vgg11-exact", "resnet18-exact")
STOPPED_METHODS = ("vgg11-stopped", "resnet18-stopped")
_ALL_METHODS = (*METHODS, *DIRECT_METHODS, *EXACT_METHODS, *STOPPED_METHODS)


@dataclass(frozen=True)
class Settings:
    """Settings of Figure 3(b)."""

    dataset: str = "digits"
    """digits and other sets of scikit-learn (wine, iris, breast_cancer: tables, for mlp and the
    Gaussian kernel), cifar10, or your own: folder:PATH[@SIDE], a tree of images with a folder a
    class, or npz:PATH"""
    methods: tuple[str, ...] = METHODS
    """rows of the table: NETWORK (alpha = 1), NETWORK-lazy (lazy_alpha) and NETWORK-linear
    (alpha = inf) for vgg11 and resnet18; random-features, scattering, gaussian; on request also
    NETWORK-exact, the linearized network solved instead of trained (a kernel of all images),
    NETWORK-stopped, solved by conjugate gradients (no kernel, any number of images), and
    NETWORK-direct, the lazy network by subtraction of two networks, which rounds (see precision)"""
    networks: tuple[str, ...] = ()
    """rows of any network, in this order, beside the methods: NETWORK:SCALE with a scale of a
    number, lazy, inf (linearized and trained), exact (linearized and solved by its kernel) or
    stopped (linearized and solved by conjugate gradients that end where held-out images are best),
    NETWORK alone for 1, lazy, inf and exact. vgg11, resnet18 and mlp may have a width,
    vgg11:0.5:1e7; designed_cnn, built from the training images; torchvision:NAME, timm:NAME;
    FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, called with (input_shape, n_outputs, generator)"""
    weights: tuple[str, ...] = ()
    """NETWORK=FILE, a state dict in safetensors for a network of the rows"""
    seeds: tuple[int, ...] = (0, 1)
    """a run each: the seed draws images, initial weights, batches and random features"""
    n_train: int | None = 1000
    """training images, every class in its share; None takes all"""
    n_test: int | None = 500
    """test images"""
    lazy_alpha: float = 1e7
    """the scale of the lazy rows"""
    vgg11_width: float = 0.125
    """channels of VGG-11 as a multiple of the original's"""
    resnet18_width: float = 0.125
    """channels of ResNet-18 as a multiple of the original's"""
    vgg11_gain: float = 1.3
    """Xavier gain of VGG-11's weights"""
    resnet18_gain: float = 1.2
    """Xavier gain of ResNet-18's weights"""
    loss: Literal["cross_entropy", "square"] = "cross_entropy"
    """cross entropy or square loss, scaled by 1/alpha^2"""
    epochs: int = 6
    """passes over the training images at alpha = 1"""
    lazy_epochs: int = 6
    """passes of the lazy and linearized networks"""
    vgg11_lr: float | Literal["auto", "held-out"] = 0.01
    """learning rate of VGG-11 at alpha = 1; auto takes a tenth of the linearized problem's
    stability edge, measured on one mini-batch; held-out tries rate_fractions of that edge on a
    part of the training images and takes the best on a held-out tenth of them"""
    vgg11_lazy_lr: float | Literal["auto", "held-out"] = "auto"
    """learning rate of VGG-11, lazy and linearized"""
    resnet18_lr: float | Literal["auto", "held-out"] = 0.003
    """learning rate of ResNet-18 at alpha = 1"""
    resnet18_lazy_lr: float | Literal["auto", "held-out"] = "auto"
    """learning rate of ResNet-18, lazy and linearized"""
    network_lr: float | Literal["auto", "held-out"] = "auto"
    """learning rate of every other network at alpha = 1"""
    network_lazy_lr: float | Literal["auto", "held-out"] = "auto"
    """learning rate of every other network, lazy and linearized"""
    rate_fractions: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
    """rates that held-out tries, as multiples of the stability edge"""
    trial_images: int = 15_000
    """training images of a trial"""
    trial_epochs: int = 2
    """passes of a trial"""
    lr_decay: float = 0.0
    """beta in lr / (1 + beta t), t in epochs"""
    momentum: float = 0.9
    """heavy-ball momentum"""
    batch_size: int = 32
    """images a step"""
    augment: bool = False
    """random crops and flips"""
    n_filters: int = 128
    """filters of the random features"""
    scattering_scale: int = 2
    """J: the scattering averages over 2^J pixels"""
    n_components: int = 1000
    """landmarks of the Gaussian kernel"""
    max_steps: int = 300
    """conjugate gradients' steps at most; a step is two passes over the images"""
    patience: int = 30
    """steps without a better accuracy on held-out images after which they stop"""


# The linearized networks solved beside their SGD, which gets the same loss and 70 epochs.
_EXACT = Settings(
    methods=("vgg11-linear", "vgg11-exact", "resnet18-linear", "resnet18-exact"),
    seeds=(0,),
    n_train=600,
    n_test=1000,
    loss="square",
    lazy_epochs=70,
)


# All images on two cores: networks narrower than the paper's, every rate by one rule that
# sees no test image. The fixed representations' rows are those of `experiments baselines`.
_FULL = Settings(
    dataset="cifar10",
    methods=(),
    networks=(
        "vgg11:0.25:1",
        "vgg11:0.25:1e7",
        "vgg11:0.5:1",
        "vgg11:0.5:1e7",
        "vgg11:1:1",
        "vgg11:1:1e7",
        "resnet18:0.25:1",
        "resnet18:0.25:1e7",
        "vgg11:0.125:1e7",
    ),
    seeds=(0,),
    n_train=None,
    n_test=None,
    epochs=30,
    lazy_epochs=30,
    vgg11_lr="held-out",
    vgg11_lazy_lr="held-out",
    resnet18_lr="held-out",
    resnet18_lazy_lr="held-out",
    lr_decay=0.1,
    batch_size=64,
    augment=True,
)


# Learning rates on CIFAR-10 at "laptop" follow one rule: none is chosen on the test images. On
# digits that rule suits the lazy networks only: at alpha = 1 one seed of VGG-11 diverges.
PRESETS = {
    "smoke": Settings(
        seeds=(0,),
        n_train=60,
        n_test=40,
        vgg11_width=0.03,
        resnet18_width=0.03,
        epochs=1,
        lazy_epochs=1,
        n_filters=16,
        n_components=30,
    ),
    "laptop": Settings(),
    "laptop/cifar10": Settings(
        dataset="cifar10",
        n_train=5000,
        n_test=2000,
        vgg11_width=0.25,
        vgg11_lr="auto",
        resnet18_lr="auto",
        epochs=10,
        lazy_epochs=10,
        n_filters=256,
        n_components=2000,
    ),
    "exact": _EXACT,
    "exact/cifar10": replace(_EXACT, dataset="cifar10", vgg11_width=0.25),
    "full": _FULL,
    # What optimization loses (solved against trained) and what the kernel does (alpha = 1 against
    # solved), on the same images: no crops, no flips, the loss that is solved.
    "solved": replace(
        _FULL,
        networks=("vgg11:0.25:1", "vgg11:0.25:inf", "vgg11:0.25:stopped"),
        vgg11_gain=1.0,
        loss="square",
        augment=False,
    ),
    # A network and images of one's own: all of them, the fixed representations beside it.
    "own": Settings(
        methods=("random-features", "scattering", "gaussian"),
        networks=("designed_cnn:exact",),
        seeds=(0,),
        n_train=None,
        n_test=None,
        epochs=10,
        lazy_epochs=10,
    ),
    # Section 3.2 and the published code; loss, widths, batch size and rates of the wide networks.
    "paper": Settings(
        dataset="cifar10",
        n_train=None,
        n_test=None,
        vgg11_width=8,
        resnet18_width=7,
        epochs=70,
        lazy_epochs=70,
        vgg11_lr=0.01,
        vgg11_lazy_lr=1.0,
        resnet18_lr=0.01,
        resnet18_lazy_lr=1.0,
        lr_decay=1 / 3,
        batch_size=8,
        n_filters=4096,
        n_components=4000,
    ),
}


_OWN_SETTINGS = ("vgg11", "resnet18")  # networks with widths, gains and rates of their own
_SOLVED: dict[str, Callable[[Settings], dict[str, Any]]] = {
    EXACT: lambda s: {"outputs": "auto", "validation": 0.2},
    STOPPED: lambda s: {"max_steps": s.max_steps, "patience": s.patience},
}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run a row and a seed; the first seed of all rows comes first."""
    for method in settings.methods:
        one_of("method", method, _ALL_METHODS)
    rows = network_rows(settings.networks, settings.lazy_alpha, settings.weights)
    if not (settings.methods or rows) or not settings.seeds:
        raise UsageError("--methods (or --networks) and --seeds need one value at least")
    known = {row.model: named.identity(row.model, row.weights, designed=True) for row in rows}
    return [
        run
        for seed in settings.seeds
        for run in (
            *(_run(settings, method, seed) for method in settings.methods),
            *(_row_run(settings, row, known[row.model], seed) for row in rows),
        )
    ]


def _run(settings: Settings, method: str, seed: int) -> dict[str, Any]:
    """What determines the result of one method: its own settings and no others."""
    model, kind = split_method(method)
    if model in _OWN_SETTINGS:
        finite = {"": 1.0, "lazy": settings.lazy_alpha, "direct": settings.lazy_alpha}
        solved = kind if kind in _SOLVED else None
        row = NetworkRow(model, finite.get(kind, math.inf), solved=solved)
        return _row_run(settings, row, {}, seed, method)
    own = {
        "random-features": {"n_filters": settings.n_filters},
        "scattering": {"scale": settings.scattering_scale},
        "gaussian": {"n_components": settings.n_components},
    }
    return {**_images(settings, method, seed), **own[method]}


def _images(settings: Settings, method: str, seed: int) -> dict[str, Any]:
    return {
        "dataset": settings.dataset,
        "method": method,
        "n_train": settings.n_train,
        "n_test": settings.n_test,
        "seed": seed,
    }


def _row_run(
    settings: Settings,
    row: NetworkRow,
    known: dict[str, str],
    seed: int,
    method: str | None = None,
) -> dict[str, Any]:
    """What determines the result of a network at a scale; the row's name follows from it."""
    method = method or row_method(row.model, row.alpha, solved=row.solved)
    shared = _images(settings, method, seed)
    network = {**_network(settings, row), **known}
    if row.solved:
        solution = {"alpha": math.inf, "loss": "square", **_SOLVED[row.solved](settings)}
        return {**shared, **network, **solution}
    lazy = method != row.model
    rates = row.model if row.model in _OWN_SETTINGS else "network"
    lr = getattr(settings, f"{rates}_lazy_lr" if lazy else f"{rates}_lr")
    return {
        **shared,
        **({"parametrization": "direct"} if method.endswith("-direct") else {}),
        **network,
        "alpha": row.alpha,
        "loss": settings.loss,
        "epochs": settings.lazy_epochs if lazy else settings.epochs,
        "lr": lr,
        **(held_out.trial_settings(settings) if lr == held_out.HELD_OUT else {}),
        "lr_decay": settings.lr_decay,
        "momentum": settings.momentum,
        "batch_size": settings.batch_size,
        "augment": settings.augment,
    }


def distributed(run: dict[str, Any]) -> bool:
    """Whether the processes of ``torchrun`` compute a run together: it trains a network."""
    return "epochs" in run


def _network(settings: Settings, row: NetworkRow) -> dict[str, Any]:
    """What determines the network, beside its identity."""
    found: dict[str, Any] = {"model": row.model}
    if row.model in _OWN_SETTINGS:
        width = getattr(settings, f"{row.model}_width") if row.width is None else row.width
        found |= {"width": width, "gain": getattr(settings, f"{row.model}_gain")}
    elif row.model in named.NAMES:
        found["width"] = 1.0 if row.width is None else row.width
    if row.weights is not None:
        found["weights"] = row.weights
    return found
