"""``python -m tests.zoo.programs``: networks drawn at random, beside plain autograd in float64.

A program is a row of operations on values of shape (n, 8), each of some earlier value: functions,
layers whose parameters others may use as well, views, and writes into views. What plain PyTorch
cannot differentiate, where its gradient is not that of a central difference, and what mixes the
inputs is left out. Found faults are made as small as they go before they are shown.
"""

from __future__ import annotations

import argparse
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tangent import ScaledDifference, tangent_features, tangent_kernel
from tangent.kernel.products import KernelProduct

F64 = torch.float64
_TURNED = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
_SOME = torch.tensor([0, 2, 4])
_MASK = torch.tensor([True, False] * 4)
_LINE = torch.linspace(-1, 1, 8, dtype=F64)
_SQUARE = torch.linspace(-1, 1, 64, dtype=F64).view(8, 8)


def _image(z: Tensor) -> Tensor:
    parts = [z, z.roll(1, -1), z.tanh(), z.flip(-1), z.sin(), z * z, z.cos(), -z]
    return torch.cat(parts, -1).view(-1, 4, 4, 4)


def _row(h: Tensor) -> Tensor:
    """Eight numbers of an image of four or eight channels."""
    found = h.flatten(2).mean(-1)
    return torch.cat([found, h.flatten(2)[..., 0]], 1)[:, :8]


