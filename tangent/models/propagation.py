"""A network run on pairs: its base activations and its scaled differences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from tangent.capture import captured, unwrapped
from tangent.capture.functional import selected_parameters
from tangent.capture.separate import check_separate
from tangent.machine.copies import copied
from tangent.models.inputs import difference_of, subtracted, transformed
from tangent.models.program import GateObserver, Program
from tangent.operations.generic import OtherWay
from tangent.operations.registry import Pair

_KEPT = 16  # records of as many shapes of inputs


class ScaledDifference(nn.Module):
    """The centred, scaled network ``alpha * (h(w0 + delta/alpha) - h(w0))``, trained in delta.

    Nothing is subtracted: base activations and scaled differences travel through the network
    together, so float32 keeps its digits at any alpha. ``alpha = inf`` is the linearization of h
    at w0, exactly.

    Parameters
    ----------
    model : nn.Module
        h at w0. Copied; it may not mix the inputs of a batch, so that networks with batch norm or
        dropout come in evaluation mode. ``train()`` does not reach the frozen copy.
    alpha : float
        Scale, positive or ``math.inf``.
    output : str, int, callable or sequence of such, optional
        Which of the network's outputs counts, where it returns a dict or a tuple ("logits").
    parameters : str or sequence of str, optional
        Names of the parameters that move, of modules for all below them, or patterns of names
        with ``*`` and ``?``; by default those with ``requires_grad=True``.

    Attributes
    ----------
    delta : nn.ParameterList
        The trainable scaled displacements, zero at first, one for each trainable parameter of
        ``model``, in the order of ``names``.
    names : tuple of str
        Names of the parameters that move; all others stay.
    network : nn.Module
        The frozen copy of ``model`` at w0.

    Raises
    ------
    ValueError
        If alpha is not positive, or, at the first call, if the network cannot have a difference:
        batch norm in training mode, values drawn at random, inputs of a batch that mix.

    Notes
    -----
    SGD on w with the loss R(alpha h)/alpha**2 is SGD on delta with the same learning rate and the
    loss R of this module's output, momentum included (Chizat et al. 2019, equations (2), (4)).
    A step costs five passes of products where training h costs three; memory is about twice that
    of h, plus the frozen weights.

    The network is run once for every shape of its inputs, and what it calls is written down
    (`tangent.capture`); where it looks at values of its inputs, once a batch. Operations without
    an exact rule are differenced one by one in float64 (`tangent.describe` names them).

    Where a pre-activation is exactly zero, ReLU has no derivative: there a finite alpha follows
    the network and infinity takes the slope 0, as PyTorch does.
    """

    loss_scale = 1.0  # training in delta absorbs the 1/alpha**2 of the loss

    @torch.inference_mode(False)
    def __init__(
        self,
        model: nn.Module,
        alpha: float,
        *,
        output: Any = None,
        parameters: str | Sequence[str] | None = None,
    ):
        super().__init__()
        if not (isinstance(alpha, int | float) and alpha > 0):
            raise ValueError(
                f"alpha must be positive (math.inf for the linearization); got {alpha!r}"
            )
        self.alpha, self.output = float(alpha), output
        model = unwrapped(model)
        moving = [name for name, p in model.named_parameters() if p.requires_grad]
        if parameters is not None:
            moving = list(selected_parameters(model, parameters))
        if not moving:
            raise ValueError("model has no parameter with requires_grad=True: nothing can move")
        self.network = copied(model).requires_grad_(False)
        self.names = tuple(moving)
        weights = dict(self.network.named_parameters())
        self.delta = nn.ParameterList(nn.Parameter(torch.zeros_like(weights[n])) for n in moving)
        self._graphs: dict[Any, Program] = {}
        self._separate, self._custom = False, True

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module; the frozen network never enters training mode by it.

        Loops and frameworks call it before they train. ``eval()`` reaches the network, too.
        """
        self.training = mode
        self.delta.train(mode)
        if not mode:
            self.network.eval()
        return self

    def forward(self, *inputs: Shaped[Tensor, "n ..."], **keywords: Any) -> Tensor:
        """Return alpha (h(w0 + delta/alpha) - h(w0)) at the network's inputs.

        Zeros before training. Differentiable in ``delta``, and in inputs that require gradients:
        these go a slower way, by PyTorch's own derivatives, at a finite alpha by the subtraction
        in float64. What it returns has the shape of the network's output.
        """
        out = self.pair(*inputs, **keywords)
        return torch.zeros_like(out.base) if out.difference is None else out.difference

    def pair(
        self,
        *inputs: Any,
        alpha: float | None = None,
        delta: Sequence[Tensor] | None = None,
        on_gate: GateObserver | None = None,
        **keywords: Any,
    ) -> Pair:
        """Return the network's output as a pair (h(w0), scaled difference).

        Parameters
        ----------
        *inputs, **keywords
            The network's own arguments.
        alpha : float, optional
            Another scale than the module's.
        delta : sequence of Tensor, optional
            Other displacements than the module's: with ``alpha=math.inf`` the difference is the
            Jacobian at w0 times them.
        on_gate : callable, optional
            ``on_gate(name, stable)`` is called for every operation that decides (ReLU, max
            pooling, clamps) with a bool tensor, True where it decides as at w0.
        """
        _check_mode(self.network)
        alpha = self.alpha if alpha is None else alpha
        steps: Any = self.delta if delta is None else delta
        leaves = [t for t in tree_leaves((inputs, keywords)) if isinstance(t, Tensor)]
        moved = dict(zip(self.names, steps, strict=bool(len(steps))))
        if transformed([*leaves, *steps]):
            return difference_of(self.network, self.output, (inputs, keywords), moved, alpha)
        program = self._program(inputs, keywords)
        # To leave inference mode turns gradients on: without the caller's setting, the graph of
        # every batch would be kept as long as its outputs are.
        differentiable = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.set_grad_enabled(differentiable):
            if differentiable and on_gate is None and any(t.requires_grad for t in leaves):
                return difference_of(self.network, self.output, (inputs, keywords), moved, alpha)
            try:
                return program.run(
                    [_usable(t) for t in leaves], self._weights(), moved, alpha, on_gate
                )
            except OtherWay:
                if not differentiable:
                    moved = {n: d.detach() for n, d in moved.items()}
                return subtracted(self.network, self.output, (inputs, keywords), moved, alpha)

    def initial_weights(self) -> Iterator[Tensor]:
        """Yield the weights at w0."""
        return iter(self.network.parameters())

    @torch.no_grad()
    def displaced(self) -> nn.Module:
        """Return a copy of the network at w0 + delta/alpha (in the weights' own precision)."""
        if math.isinf(self.alpha):
            raise ValueError("alpha is inf: the linearization is not a network at other weights")
        model = copied(self.network)
        weights = dict(model.named_parameters())
        for name, delta in zip(self.names, self.delta, strict=True):
            weights[name].add_(delta, alpha=1 / self.alpha)
        for p in weights.values():
            p.requires_grad_(p.is_floating_point() or p.is_complex())
        return model

    def __getstate__(self) -> dict[str, Any]:
        # Records are made again from the network.
        return {**self.__dict__, "_graphs": {}}

    def network_output(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Return the network's output at other weights, to be differentiated by autograd."""
        program = self._program((x,), {})
        return program.plain([_usable(x)], {**self._weights(), **weights})

    def suspect(self, x: Tensor) -> bool:
        """Whether autograd may be kept from differentiating the network at inputs ``x``."""
        return self._program((x,), {}).graph.suspect

    def _weights(self) -> dict[str, Tensor]:
        return {
            **dict(self.network.named_parameters()),
            **dict(self.network.named_buffers()),
        }

    def _program(self, inputs: tuple, keywords: dict[str, Any]) -> Program:
        key = _shape_of((inputs, keywords))
        if key in self._graphs:
            return self._graphs[key]
        if not self._separate:
            self._separate = check_separate(self.network, inputs, keywords, self.output)
        graph = captured(self.network, inputs, keywords, output=self.output, custom=self._custom)
        program = Program(graph)
        if not graph.reads:
            if len(self._graphs) >= _KEPT:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[key] = program
        return program


def _check_mode(network: nn.Module) -> None:
    """Refuse what draws values or mixes inputs in the mode that the network is in."""
    for name, module in network.named_modules():
        if not module.training:
            continue
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"batch norm in training mode ({name}) mixes the inputs of a batch; call "
                "model.eval() with running statistics, or take a network without it"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ValueError(
                f"dropout ({name}) draws a new network at every call and has no difference; call "
                "model.eval()"
            )


def _usable(t: Tensor) -> Tensor:
    return t.clone() if t.is_inference() else t


def _shape_of(arguments: Any) -> Any:
    """What a record depends on: shapes and layouts of tensors, and all other arguments."""
    leaves, structure = tree_flatten(arguments)
    described = tuple(
        (a.shape, a.stride(), a.dtype, a.device) if isinstance(a, Tensor) else repr(a)
        for a in leaves
    )
    return described, repr(structure)


def linearize(
    model: nn.Module, *, output: Any = None, parameters: str | Sequence[str] | None = None
) -> ScaledDifference:
    """Return the linearized, centred model x -> Dh(x, w0) delta, trainable in delta.

    It is `ScaledDifference` at alpha = inf: an exact tangent model, linear in ``delta``, whose
    kernel is the tangent kernel of ``model`` at w0 (Chizat et al. 2019, Section 1). ``output`` and
    ``parameters`` are as there: which output counts, and which parameters move.
    """
    return ScaledDifference(model, math.inf, output=output, parameters=parameters)


def sharing(model: nn.Module, names: Sequence[str]) -> ScaledDifference:
    """The linearization of a network in evaluation mode whose parameters ``names`` move.

    Nothing is copied: the displacements are given to `ScaledDifference.pair`, at every call.
    """
    linear = ScaledDifference.__new__(ScaledDifference)
    nn.Module.__init__(linear)
    linear.alpha, linear.output = math.inf, None
    linear.network = model
    linear.names = tuple(names)
    linear.delta = nn.ParameterList()
    linear._graphs, linear._separate, linear._custom = {}, False, False
    return linear
