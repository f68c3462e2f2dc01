"""What may lean on what: the arrows of ARCHITECTURE.md that must never be drawn, and no circles."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from experiments.command.registry import EXPERIMENTS

ROOT = Path(__file__).parents[1]
PACKAGES = ("tangent", "baselines", "experiments")


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}


def imported(path: Path, *, at_start: bool = False) -> set[str]:
    """Modules of the project that a file imports; ``at_start``: when it is itself imported."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if at_start and (typing_only or inside):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            wholes = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= wholes & MODULES.keys() or {node.module}
        waiting += ast.iter_child_nodes(node)
    return {name for name in found if name.split(".")[0] in PACKAGES}


def within(name: str, *rooms: str) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


NETWORKS = tuple(
    f"tangent.{room}"
    for room in ("capture", "operations", "models", "kernel", "training", "nets", "estimators")
)
SINGLE = tuple(EXPERIMENTS.values())
NEVER = [
    (("tangent.solve", "tangent.machine"), (*NETWORKS, "tangent.laziness", "tangent.theory")),
    (("tangent.machine",), ("tangent.solve",)),
    (("tangent.operations",), ("tangent.capture", "tangent.models", "tangent.kernel")),
    (("tangent.capture",), ("tangent.models", "tangent.kernel", "tangent.training")),
    (("tangent.models",), ("tangent.kernel", "tangent.training", "tangent.estimators")),
    (("tangent.kernel",), ("tangent.training", "tangent.laziness", "tangent.estimators")),
    (("tangent.training",), ("tangent.kernel", "tangent.laziness", "tangent.estimators")),
    (("tangent.nets",), ("tangent.kernel", "tangent.training", "tangent.estimators")),
    (("tangent.theory", "tangent.laziness"), ("tangent.estimators",)),
    (("tangent",), ("baselines", "experiments")),
    (("baselines",), ("experiments", *NETWORKS, "tangent.laziness")),
    (("experiments.drawing",), ("experiments.runs.runner", "experiments.command", *SINGLE)),
    (("experiments.data",), ("experiments.runs", "experiments.drawing", "experiments.command")),
    (("experiments.runs", "experiments.networks"), ("experiments.command", *SINGLE)),
    *(((name,), tuple(n for n in SINGLE if n != name)) for name in SINGLE),
]


@pytest.mark.parametrize(("room", "never"), NEVER, ids=lambda rooms: "+".join(rooms[:2]))
def test_no_arrow_points_up(room, never):
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if within(name, *room)
        for other in imported(path)
        if within(other, *never)
    ]
    assert not wrong, "\n".join(wrong)


def test_baselines_take_only_what_stands_below_networks():
    allowed = ("baselines", "tangent.solve", "tangent.machine", "tangent.theory")
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        if within(name, "baselines")
        for other in imported(path)
        if not within(other, *allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_a_detour():
    """A package's ``__init__`` only collects; what it collects is imported from its home."""
    arrows = {
        name: {m for m in imported(path, at_start=True) if m in MODULES and m != name}
        for name, path in MODULES.items()
        if path.name != "__init__.py"
    }
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("name", SINGLE)
def test_measuring_and_drawing_do_not_know_each_other(name):
    def reached(start: str) -> set[str]:
        found, waiting = set(), [start]
        while waiting:
            module = waiting.pop()
            if module in MODULES and module not in found and within(module, name):
                found.add(module)
                waiting += imported(MODULES[module])
        return found

    both = reached(f"{name}.measure") & reached(f"{name}.draw")
    assert f"{name}.draw" not in reached(f"{name}.measure")
    assert both <= {f"{name}.settings"}, f"{name}: measure and draw share {sorted(both)}"
