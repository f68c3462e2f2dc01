"""A network run on pairs: its base activations and its scaled differences."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from tangent.difference.pair import Pair, gate_for, rule_for
from tangent.difference.rewrite import pooled_before_relu

__all__ = ["ScaledDifference", "linearize"]

GateObserver = Callable[[str, Tensor], None]


class _Tracer(fx.Tracer):
    """Keeps a module whole when its class has a rule, and goes inside when it has not."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return rule_for(type(m)) is not None or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(model)
    except Exception as error:
        raise TypeError(
            f"{type(model).__name__} cannot be traced by torch.fx: {error}. Control flow that "
            f"depends on the data has to leave forward, or the module that holds it be registered "
            f"as one operation: @tangent.register_rule({type(model).__name__})"
        ) from error


class ScaledDifference(nn.Module):
    """The centred, scaled network ``alpha * (h(w0 + delta/alpha) - h(w0))``, trained in delta.

    Nothing is subtracted: base activations and scaled differences travel through the network
    together, so float32 keeps its digits at any alpha. ``alpha = inf`` is the linearization of h
    at w0, exactly.

    Parameters
    ----------
    model : nn.Module
        h at w0. Copied; it has to be traceable by ``torch.fx``, and every operation needs a rule
        (see `register_rule`). It may not mix the inputs of a batch.
    alpha : float
        Scale, positive or ``math.inf``.

    Attributes
    ----------
    delta : nn.ParameterList
        The trainable scaled displacements, zero at first, one for each trainable parameter of
        ``model``, in the order of ``names``.
    names : tuple of str
        Names of the parameters that move; those with ``requires_grad=False`` stay.
    network : nn.Module
        The frozen copy of ``model`` at w0.

    Raises
    ------
    ValueError
        If alpha is not positive, or an operation cannot have a difference (batch norm in training
        mode).
    TypeError
        If the model cannot be traced, or an operation has no rule; the message names it.

    Notes
    -----
    SGD on w with the loss R(alpha h)/alpha**2 is SGD on delta with the same learning rate and the
    loss R of this module's output, momentum included (Chizat et al. 2019, equations (2), (4)).
    A step costs five passes of products where training h costs three; memory is about twice that
    of h, plus the frozen weights.

    Where a pre-activation is exactly zero, ReLU has no derivative: there a finite alpha follows
    the network and infinity takes the slope 0, as PyTorch does.
    """

    loss_scale = 1.0  # training in delta absorbs the 1/alpha**2 of the loss

    def __init__(self, model: nn.Module, alpha: float):
        super().__init__()
        if not (isinstance(alpha, int | float) and alpha > 0):
            raise ValueError(
                f"alpha must be positive (math.inf for the linearization); got {alpha!r}"
            )
        self.alpha = float(alpha)
        moving = [name for name, p in model.named_parameters() if p.requires_grad]
        if not moving:
            raise ValueError("model has no parameter with requires_grad=True: nothing can move")
        self.network = copy.deepcopy(model).requires_grad_(False)
        self.names = tuple(moving)
        weights = dict(self.network.named_parameters())
        self.delta = nn.ParameterList(nn.Parameter(torch.zeros_like(weights[n])) for n in moving)
        self._trace()

    def forward(self, x: Shaped[Tensor, "n ..."]) -> Tensor:
        """Return alpha (h(w0 + delta/alpha) - h(w0)) at ``x``, zeros before training.

        Differentiable in ``delta``; what it returns has the shape of the network's output.
        """
        out = self.pair(x)
        return torch.zeros_like(out.base) if out.difference is None else out.difference

    def pair(
        self,
        *inputs: Tensor,
        alpha: float | None = None,
        delta: Sequence[Tensor] | None = None,
        on_gate: GateObserver | None = None,
    ) -> Pair:
        """Return the network's output as a pair (h(w0), scaled difference).

        Parameters
        ----------
        *inputs : Tensor
            The network's own arguments.
        alpha : float, optional
            Another scale than the module's.
        delta : sequence of Tensor, optional
            Other displacements than the module's: with ``alpha=math.inf`` the difference is the
            Jacobian at w0 times them.
        on_gate : callable, optional
            ``on_gate(name, stable)`` is called for every ReLU and max pooling with a bool tensor,
            True where it decides as at w0.
        """
        alpha = self.alpha if alpha is None else alpha
        weights = self._weights(self.delta if delta is None else delta)
        values: dict[fx.Node, Any] = {}
        feed = iter(inputs)
        # Whoever watches the gates sees them in the network's own order.
        graph, last_use = self._fast if on_gate is None else (self.graph, self._last_use)
        for node in graph.nodes:
            if node.op == "placeholder":
                values[node] = _input(node, feed)
            elif node.op == "get_attr":
                tensor = _attribute(self.network, str(node.target))
                plain = Pair(tensor) if isinstance(tensor, Tensor) else tensor
                values[node] = weights.get(id(tensor), plain)
            elif node.op == "output":
                return _output(fx.node.map_arg(node.args[0], values.__getitem__))
            else:
                values[node] = self._call(node, values, weights, alpha, on_gate)
            for used in last_use.get(node, ()):
                del values[used]
        raise AssertionError("a traced graph ends with its output")

    def initial_weights(self) -> Iterator[Tensor]:
        """Yield the weights at w0."""
        return iter(self.network.parameters())

    @torch.no_grad()
    def displaced(self) -> nn.Module:
        """Return a copy of the network at w0 + delta/alpha (in the weights' own precision)."""
        if math.isinf(self.alpha):
            raise ValueError("alpha is inf: the linearization is not a network at other weights")
        model = copy.deepcopy(self.network)
        weights = dict(model.named_parameters())
        for name, delta in zip(self.names, self.delta, strict=True):
            weights[name].add_(delta, alpha=1 / self.alpha)
        return model.requires_grad_(True)

    def __getstate__(self) -> dict[str, Any]:
        # A graph does not pickle: it is traced again from the network.
        state = dict(self.__dict__)
        del state["graph"], state["_last_use"], state["_fast"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._trace()

    def _trace(self) -> None:
        self.graph = _traced(self._root())
        self._last_use = _last_uses(self.graph.nodes)
        fast = pooled_before_relu(self.graph, self._root())
        self._fast = fast, _last_uses(fast.nodes)
        moving: set[fx.Node] = set()
        for node in self.graph.nodes:  # fail here, not in the middle of a run
            if node.op.startswith("call_") and moving.intersection(node.all_input_nodes):
                self._rule(node)
            if node.op in ("placeholder", "get_attr") or (
                moving.intersection(node.all_input_nodes) and not _is_shape(node)
            ):
                moving.add(node)

    def _weights(self, delta: Iterable[Tensor]) -> dict[int, Pair]:
        """Pairs of the weights by identity, so that shared weights share their displacement."""
        found = dict(self.network.named_parameters())
        return {
            id(found[name]): Pair(found[name], moved)
            for name, moved in zip(self.names, delta, strict=True)
        }

    def _root(self) -> nn.Module:
        """The module that was traced: a network that has a rule sits inside a sequence of one."""
        whole = rule_for(type(self.network)) is not None
        return nn.Sequential(self.network) if whole else self.network

    def _module(self, node: fx.Node) -> nn.Module:
        return self._root().get_submodule(str(node.target))

    def _rule(self, node: fx.Node) -> tuple[Any, Callable[..., Any]]:
        target: Any = type(self._module(node)) if node.op == "call_module" else node.target
        rule = rule_for(target)
        if rule is None:
            name = getattr(target, "__name__", str(target))
            raise TypeError(
                f"node {node.name!r} ({node.op} {name}) has no difference rule; register one with "
                f"@tangent.register_rule({name if callable(target) else repr(name)})"
            )
        return target, rule

    def _call(self, node: fx.Node, values, weights, alpha, on_gate: GateObserver | None) -> Any:
        args: tuple[Any, ...] = fx.node.map_arg(node.args, values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
        if not any(isinstance(a, Pair) for a in tree_leaves((args, kwargs), is_leaf=_is_pair)):
            return _plain_call(node, args, kwargs)
        target, rule = self._rule(node)
        if node.op == "call_module":
            module = self._module(node)
            own = {
                name: None if p is None else weights.get(id(p), Pair(p))
                for name, p in module._parameters.items()
            }
            args = (module, own, *args)
        try:
            gate = None if on_gate is None else gate_for(target)
            if gate is not None and on_gate is not None:
                stable = gate(alpha, *args, **kwargs)
                if stable is not None:
                    on_gate(str(node.target) if node.op == "call_module" else node.name, stable)
            return rule(alpha, *args, **kwargs)
        except ValueError as error:
            raise ValueError(f"node {node.name!r}: {error}") from error


def _is_pair(value: Any) -> bool:
    return isinstance(value, Pair)


def _is_shape(node: fx.Node) -> bool:
    """Whether a node reads a shape, which does not move with the weights."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel")
    return node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")


def _plain_call(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation on sizes and constants is itself."""
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if node.op == "call_function" and callable(node.target):
        return node.target(*args, **kwargs)
    raise TypeError(f"node {node.name!r}: a module needs a tensor that depends on the input")


def _input(node: fx.Node, feed) -> Any:
    value = next(feed, None)
    if value is None:
        if not node.args:
            raise TypeError(f"the network's input {node.name!r} is missing")
        value = node.args[0]
    return Pair(value) if isinstance(value, Tensor) else value


def _output(result: Any) -> Pair:
    if not isinstance(result, Pair):
        raise TypeError(
            f"the network must return one tensor that depends on its input; got "
            f"{type(result).__name__}"
        )
    return result


def _attribute(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _last_uses(nodes: Iterable[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """The values that each node is the last to read: they are dropped after it."""
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        for read in node.all_input_nodes:
            last[read] = node
    uses: dict[fx.Node, list[fx.Node]] = {}
    for read, node in last.items():
        uses.setdefault(node, []).append(read)
    return uses


def linearize(model: nn.Module) -> ScaledDifference:
    """Return the linearized, centred model x -> Dh(x, w0) delta, trainable in delta.

    It is `ScaledDifference` at alpha = inf: an exact tangent model, linear in ``delta``, whose
    kernel is the tangent kernel of ``model`` at w0 (Chizat et al. 2019, Section 1).
    """
    return ScaledDifference(model, math.inf)
