"""Draw the packages' rooms and who imports whom: ``python docs/architecture.py``.

A room is a folder of a package; modules beside the rooms stand together as one, and so do the
experiments, which are built alike. Arrows go from the one that imports to what it imports; those
that follow from others are left out. Where two rooms import each other, the rarer direction is
dashed.
"""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from pathlib import Path

from experiments.drawing import plots
from experiments.files import write_file

ROOT = Path(__file__).parents[1]
PACKAGES = ("experiments", "baselines", "tangent")
_CENTRES = {"tangent": 1.5, "baselines": 3.4, "experiments": 4.9}
_SPREAD = 1.25
_COLOURS = {"experiments": "#3f90da", "baselines": "#ffa90e", "tangent": "#94a4a2"}


def room(module: str) -> str | None:
    """Room of a module: "tangent/engine", or "tangent" for a module beside the rooms."""
    package, *inside = module.split(".")
    if package not in PACKAGES:
        return None
    if not inside or not (ROOT / package / inside[0]).is_dir():
        return package
    alike = (ROOT / package / inside[0] / "settings.py").exists()
    return f"{package}/{'each experiment' if alike else inside[0]}"


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that a module imports when it is run, in functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def import_counts() -> dict[tuple[str, str], int]:
    """How often modules of one room import from another; the packages' own lists left out."""
    found: dict[tuple[str, str], int] = {}
    for package in PACKAGES:
        found[package, package] = 0
        for path in sorted((ROOT / package).rglob("*.py")):
            if path == ROOT / package / "__init__.py":
                continue
            here = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
            assert here is not None
            found.setdefault((here, here), 0)
            for name in imported(ast.parse(path.read_text("utf-8"))):
                there = room(name)
                if there and there != here:
                    found[here, there] = found.get((here, there), 0) + 1
    return found


def import_graph() -> tuple[dict[str, set[str]], list[tuple[str, str]]]:
    """What each room imports of the others, and the rarer direction of those that do both."""
    counts = import_counts()
    graph: dict[str, set[str]] = {one: set() for one, other in counts if one == other}
    back = []
    for (one, other), _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if one == other:
            continue
        if one in _reached(graph, other):  # it would close a circle of more frequent imports
            back.append((one, other))
        else:
            graph[one].add(other)
    return graph, back


def depths(graph: dict[str, set[str]]) -> dict[str, int]:
    """Length of the longest chain of imports below each room."""

    def depth(name: str) -> int:
        return 1 + max(map(depth, graph[name]), default=-1)

    return {name: depth(name) for name in graph}


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found, left = set(), list(graph[start])
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += graph[name]
    return found


def needed(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Arrows that do not follow from two others."""
    return [
        (one, other)
        for one, targets in graph.items()
        for other in sorted(targets)
        if not any(other in _reached(graph, between) for between in targets - {other})
    ]


def _shift(level: int) -> float:
    """Rooms above each other stand apart, so that an arrow over two levels passes between."""
    return (-0.3, 0.0, 0.3)[level % 3]


def draw() -> str:
    """The picture as SVG."""
    graph, back = import_graph()
    depth = depths(graph)
    rows: dict[int, list[str]] = {}
    for name in sorted(graph, key=lambda name: (PACKAGES[::-1].index(name.split("/")[0]), name)):
        rows.setdefault(depth[name], []).append(name)
    place = {}
    for level, names in rows.items():
        for package in PACKAGES:
            some = [name for name in names if name.split("/")[0] == package]
            for i, name in enumerate(some):
                aside = _SPREAD * (i - (len(some) - 1) / 2) + _shift(level)
                place[name] = (_CENTRES[package] + aside, float(level))
    with plots.style():
        fig, ax = plots.figure(size=(9.0, 0.8 * len(rows) + 0.6))
        for one, other in needed(graph):
            look = {"arrowstyle": "-|>", "color": "0.6", "shrinkA": 14, "shrinkB": 15}
            ax.annotate("", place[other], place[one], arrowprops={**look, "linewidth": 0.8})
        for one, other in back:
            look = {"arrowstyle": "-|>", "color": "0.75", "linestyle": "--", "linewidth": 0.7}
            curve = {"connectionstyle": "arc3,rad=0.25", "shrinkA": 9, "shrinkB": 9}
            ax.annotate("", place[other], place[one], arrowprops={**look, **curve})
        for name, (x, y) in place.items():
            beside = "/" not in name and any(o.startswith(f"{name}/") for o in graph)
            ax.text(
                x,
                y,
                f"{name}, top" if beside else name.replace("/", "/\n"),
                ha="center",
                va="center",
                fontsize=8,
                bbox={
                    "boxstyle": "round,pad=0.35",
                    "facecolor": _COLOURS[name.split("/")[0]],
                    "edgecolor": "none",
                },
            )
        ax.set(xlim=(-0.5, 5.8), ylim=(-0.6, max(rows) + 0.6))
        ax.set_axis_off()
        buffer = io.StringIO()
        fig.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


if __name__ == "__main__":
    write_file(Path(__file__).with_name("architecture.svg"), draw().encode())
