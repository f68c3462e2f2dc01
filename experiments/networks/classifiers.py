"""The classifier that a run of Figure 3(b) names, and what is read off it once fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

import baselines
from experiments.networks import named as networks
from experiments.usage import UsageError, watched
from tangent import LazyClassifier
from tangent.estimators.common import normalization, normalized_inputs, torch_dtype


def classifier(
    run: dict[str, Any],
    image_shape: tuple[int, int, int],
    *,
    device: str,
    dtype: str,
    checkpoint: Path | None = None,
    distributed: bool = False,
    rows: np.ndarray | None = None,
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
    rows : array of shape (n, d), optional
        Training images: ``designed_cnn`` is built from them, and a Gaussian kernel has no more
        landmarks than there are.
    """
    method, seed = run["method"], run["seed"]
    if "model" in run:

        def images() -> Any:
            assert rows is not None
            return normalized(rows, image_shape, rows, device="cpu", dtype=dtype)

        keys = ("alpha", "width", "gain", "loss", "epochs", "lr", "lr_decay")
        every = (*keys, "momentum", "batch_size", "augment")
        return LazyClassifier(
            networks.factory_of(run, images),
            **{key: run[key] for key in every if key in run},
            parametrization=run.get("parametrization", "difference"),
            image_shape=image_shape,
            device=device,
            dtype=dtype,
            random_state=seed,
            checkpoint=checkpoint,
            verbose=watched(),
            distributed=distributed,
        )
    if image_shape[1:] == (1, 1) and method != "gaussian":
        raise UsageError(
            f"method {method!r} takes images; {run['dataset']} is a table of {image_shape[0]} "
            "columns; leave it out of --methods"
        )
    if method == "random-features":
        return baselines.random_patch_classifier(
            run["n_filters"], image_shape=image_shape, random_state=seed
        )
    if method == "scattering":
        return baselines.scattering_classifier(
            run["scale"], image_shape=image_shape, random_state=seed
        )
    landmarks = run["n_components"] if rows is None else min(run["n_components"], len(rows))
    return baselines.gaussian_kernel_classifier(landmarks, random_state=seed)


def normalized(
    training: np.ndarray,
    image_shape: tuple[int, int, int],
    rows: np.ndarray,
    *,
    device: str,
    dtype: str,
) -> torch.Tensor:
    """Return ``rows`` as the networks see them: images, by mean and deviation of ``training``."""
    mean, deviation = normalization(training, image_shape, True)
    place = (torch.device(device), torch_dtype(dtype))
    made = normalized_inputs(rows, image_shape, mean, deviation, *place)
    return made.batch(slice(0, len(rows)))


def channel_statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of every channel, to be broadcast; 1 where a channel is constant."""
    deviation = images.std((0, 2, 3), keepdim=True)
    return images.mean((0, 2, 3), keepdim=True), deviation + (deviation == 0)


def size(model: Any) -> int:
    """Parameters of a fitted network; features of any other fitted classifier."""
    if hasattr(model, "n_parameters_"):
        return int(model.n_parameters_)
    if hasattr(model, "features_"):
        return len(model.features_.get_feature_names_out())
    return int(model[-1].n_features_in_)


def stability(model: Any, X: np.ndarray) -> dict[str, float] | None:
    """Fraction of activations that keep their sign, gate by gate; None without a network.

    As in the paper's figure, max pooling is left out.
    """
    if not hasattr(model, "stability_of_activations"):
        return None
    stable = model.stability_of_activations(X)
    return {name: value for name, value in stable.items() if not is_pool(model, name)}


def is_pool(model: Any, gate: str) -> bool:
    """Whether a gate of a fitted network is a max pooling."""
    modules = dict(model.module_.network.named_modules())
    kind = type(modules[gate]).__name__ if gate in modules else gate
    return "maxpool" in kind.lower().replace("_", "")
