"""``python -m tests.zoo.table`` runs the zoo and writes ``docs/zoo.md`` and ``docs/zoo.json``."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path

import torch

from tests.zoo.check import ALLOWED, Outcome, outcome_of
from tests.zoo.networks import zoo

DOCS = Path(__file__).parents[2] / "docs"
COLUMNS = ("kernel", "features", "product", "alpha 1", "alpha 1000", "alpha 1e+07", "alpha inf")


def _worst(outcome: Outcome, column: str) -> str:
    found = [e for name, e in outcome.errors.items() if name.startswith(column)]
    if not found:
        return ""
    return "not finite" if any(map(math.isnan, found)) else f"{max(found):.0e}"


def page(outcomes: list[Outcome]) -> str:
    """The table as Markdown."""
    right = sum(o.right for o in outcomes)
    lines = [
        "# Networks that were tried",
        "",
        f"{right} of {len(outcomes)} are right: every error below {ALLOWED:g} of the largest "
        "entry, or a refusal for the right reason. Two inputs each, weights at random; kernels, "
        "features and products in float64 beside one backward pass an input and output, "
        "differences in float32 beside two networks in float64 (alpha = inf: beside the "
        "gradients). Where float32 decides a ReLU otherwise than float64 the error is that of the "
        "decision.",
        "",
        f"torch {torch.__version__}; written by `python -m tests.zoo.table`.",
        "",
        "| network | from | parameters | " + " | ".join(COLUMNS) + " | generic operations |",
        "|---|---|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    for o in outcomes:
        cells = [_worst(o, column) for column in COLUMNS]
        last = ", ".join(g.removeprefix("aten.") for g in o.generic)
        if o.refusal:
            cells, last = [""] * len(COLUMNS), f"refused: {o.refusal.split(':')[0]}"
        mark = "" if o.right else " (wrong)"
        row = [o.name + mark, o.source, str(o.parameters), *cells, last]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def main(sources: list[str]) -> None:
    """Run the networks of the given sources, all by default, and write both files as it goes."""
    warnings.simplefilter("ignore")
    outcomes = []
    for name, entry in zoo().items():
        if sources and entry.source not in sources:
            continue
        outcomes.append(outcome_of(name, entry))
        print("right" if outcomes[-1].right else "WRONG", name, flush=True)
        (DOCS / "zoo.md").write_text(page(outcomes))
        (DOCS / "zoo.json").write_text(json.dumps([o.row() for o in outcomes], indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