def _power(c: Tensor) -> Tensor:
    return (c * c.conj()).real


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (t.reshape(-1, 4, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).flatten(1)


def _written(z: Tensor, b: Tensor) -> Tensor:
    out = torch.zeros_like(z)
    out[:] = b
    out[:, ::2] *= z[:, ::2]
    return out


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu, "silu": F.silu, "mish": F.mish,
    "sigmoid": torch.sigmoid, "abs": torch.abs, "softmax": lambda z: F.softmax(z, -1),
    "layer norm": lambda z: F.layer_norm(z, (8,)), "group norm": lambda z: F.group_norm(z, 2),
    "cumsum": lambda z: z.cumsum(-1), "flip": lambda z: z.flip(-1), "roll": lambda z: z.roll(1, -1),
    "index": lambda z: z[:, _TURNED], "gather": lambda z: z.gather(1, _TURNED.expand(len(z), 8)),
    "sort": lambda z: z.sort(-1).values, "where": lambda z: torch.where(_MASK, z, z.sin()),
    "clamp": lambda z: z.clamp(-0.7, 0.7), "largest": lambda z: z - z.amax(-1, keepdim=True),
    "logsumexp": lambda z: z - z.logsumexp(-1, keepdim=True), "normalize": F.normalize,
    "matrix": lambda z: z @ _SQUARE, "buffer": lambda z: z * _LINE, "clone": torch.clone,
    "transpose": lambda z: z.view(-1, 2, 4).transpose(1, 2).reshape(-1, 8),
    "chunk": lambda z: torch.cat(z.chunk(2, -1)[::-1], -1),
    "stack": lambda z: torch.stack([z[:, ::2], z[:, 1::2]], 2).flatten(1),
    "unbind": lambda z: torch.stack(z.unbind(1)[::-1], 1),
    "expand": lambda z: z[:, :1].expand(-1, 8) * z, "strided": lambda z: z.t().contiguous().t(),
    "product": lambda z: (z.unsqueeze(1) * z.unsqueeze(2)).sum(1),
    "max pool": lambda z: F.max_pool1d(z.unsqueeze(1), 3, 1, 1).squeeze(1),
    "mean pool": lambda z: F.avg_pool1d(z.unsqueeze(1), 3, 1, 1).squeeze(1),
    "filter": lambda z: torch.fft.irfft(torch.fft.rfft(z) * (1 + 0.5j), n=8),
    "power spectrum": lambda z: F.pad(_power(torch.fft.rfft(z)), (0, 3)) / 8,
    "turned pairs": lambda z: torch.view_as_real(torch.complex(z[:, :4], z[:, 4:]) * 1j).flatten(1),
    "triangle": lambda z: (z.unsqueeze(1) * z.unsqueeze(2)).tril().sum(2),
    "exp": lambda z: (z / 3).exp(), "log": lambda z: (1 + z * z).log(), "power": lambda z: z**3 / 3,
    "divided": lambda z: z / (1 + z.abs()), "scattered": lambda z: z.index_add(1, _SOME, z[:, :3]),
    "filled": lambda z: z.masked_fill(_MASK, 0.5), "lerp": lambda z: torch.lerp(z, z * z, 0.3),
    "gated": lambda z: torch.cat([F.glu(z), z[:, 4:]], -1), "windows":
    lambda z: z.unfold(1, 4, 2)[:, :2].flatten(1), "attention": lambda z: _attention(z, z, z),
}  # fmt: skip
PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": lambda a, b: a / (1 + b * b),
    "cat": lambda a, b: torch.cat([a[:, :4], b[:, 4:]], -1),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "where": lambda a, b: torch.where(_MASK, a, b), "atan2": lambda a, b: torch.atan2(a, 1 + b * b),
    "matmul": lambda a, b: (a.view(-1, 2, 4) @ b.view(-1, 4, 2)).flatten(1).repeat(1, 2),
    "complex": lambda a, b: _power(torch.complex(a, b)) + torch.complex(a, b).imag,
    "slice": lambda a, b: a.slice_scatter(b[:, :3], 1, 2, 5), "stack":
    lambda a, b: torch.stack([a, b], -1).mean(-1), "attention": lambda a, b: _attention(a, b, a),
}  # fmt: skip
LAYERS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "linear": lambda z, p: F.linear(z, p.w, p.b), "on the right": lambda z, p: z @ p.w,
    "turned": lambda z, p: F.linear(z, p.w.t()), "masked": lambda z, p: F.linear(z, p.w.tril()),
    "normalized": lambda z, p: F.linear(z, p.w / p.w.norm(dim=1, keepdim=True)),
    "softmax of weights": lambda z, p: z @ F.softmax(p.w, -1),
    "squared": lambda z, p: z @ (p.w @ p.w),
    "low rank": lambda z, p: z @ (p.w + p.v @ p.v.t()), "factors": lambda z, p: z @ p.v @ p.v.t(),
    "parts": lambda z, p: torch.cat([z @ p.w[:, :4], z @ p.v], -1), "scale": lambda z, p: z * p.s,
    "bias": lambda z, p: z + p.b, "gate": lambda z, p: z * torch.sigmoid(p.b),
    "einsum": lambda z, p: torch.einsum("ni,ji->nj", z, p.w),
    "scaled addmm": lambda z, p: torch.addmm(p.b, z, p.w, beta=0.5, alpha=2.0),
    "batched": lambda z, p: torch.bmm(z.unsqueeze(1), p.w.expand(len(z), 8, 8)).squeeze(1),
    "made of inputs": lambda z, p: PAIRS["matmul"](z @ p.w, z),
    "tokens": lambda z, p: F.linear(z.view(-1, 2, 4), p.v).mean(1),
    "layer norm": lambda z, p: F.layer_norm(z, (8,), p.b, p.b),
    "batch norm": lambda z, p: F.batch_norm(z, _LINE, _LINE**2 + 1, p.b, p.b),
    "prelu": lambda z, p: F.prelu(z, p.b), "one prelu": lambda z, p: F.prelu(z, p.s),
    "embedding": lambda z, p: z * F.embedding(torch.tensor([1]), p.w), "rows": lambda z, p:
    F.linear(z, p.w[_TURNED]), "queries": lambda z, p: _attention(z @ p.w, z @ p.w.t(), z * p.b),
    "chosen": lambda z, p: torch.where(_MASK, z, p.b),
    "maximum": lambda z, p: torch.maximum(z, p.b),
    "distances": lambda z, p: torch.cdist(z, p.w) / 3,
    "spectrum": lambda z, p: torch.fft.ifft(torch.fft.fft(z) * torch.fft.fft(p.b)).real,
    "written": lambda z, p: _written(z, p.b),
    "inverse": lambda z, p: z @ torch.linalg.inv(3 * torch.eye(8, dtype=F64) + p.w),
    "convolution": lambda z, p: _row(F.conv2d(_image(z), p.k, p.c, padding=1)),
    "strided": lambda z, p: _row(F.conv2d(_image(z), p.k, stride=2, padding=1)),
    "channels last": lambda z, p: _row(F.conv2d(
        _image(z).contiguous(memory_format=torch.channels_last), p.k, padding=1)),
    "grouped": lambda z, p: _row(F.conv2d(_image(z), p.k[:, :1], p.c, padding=1, groups=4)),
    "transposed": lambda z, p: _row(F.conv_transpose2d(_image(z), p.k, p.c, stride=2)),
    "pooled": lambda z, p: _row(F.max_pool2d(F.relu(F.conv2d(_image(z), p.k, padding=1)), 2)),
    "twice": lambda z, p: _row(F.conv2d(F.relu(F.conv2d(_image(z), p.k)), p.k, padding=2)),
    "standardized": lambda z, p: _row(F.conv2d(_image(z), p.k - p.k.mean((1, 2, 3), True))),
    "image norm": lambda z, p: _row(F.group_norm(_image(z), 2, p.c, p.c)),
    "enlarged": lambda z, p: _row(F.interpolate(
        F.conv2d(_image(z), p.k), scale_factor=2.0, mode="bilinear")),
    "residual": lambda z, p: _row(_image(z) + F.relu(F.conv2d(_image(z), p.k, padding=1), True)),
}  # fmt: skip
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda z: z, "half": lambda z: z[:, :4], "even": lambda z: z[:, ::2],
    "turned": torch.t, "column": lambda z: z[:, 3], "axis": lambda z: z.unsqueeze(1),
    "box": lambda z: z[:, 1:7].unflatten(1, (2, 3)), "third": lambda z: z[:, 1::3],
}  # fmt: skip
WRITES: dict[str, Callable[[Tensor], Tensor]] = {
    "mul_": lambda v: v.mul_(1.5), "add_": lambda v: v.add_(0.3), "relu_": torch.relu_,
    "tanh_": torch.tanh_, "clamp_": lambda v: v.clamp_(-0.5, 0.8), "zero_": torch.zero_,
    "square_": torch.square_, "abs_": torch.abs_, "sigmoid_": torch.sigmoid_, "itself":
    lambda v: v.mul_(v.clone()), "silu_": lambda v: F.silu(v, inplace=True),
}  # fmt: skip
COPIES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "half": lambda t, s: t[:, :4].copy_(s[:, 4:]), "even": lambda t, s: t[:, ::2].add_(s[:, 1::2]),
    "column": lambda t, s: t[:, 3].copy_(s[:, 2] * s[:, 1]), "whole": lambda t, s: t.copy_(s * 0.5),
    "mask": lambda t, s: t.__setitem__((slice(None), _MASK), s[:, :4]),
    "index": lambda t, s: t.__setitem__((slice(None), _SOME), s[:, :3]),
    "gate": lambda t, s: t.mul_(s.sigmoid()),
    "rows": lambda t, s: t.view(-1, 2, 4)[:, 1].copy_(s[:, :4]),
}  # fmt: skip
KINDS: dict[str, tuple[float, dict[str, Any]]] = {
    "function": (4, FUNCTIONS),
    "pair": (2, PAIRS),
    "layer": (4, LAYERS),
    "view": (1, VIEWS),
    "write": (1.5, WRITES),
    "copy": (1, COPIES),
}


