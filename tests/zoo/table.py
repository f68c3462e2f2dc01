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
FILE, TITLE = "zoo", "Networks that were tried"
COLUMNS = ("kernel", "features", "product", "alpha 1", "alpha 1000", "alpha 1e+07", "alpha inf")


def _worst(outcome: Outcome, column: str) -> str:
    found = [e for name, e in outcome.errors.items() if name.startswith(column)]
    if not found:
        return ""
    return "not finite" if any(map(math.isnan, found)) else f"{max(found):.0e}"


def page(title: str, command: str, outcomes: list[Outcome]) -> str:
    """The table as Markdown."""
    compared = [o for o in outcomes if not o.oracle]
    right = sum(o.right for o in compared)
    lines = [
        f"# {title}",
        "",
        f"{right} of {len(compared)} are right: every error below {ALLOWED:g} of the largest "
        "entry, or a refusal for the right reason. Weights at random; kernels, "
        "features and products in float64 beside one backward pass an input and output, "
        "differences in float32 beside two networks in float64 (alpha = inf: beside the "
        "gradients; where the network cuts them, which is marked, beside a central difference). "
        "Where float32 decides a ReLU otherwise than float64 the error is that of the decision.",
        "",
        f"torch {torch.__version__}; written by `{command}`.",
        "",
        "| network | from | parameters | " + " | ".join(COLUMNS) + " | generic operations |",
        "|---|---|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    for o in compared:
        cells = [_worst(o, column) for column in COLUMNS]
        last = ", ".join(g.removeprefix("aten.") for g in o.generic)
        if o.refusal:
            cells, last = [""] * len(COLUMNS), f"refused: {o.refusal.split(':')[0]}"
        mark = "" if o.right else " (wrong)"
        mark += ", cut" if o.cuts else ""
        row = [o.name + mark, o.source, str(o.parameters), *cells, last]
        lines.append("| " + " | ".join(row) + " |")
    left = [f"{o.name} ({o.oracle})" for o in outcomes if o.oracle]
    if left:
        lines += ["", f"Plain PyTorch gives nothing to compare in float64: {'; '.join(left)}."]
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
    outcomes = {o.name: o for o in read(FILE) if o.name in networks} if partial else {}
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
        write(FILE, TITLE, [outcomes[name] for name in networks if name in outcomes])


def read(file: str) -> list[Outcome]:
    """What an earlier run wrote."""
    path = DOCS / f"{file}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    return [Outcome(**{**row, "generic": tuple(row["generic"])}) for row in rows]


def write(file: str, title: str, outcomes: list[Outcome]) -> None:
    """Write the table as a page and as data."""
    command = f"python -m tests.zoo.{'table' if file == FILE else file}"
    (DOCS / f"{file}.md").write_text(page(title, command, outcomes))
    rows = json.dumps([o.row() for o in outcomes], indent=1)
    (DOCS / f"{file}.json").write_text(rows + "\n")


if __name__ == "__main__":
    main()
