"""Training of models at any scale alpha: the loop, its batches, its rate, its checkpoints."""

from tangent.training.batches import Inputs
from tangent.training.lazy import DivergenceError, stability_of_activations, train
from tangent.training.learning_rate import stability_edge

__all__ = [
    "DivergenceError",
    "Inputs",
    "stability_edge",
    "stability_of_activations",
    "train",
]
