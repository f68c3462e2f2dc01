"""The paper's numbers of Figure 3(b), by the names of our methods."""

from __future__ import annotations

from baselines import published
from experiments.drawing.tables import percent

# Rows of the paper's figure, by our names. Its linearized networks are those at alpha = 1e7.
_PUBLISHED = {
    "vgg11": "vgg11-standard",
    "vgg11-lazy": "vgg11-linearized",
    "resnet18": "resnet18-standard",
    "resnet18-lazy": "resnet18-linearized",
    "random-features": "random-features",
    "scattering": "prior-features",
}


def of_the_paper() -> dict[str, dict[str, published.Published]]:
    """Method -> metric -> number."""
    by_key: dict[str, dict[str, published.Published]] = {}
    for number in published.load("3(b)"):
        by_key.setdefault(number.key, {})[number.metric] = number
    return {method: by_key.get(key, {}) for method, key in _PUBLISHED.items()}


def dagger(number: published.Published | None) -> str:
    """In percent, with a mark where it is recalled; "–" for none."""
    if number is None:
        return "–"
    return percent(number.value) + ("†" if number.status == "recalled" else "")