@dataclass(frozen=True)
class Step:
    """An operation of two earlier values (counted from the first, around), the second if needed."""

    kind: str
    name: str
    first: int
    second: int
    view: str


class Weights(nn.Module):
    """Parameters that every layer of a program may use."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {"w": (8, 8), "v": (8, 4), "b": (8,), "s": (1,), "k": (4, 4, 3, 3), "c": (4,)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(0.4 * torch.randn(shape, dtype=F64)))


class Program(nn.Module):
    """The network of some steps, between two linear layers; its last three values count."""

    def __init__(self, steps: tuple[Step, ...]):
        super().__init__()
        self.first, self.last = nn.Linear(5, 8).to(F64), nn.Linear(8, 3).to(F64)
        self.weights, self.steps = Weights(), steps

    def forward(self, x: Tensor) -> Tensor:
        values = [self.first(x) * 1.0]
        for step in self.steps:
            one, two = (values[i % len(values)] for i in (step.first, step.second))
            make = KINDS[step.kind][1][step.name]
            if step.kind == "write":
                make(VIEWS[step.view](one))
            elif step.kind == "copy":
                make(one, two)
            elif step.kind == "view":
                values.append(one[:, :])
            elif step.kind == "layer":
                values.append(make(one, self.weights))
            else:
                values.append(make(one, two) if step.kind == "pair" else make(one))
        return self.last(values[-1] + sum(values[-3:-1]) / 2)


def drawn(seed: int) -> tuple[Step, ...]:
    """A program; the same for the same seed."""
    draw = random.Random(seed)
    kinds = draw.choices(list(KINDS), [share for share, _ in KINDS.values()], k=draw.randint(1, 8))
    return tuple(
        Step(
            kind,
            draw.choice(sorted(KINDS[kind][1])),
            draw.choice([-1, draw.randrange(50)]),
            draw.randrange(50),
            draw.choice(sorted(VIEWS)),
        )
        for kind in kinds
    )


def _network(steps: tuple[Step, ...], seed: int) -> tuple[Program, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Program(steps), torch.randn(3, 5, dtype=F64)


def _moved(network: Program, along: Tensor, step: float, x: Tensor) -> Tensor:
    parts = along.split([p.numel() for p in network.parameters()])
    named = zip(network.named_parameters(), parts, strict=True)
    weights = {name: p.detach() + step * d.view(p.shape) for (name, p), d in named}
    with torch.no_grad():
        return torch.func.functional_call(network, weights, (x,))


def _jacobian(network: Program, x: Tensor) -> Tensor:
    """Gradients of all outputs, one input and one output at a time."""
    rows = []
    for one in x.split(1):
        for output in network(one).flatten():
            found = torch.autograd.grad(
                output, list(network.parameters()), retain_graph=True, materialize_grads=True
            )
            rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


def _comparable(network: Program, x: Tensor, along: Tensor) -> Tensor | None:
    """The oracle, where there is one."""
    try:
        phi, base = _jacobian(network, x), network(x).detach()
        apart = torch.cat([network(one) for one in x.split(1)])
        slope = (_moved(network, along, 1e-6, x) - _moved(network, along, -1e-6, x)) / 2e-6
    except RuntimeError:  # a value that backward needs was written into, for one
        return None
    right = (phi @ along).view(slope.shape)
    if not phi.isfinite().all() or phi.norm() > 1e4 or not torch.allclose(base, apart):
        return None
    return phi if (slope - right).norm() <= 1e-4 * (1 + right.norm()) else None


def _answers(network: Program, x: Tensor, phi: Tensor, along: Tensor) -> Iterator[tuple]:
    """What is asked, how it is answered, and the answer of the oracle."""
    kernel, rows = phi @ phi.T, len(phi)
    yield "kernel", lambda: tangent_kernel(network, x).reshape(rows, rows), kernel
    yield "features", lambda: tangent_features(network, x).reshape(rows, -1), phi
    yield "product", lambda: KernelProduct(network, x)(torch.eye(rows, dtype=F64)), kernel
    base, step = network(x).detach(), 0.1 * along
    for alpha in (1.0, math.inf):
        made = ScaledDifference(network, alpha)
        parts = step.split([p.numel() for p in network.parameters()])
        delta = [d.view(p.shape) for d, p in zip(parts, network.parameters(), strict=True)]
        linear = (phi @ step).view(base.shape)
        wanted = linear if math.isinf(alpha) else _moved(network, step, 1.0, x) - base
        yield f"base at {alpha:g}", lambda m=made, d=delta: m.pair(x, delta=d).base, base
        yield (
            f"difference at {alpha:g}",
            lambda m=made, d=delta: m.pair(x, delta=d).difference,
            wanted,
        )


def faults(steps: tuple[Step, ...], seed: int) -> list[str] | None:
    """What is wrong about a program; None where plain PyTorch has no answer to compare with."""
    network, x = _network(steps, seed)
    sizes = sum(p.numel() for p in network.parameters())
    generator = torch.Generator().manual_seed(seed)
    along = torch.randn(sizes, generator=generator, dtype=F64)
    phi = _comparable(network, x, along)
    if phi is None:
        return None
    found = []
    for name, answer, wanted in _answers(network, x, phi, along):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, about second derivatives
                error = float((answer() - wanted).norm() / (wanted.norm() + 1e-9))
        except Exception as problem:
            found.append(f"{name}: {type(problem).__name__}: {str(problem)[:200]}")
            continue
        if not error < 1e-7:
            found.append(f"{name}: off by {error:.3g}")
    return found


def smallest(steps: tuple[Step, ...], seed: int) -> tuple[Step, ...]:
    """The program with whatever can be left out left out, wrong still."""
    for i in range(len(steps)):
        fewer = (*steps[:i], *steps[i + 1 :])
        if fewer and faults(fewer, seed):
            return smallest(fewer, seed)
    return steps


def main() -> int:
    """Draw programs for so long; status 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first program")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    end, seed, counts = time.monotonic() + options.seconds, options.seed, [0, 0, 0]
    while time.monotonic() < end:
        steps = drawn(seed)
        found = faults(steps, seed)
        counts[0] += 1
        counts[1] += found is not None
        if found:
            counts[2] += 1
            steps = smallest(steps, seed)
            print(f"{seed}: {steps}\n    {faults(steps, seed)}", flush=True)
        seed += 1
    print(f"{counts[0]} programs, {counts[1]} compared, {counts[2]} wrong")
    return int(counts[2] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
