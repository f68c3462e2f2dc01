"""Networks of torchvision and timm, each imported where one is named."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from torch import nn

from tangent.machine.optional import optional
from tangent.nets.own import NetworkNameError

LIBRARIES = ("torchvision", "timm")


def library_network(library: str, name: str) -> Callable[..., nn.Module]:
    """Return the factory (input_shape, n_outputs, generator) of a library's network.

    Its weights are drawn from torch's global generator, as the library draws them; none are loaded.

    Parameters
    ----------
    library : {"torchvision", "timm"}
    name : str

    Raises
    ------
    NetworkNameError
        When the library has no such network and, once called, when inputs are no images, or
        torchvision's have not three channels.
    ModuleNotFoundError
        When the library is not installed.
    """
    model = f"{library}:{name}"
    module = "torchvision.models" if library == "torchvision" else "timm"
    models = optional(module, f"model {model!r}")
    names = models.list_models()
    if name not in names:
        near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(map(repr, near))}? " if near else ""
        raise NetworkNameError(
            f"model {model!r}: {library} has no network {name!r}; {hint}"
            f"{module}.list_models() names all"
        )

    def make(input_shape: tuple[int, ...], n_outputs: int, generator: Any = None) -> nn.Module:
        if len(input_shape) < 3:
            raise NetworkNameError(
                f"model {model!r} takes images; got inputs of shape {tuple(input_shape)}; set "
                "image_shape=(channels, height, width), or take model='mlp'"
            )
        if library == "timm":
            return models.create_model(
                name, pretrained=False, num_classes=n_outputs, in_chans=input_shape[0]
            )
        if input_shape[0] != 3:
            raise NetworkNameError(
                f"model {model!r} takes images of 3 channels; the data has {input_shape[0]}; take "
                "a function of your own, or timm:, which makes the first layer anew"
            )
        extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        return models.get_model(name, weights=None, num_classes=n_outputs, **extra)

    return make
