"""From a network and inputs to the factors of its parameters: forward and backward passes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import torch
from torch import Tensor

from tangent.kernel.engine.cost import Problem, Rates, calibrated
from tangent.kernel.engine.factors import Differing, Factor, Layer, Store, planned
from tangent.kernel.engine.jacobians import jacobians
from tangent.kernel.engine.plan import Network, Plan
from tangent.kernel.engine.trust import mistaken
from tangent.machine.pages import keep_freed_memory
from tangent.operations.pieces import Piece

__all__ = [
    "Factors",
    "backward",
    "factors_of",
    "plain_jacobians",
    "planned_factors",
    "zero_gradient",
]

Factors = dict[str, Factor]
Take = Callable[[str, list[Piece]], None]


def planned_factors(
    network: Network,
    problem: Problem,
    x: Tensor,
    *,
    rates: Rates | None = None,
    working: int | None = None,
    alike: bool = False,
) -> tuple[Plan, Factors]:
    """The plan that the first batch of ``x`` gives, and the factors of all of ``x`` by it.

    Of a network that reads its inputs' values, others may use a parameter elsewhere, or one that
    these do not: its gradients are written out, unless all inputs are taken to be ``alike``.

    Raises
    ------
    Differing
        If inputs that were taken to be alike are not; so does `factors_of`.
    """
    x = network.cast(x)
    keep_freed_memory(network.device)
    rates = rates or calibrated(network.device, network.kept)
    working = working or network.working
    record = network.records.of(x)
    if network.outputs == "diagonal":
        problem = replace(problem, groups=record.outputs)
    layers: dict[str, Layer] = {}
    stores: dict[str, Store] = {}
    if record.reads and not alike:
        layers = {name: Layer(name, "dense", problem.full) for name in network.names}
        stores = {name: Store(layer, len(x), network.kept) for name, layer in layers.items()}

    def take(name: str, uses: list[Piece]) -> None:
        if name not in stores:
            layers[name] = planned(name, uses, problem, rates)
            if record.reads and any(use.order is not None for use in uses):
                layers[name] = Layer(name, "dense", problem.full)
            stores[name] = Store(layers[name], len(x), network.kept)
        stores[name].add(uses)

    first = x[: _even(len(x), network.fitting(x, working))]
    opaque: frozenset[str] = frozenset()
    if record.suspect:
        pieces: dict[str, list[Piece]] = {}
        carried = backward(network, first, pieces.__setitem__)
        opaque = mistaken(network, pieces, first[:2])
        for name in list(pieces):
            uses = pieces.pop(name)
            if name not in opaque:
                take(name, uses)
    else:
        carried = backward(network, first, take)
    if not layers:
        opaque = frozenset(network.names)
    layers |= {name: Layer(name, "dense", problem.full) for name in opaque}
    chosen = tuple(layers[name] for name in network.names if name in layers)
    plan = Plan(network, problem, rates, working, chosen, opaque)
    stores = {name: store for name, store in stores.items() if name not in opaque}
    _fill(network, stores, len(first), carried)
    return plan, _completed(plan, stores, x, len(first))


def factors_of(plan: Plan, x: Tensor) -> Factors:
    """Factors of every parameter over the inputs ``x``."""
    x = plan.network.cast(x)
    keep_freed_memory(plan.network.device)
    stores = {
        layer.name: Store(layer, len(x), plan.network.kept)
        for layer in plan.layers
        if layer.name not in plan.opaque
    }
    return _completed(plan, stores, x, 0)


def _completed(plan: Plan, stores: dict[str, Store], x: Tensor, start: int) -> Factors:
    """Factors of ``x``, of whose inputs the stores have the first ``start``."""
    network = plan.network

    def take(name: str, uses: list[Piece]) -> None:
        if name in stores:
            stores[name].add(uses)
        elif network.records.reads:  # the planned inputs did not use it
            raise Differing(name)

    while start < len(x):
        part = x[start : start + _even(len(x) - start, network.fitting(x, plan.working))]
        carried = backward(network, part, take, plan.opaque)
        start += len(part)
        _fill(network, stores, start, carried)
    network.records.release()
    found = {name: store.factor() for name, store in stores.items()}
    for name, gradients in plain_jacobians(network, plan.opaque, x).items():
        store = Store(Layer(name, "dense", plan.problem.full), len(x), network.kept)
        store.arrays["gradients"] = gradients
        store.filled = len(x)
        found[name] = store.factor()
    return {layer.name: found[layer.name] for layer in plan.layers}


def _even(n: int, size: int) -> int:
    """Size of the first of as few and as equal batches as can be, of at most ``size`` each."""
    return -(-n // -(-n // size))


def _fill(network: Network, stores: dict[str, Store], inputs: int, carried: int) -> None:
    """Give parameters that some inputs do not use zeros up to ``inputs``."""
    for name, store in stores.items():
        if store.filled < inputs:
            gradient = zero_gradient(network, name, (inputs - store.filled, carried))
            store.add([Piece(name, gradient=gradient)])


def zero_gradient(network: Network, name: str, shape: tuple[int, int]) -> Tensor:
    """Gradients (n, o, p) of a parameter that is not used."""
    size = network.tensors[name].numel()
    return torch.zeros(*shape, size, dtype=network.run_dtype, device=network.device)


def backward(network: Network, x: Tensor, take: Take, without: Collection[str] = ()) -> int:
    """Run a batch forward and backward; number of cotangents that were carried.

    ``take(name, pieces)`` gets the pieces of a parameter at once when it has all of them, so that
    the next layer's cotangents have their memory; of those in ``without``, none.
    """
    if not set(network.names) - set(without):
        return 0
    run = network.records.run(x)
    seeds = _seeds(network, run.output)
    pieces: dict[str, list[Piece]] = {}

    def visit(name: str, piece: Piece) -> None:
        piece.name = name
        pieces.setdefault(name, []).append(piece)

    def done(name: str) -> None:
        if name in pieces and name not in without:
            take(name, pieces.pop(name))

    run.record.back(run, seeds, visit, done)
    for name in list(pieces):
        done(name)
    return seeds.shape[1]


def _seeds(network: Network, output: Tensor) -> Tensor:
    """Cotangents (n, o, *output) to carry back."""
    outputs, (n, k) = network.outputs, (len(output), output[0].numel())
    if isinstance(outputs, int) and not -k <= outputs < k:
        raise ValueError(f"outputs must be below the {k} outputs; got {outputs}")
    if outputs == "pseudo":
        seeds = torch.full((1, k), k**-0.5, dtype=output.dtype)
    elif isinstance(outputs, int):
        seeds = torch.zeros(1, k)
        seeds[:, outputs] = 1
    else:
        seeds = torch.eye(k)
    seeds = seeds.to(output).expand(n, *seeds.shape)
    return seeds.reshape(n, -1, *output.shape[1:])


def plain_jacobians(network: Network, names: Collection[str], x: Tensor) -> dict[str, Tensor]:
    """Gradients (n, o, p) of parameters without a rule, by ordinary backward passes."""
    if not names:
        return {}
    outputs = network.outputs
    chosen = {n: network.tensors[n] for n in network.names if n in names}
    parts: dict[str, list[Tensor]] = {name: [] for name in chosen}
    for one in jacobians(network.model, chosen, x, network.tensors):
        for name, j in one.items():
            if outputs == "pseudo":
                j = j.sum(1, keepdim=True) / j.shape[1] ** 0.5
            elif isinstance(outputs, int):
                j = j[:, outputs].unsqueeze(1)
            parts[name].append(j.to(network.kept))
    return {name: torch.cat(js) for name, js in parts.items()}
