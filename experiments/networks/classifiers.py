"""The classifier that a run of Figure 3(b) names, and what is read off it once fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.usage import watched

__all__ = ["classifier", "size", "stability"]


def classifier(
    run: dict[str, Any],
    image_shape: tuple[int, int, int],
    *,
    device: str,
    dtype: str,
    checkpoint: Path | None = None,
    distributed: bool = False,
) -> Any:
    """Return the unfitted scikit-learn classifier of a run.

    Parameters
    ----------
    run : dict
        From ``experiments.fig3b.runs``.
    image_shape : (channels, height, width)
    device, dtype : str
        Of the networks; the other methods choose their own.
    checkpoint : Path, optional
        Of a network's training.
    distributed : bool
        Train a network with all processes of ``torchrun``.
    """
    method, seed = run["method"], run["seed"]
    if "model" in run:
        from tangent import LazyClassifier

        keys = ("model", "alpha", "width", "gain", "loss", "epochs", "lr", "lr_decay")
        return LazyClassifier(
            **{key: run[key] for key in (*keys, "momentum", "batch_size", "augment")},
            parametrization=run.get("parametrization", "difference"),
            image_shape=image_shape,
            device=device,
            dtype=dtype,
            random_state=seed,
            checkpoint=checkpoint,
            verbose=watched(),
            distributed=distributed,
        )
    import baselines

    if method == "random-features":
        return baselines.random_patch_classifier(
            run["n_filters"], image_shape=image_shape, random_state=seed
        )
    if method == "scattering":
        return baselines.scattering_classifier(
            run["scale"], image_shape=image_shape, random_state=seed
        )
    return baselines.gaussian_kernel_classifier(run["n_components"], random_state=seed)


def size(model: Any) -> int:
    """Parameters of a fitted network; features of any other fitted classifier."""
    if hasattr(model, "n_parameters_"):
        return int(model.n_parameters_)
    if hasattr(model, "features_"):
        return len(model.features_.get_feature_names_out())
    return int(model[-1].n_features_in_)


def stability(model: Any, X: np.ndarray) -> dict[str, float] | None:
    """Fraction of activations that keep their sign, ReLU by ReLU; None without a network.

    As in the paper's figure, max pooling is left out.
    """
    if not hasattr(model, "stability_of_activations"):
        return None
    from torch import nn

    modules = dict(model.module_.network.named_modules())
    stable = model.stability_of_activations(X)
    return {name: value for name, value in stable.items() if isinstance(modules[name], nn.ReLU)}
