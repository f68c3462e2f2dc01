"""Figure 3(a): accuracy and stability of activations against the scale alpha.

Chizat, Oyallon and Bach 2019, Section 3.2: VGG-11 on CIFAR-10, square loss over alpha^2, from
alpha = 1, where the network learns features, to alpha = 1e7 and to the linearized model itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments import held_out, networks
from experiments.results import Context, Outcome
from experiments.usage import UsageError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "Figure 3(a): accuracy and stability of activations against alpha, from 1 to infinity"

_GRID = tuple(10.0**k for k in range(-3, 4))


@dataclass(frozen=True)
class Settings:
    """Settings of Figure 3(a)."""

    dataset: str = "digits"
    """digits (comes with scikit-learn) or cifar10"""
    model: str = "vgg11"
    """vgg11, resnet18, mlp; torchvision:NAME or timm:NAME; or your own as FILE.py:FUNCTION or
    PACKAGE.MODULE:FUNCTION: the function is called with (input_shape, n_outputs, generator) and
    returns a torch module; edited, its file makes other runs"""
    alphas: tuple[float, ...] = (1.0, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, math.inf)
    """scales; inf is the linearized model"""
    seeds: tuple[int, ...] = (0, 1)
    """a run each: the seed draws images, initial weights and batches"""
    n_train: int | None = 1000
    """training images, every class in its share; None takes all"""
    n_test: int | None = 500
    """test images"""
    width: float = 0.25
    """channels as a multiple of the original's"""
    gain: float = 1.0
    """Xavier gain of the initial weights"""
    loss: Literal["square", "cross_entropy"] = "square"
    """square loss or cross entropy, scaled by 1/alpha^2"""
    lrs: tuple[float | Literal["auto", "held-out"], ...] = ("auto",)
    """learning rates; auto is a tenth of the stability edge, held-out the best of rate_fractions
    of the edge on a held-out tenth of the training images. With several, the figure shows for
    every alpha the one of least training loss, and a second figure shows them all
    (--lrs auto 1.0 compares the stable rate with the published one)"""
    tune: bool = False
    """try the paper's grid of rates, 10^k for k = -3 ... 3, instead of lrs"""
    epochs: int = 20
    """passes over the training images"""
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


PRESETS = {
    "smoke": Settings(
        alphas=(1.0, 1e3, math.inf), seeds=(0,), n_train=60, n_test=40, width=0.04, epochs=2
    ),
    "laptop": Settings(),
    "laptop/cifar10": Settings(dataset="cifar10", n_train=2000, n_test=1000, epochs=10),
    # All images on two cores, every rate by one rule that sees no test image.
    "full": Settings(
        dataset="cifar10",
        alphas=(1.0, 1e7, 1e2, 10.0, 1e3, 1e4, math.inf, 1e5, 1e6),
        seeds=(0,),
        n_train=None,
        n_test=None,
        lrs=("held-out",),
        epochs=30,
        lr_decay=0.1,
        batch_size=64,
        augment=True,
    ),
    # Section 3.2; decay, batch and augmentation as in the published code.
    "paper": Settings(
        dataset="cifar10",
        seeds=(0,),
        n_train=None,
        n_test=None,
        width=1.0,
        lrs=(1.0,),
        epochs=70,
        lr_decay=1 / 3,
        batch_size=128,
        augment=True,
    ),
}


def runs(settings: Settings) -> list[dict[str, Any]]:
    """One run a seed, an alpha and a rate; the first seed of all alphas comes first."""
    own = networks.identity(settings.model)
    for alpha in settings.alphas:
        if not alpha > 0:
            raise UsageError(f"--alphas must be positive, inf included; got {alpha:g}")
    lrs = _GRID if settings.tune else settings.lrs
    if not (settings.alphas and settings.seeds and lrs):
        raise UsageError("--alphas, --seeds and --lrs need one value at least")
    names = ("dataset", "model", "n_train", "n_test", "width", "gain", "loss", "epochs")
    others = ("lr_decay", "momentum", "batch_size", "augment")
    shared = {name: getattr(settings, name) for name in (*names, *others)}
    shared |= own
    trials = held_out.trial_settings(settings)
    return [
        {
            **shared,
            "alpha": alpha,
            "rate": lr,
            **(trials if lr == held_out.HELD_OUT else {}),
            "seed": seed,
        }
        for seed in settings.seeds
        for alpha in settings.alphas
        for lr in lrs
    ]


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Train one network and measure accuracy and stability."""
    import warnings

    from tangent import LazyClassifier

    data = context.load(run["dataset"]).subset(run["n_train"], run["n_test"], run["seed"])
    X, y, X_test, y_test = data.arrays()
    same = ("alpha", "width", "gain", "loss", "epochs", "lr_decay", "momentum", "batch_size")
    chosen = run["rate"] == held_out.HELD_OUT
    model = LazyClassifier(
        networks.factory(run["model"], source=run.get("source"))
        if ":" in run["model"]
        else run["model"],
        lr="auto" if chosen else run["rate"],
        **{name: run[name] for name in (*same, "augment")},
        image_shape=data.image_shape,
        device=context.device,
        dtype=context.dtype,
        random_state=run["seed"],
        checkpoint=context.checkpoint,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trials: dict[str, list[Any]] = {}
        if chosen:
            lr, trials = held_out.rate_of_run(model, X, y, run, context)
            model.set_params(lr=lr)
        model.fit(X, y)
    ours = (w for w in caught if not issubclass(w.category, DeprecationWarning | FutureWarning))
    for message in dict.fromkeys(str(warning.message) for warning in ours):
        context.log(message)
    held_out.forget(context)
    gates = model.stability_of_activations(X_test)
    relus = {name: value for name, value in gates.items() if not _is_pool(model, name)}
    metrics = {
        "train_accuracy": float(model.score(X, y)),
        "test_accuracy": float(model.score(X_test, y_test)),
        "train_loss": float(model.history_["loss"][-1]),
        "stability": sum(relus.values()) / len(relus) if relus else math.nan,
        "stability_of_last": list(relus.values())[-1] if relus else math.nan,
        "lr": model.lr_,
        "stability_edge": model.stability_edge_,
        "parameters": model.n_parameters_,
    }
    curves = {
        "loss": model.history_["loss"].tolist(),
        "gates": list(gates),
        "stability_of_gates": list(gates.values()),
        **{f"trial_{name}": values for name, values in trials.items()},
    }
    return Outcome(metrics, curves)


def _is_pool(model: Any, gate: str) -> bool:
    """Whether a gate is a max pooling: the paper's curve is of the ReLUs."""
    modules = dict(model.module_.network.named_modules())
    kind = type(modules[gate]).__name__ if gate in modules else gate
    return "maxpool" in kind.lower().replace("_", "")


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the figure and its table, and those of all rates where there are several."""
    from experiments import plots
    from experiments.fig3a_figure import against_alpha, alpha_table
    from experiments.fig3a_rates import against_rate, rates_table
    from experiments.report import write_table

    paths = write_table(alpha_table(results), folder, "fig3a")
    with plots.style():
        paths += plots.save_figure(against_alpha(results), folder, "fig3a")
        if results["rate"].nunique() > 1:
            paths += write_table(rates_table(results), folder, "fig3a-rates")
            paths += plots.save_figure(against_rate(results), folder, "fig3a-rates")
    return paths
