"""The methods that `benchmarks/lazy_training.py` times, one class a method, one `step` a call."""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.func import functional_call, jvp

from tangent import ScaledDifference
from tangent.training.layout import channels_last, like_weights

ALPHA, LR, MOMENTUM = 1e7, 0.05, 0.9


def sgd(parameters, **options):
    return torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, **options)


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Method(ABC):
    """A network, a batch and an optimizer; a step is forward, backward and update."""

    x: torch.Tensor
    optimizer: torch.optim.Optimizer

    @abstractmethod
    def loss(self) -> torch.Tensor:
        """The batch's loss, with its graph."""

    def step(self) -> None:
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Published(Method):
    """alpha (h(w) - h(w0)) with both networks' gradients computed; only w is stepped."""

    def __init__(self, network, x, y, *, frozen_graph):
        self.network = copy.deepcopy(network).double()
        self.initial = copy.deepcopy(self.network)
        self.x, self.y, self.frozen_graph = x.double(), y.double(), frozen_graph
        self.optimizer = sgd(self.network.parameters())

    def outputs(self):
        with torch.set_grad_enabled(self.frozen_graph and torch.is_grad_enabled()):
            base = self.initial(self.x)
        return self.network(self.x) - base

    def loss(self):
        # The mean over outputs of the loss of alpha h, over alpha^2.
        return F.mse_loss(self.outputs(), self.y / ALPHA)

    def step(self):
        self.initial.zero_grad()
        super().step()

    def scaled(self):
        with torch.no_grad():
            return ALPHA * self.outputs()


class Linearized(Method):
    """Dh(w0) delta by forward-mode differentiation, trained through it."""

    def __init__(self, network, x, y):
        self.x, self.y, self.network = x, y, network
        self.weights = {k: p.detach() for k, p in network.named_parameters()}
        self.delta = {k: torch.zeros_like(p, requires_grad=True) for k, p in self.weights.items()}
        self.optimizer = sgd(self.delta.values())

    def scaled(self):
        def outputs(weights):
            return functional_call(self.network, weights, self.x)

        return jvp(outputs, (self.weights,), (self.delta,))[1]

    def loss(self):
        return F.mse_loss(self.scaled(), self.y)


class Difference(Method):
    """Difference propagation as `tangent.training.lazy.train` runs it."""

    def __init__(self, network, x, y, dtype=torch.float32):
        self.module = ScaledDifference(network, ALPHA).to(dtype)
        channels_last(self.module)
        self.x, self.y = like_weights(x.to(dtype), self.module), y.to(dtype)
        self.optimizer = sgd(list(self.module.delta), fused=True)

    def scaled(self):
        return self.module(self.x)

    def loss(self):
        return F.mse_loss(self.scaled(), self.y)

    def parts(self) -> dict[str, float]:
        """Seconds of the base path, both paths, and the whole step."""
        marks = []

        def mark():
            wait(self.x.device)
            marks.append(time.perf_counter())

        mark()
        with torch.no_grad():
            self.module.network(self.x)
        mark()
        loss = self.loss()
        mark()
        self.optimizer.zero_grad()
        loss.backward()
        mark()
        self.optimizer.step()
        mark()
        base, forward, backward, optimizer = (b - a for a, b in itertools.pairwise(marks))
        return {
            "base path (the network alone)": base,
            "difference path (the rest of forward)": forward - base,
            "backward": backward,
            "optimizer": optimizer,
        }


class Plain(Method):
    """The network itself, trained as usual."""

    def __init__(self, network, x, y, *, last, fused, dtype=torch.float32):
        self.network = copy.deepcopy(network).to(dtype)
        if last:
            channels_last(self.network)
        self.x, self.y = like_weights(x.to(dtype), self.network), y.to(dtype)
        self.optimizer = sgd(self.network.parameters(), fused=fused)

    def loss(self):
        return F.mse_loss(self.network(self.x), self.y)


class TensorFloat32:
    """A method whose steps allow TF32 in products and convolutions."""

    def __init__(self, method: Method):
        self.method = method
        self.optimizer = method.optimizer

    def scaled(self):
        return self._allowed(self.method.scaled)

    def step(self) -> None:
        self._allowed(self.method.step)

    def _allowed(self, function):
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        try:
            return function()
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Graphed:
    """A method's step recorded once as a CUDA graph and replayed."""

    def __init__(self, method: Method | TensorFloat32):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # momentum and the library's workspaces exist before the recording
                method.step()
        torch.cuda.current_stream().wait_stream(side)
        method.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            method.step()

    def step(self) -> None:
        self.graph.replay()


def operations(function: Callable[[], object]) -> int:
    """Floating-point operations of the convolutions and matrix products in one call."""
    from torch.utils.flop_counter import FlopCounterMode

    def baddbmm(out, a, b, *args, **kwargs):
        return 2 * a[0] * a[1] * a[2] * b[2]

    # The counter knows the product, but not where it is added in place.
    mapping = {torch.ops.aten.baddbmm_: baddbmm}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        function()
    return counter.get_total_flops()


def peak_rate(device, dtype=torch.float32, seconds=0.5) -> float:
    """Operations a second of a large matrix product on ``device``."""
    size = 8192 if torch.device(device).type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    rates = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        wait(a.device)
        start = time.perf_counter()
        a @ a
        wait(a.device)
        rates.append(2 * size**3 / (time.perf_counter() - start))
    return statistics.median(rates[1:] or rates)
