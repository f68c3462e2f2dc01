"""``python -m tests.zoo.table`` runs the zoo and writes ``docs/zoo.md`` and ``docs/zoo.json``.

``--source timm`` or names run these alone; ``--resume`` keeps what an earlier run found right.
"""

from __future__ import annotations

import argparse
import json
import math
import time
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


def main(arguments: list[str] | None = None) -> None:
    """Run the networks that are asked for, all by default, and write both files as it goes."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.table", description=__doc__)
    parser.add_argument("names", nargs="*", help="networks to run; all where none is named")
    parser.add_argument("--source", action="append", help="torch, torchvision, timm, transformers")
    parser.add_argument("--resume", action="store_true", help="keep what was found right before")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    networks = zoo()
    if unknown := set(asked.names) - set(networks):
        parser.error(f"no such network: {', '.join(sorted(unknown))}")
    partial = asked.resume or asked.names or asked.source
    outcomes = {o.name: o for o in _written() if o.name in networks} if partial else {}
    for name, entry in networks.items():
        if asked.names and name not in asked.names:
            continue
        if asked.source and entry.source not in asked.source:
            continue
        if asked.resume and name in outcomes and outcomes[name].right:
            continue
        start = time.perf_counter()
        found = outcomes[name] = outcome_of(name, entry)
        seconds = time.perf_counter() - start
        print("right" if found.right else "WRONG", name, f"{seconds:.1f} s", flush=True)
        _write([outcomes[name] for name in networks if name in outcomes])


def _written() -> list[Outcome]:
    path = DOCS / "zoo.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    return [Outcome(**{**row, "generic": tuple(row["generic"])}) for row in rows]


def _write(outcomes: list[Outcome]) -> None:
    (DOCS / "zoo.md").write_text(page(outcomes))
    (DOCS / "zoo.json").write_text(json.dumps([o.row() for o in outcomes], indent=1) + "\n")


if __name__ == "__main__":
    main()
