"""Kernels of networks that others wrote, beside torch.func's recipe, and what one call costs.

    python -m benchmarks.kernel_of_networks --out results/benchmarks/kernel-of-networks.json

The recipe is the one of torch's documentation: ``vmap(jacrev)`` features, and their products
parameter by parameter. A small vision transformer, a small BERT (needs ``transformers``) and
MobileNetV2 (needs ``torchvision``), 16 inputs, 10 outputs, full kernels in float32, one thread;
the error is that beside the recipe, relative to the largest entry. Beside them a linear layer
spelled by hand (``x @ w.T + b``) and by torch, and the fixed cost: a small perceptron's kernel.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from benchmarks.common import machine, seconds_of, write
from tangent import tangent_kernel

N, K = 16, 10


class ByHand(nn.Module):
    """A linear layer as a product with a parameter."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.w = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.b = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w.T + self.b


class Logits(nn.Module):
    """The logits of a network of transformers."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).logits


def perceptron(layer: Callable[[int, int], nn.Module], width: int) -> nn.Module:
    """Two hidden layers."""
    sizes = ((64, width), (width, width), (width, K))
    layers = [m for a, b in sizes for m in (layer(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def _transformer() -> tuple[nn.Module, Tensor]:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 4, 4, 4, 128, 256, num_classes=K), torch.randn(N, 3, 32, 32)


def _bert() -> tuple[nn.Module, Tensor]:
    import transformers

    config = transformers.BertConfig(
        vocab_size=1000, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=256, num_labels=K, attn_implementation="eager",
    )  # fmt: skip
    network = transformers.BertForSequenceClassification(config)
    return Logits(network), torch.randint(2, 1000, (N, 32))


def _mobilenet() -> tuple[nn.Module, Tensor]:
    from torchvision.models import mobilenet_v2

    return mobilenet_v2(num_classes=K), torch.randn(N, 3, 32, 32)


NETWORKS = {"vit": _transformer, "bert": _bert, "mobilenet_v2": _mobilenet}


def recipe(model: nn.Module, x: Tensor) -> Tensor:
    """The kernel by torch.func, parameter by parameter."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def outputs(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(model, parameters, (one.unsqueeze(0),)).squeeze(0)

    jacobians = vmap(jacrev(outputs), (None, 0))(parameters, x)
    total = torch.zeros(len(x), K, len(x), K)
    for j in jacobians.values():
        j = j.flatten(2)
        total += torch.einsum("iap,jbp->iajb", j, j)
    return total


def compared(name: str, repeats: int) -> dict[str, Any]:
    """Seconds of both ways and their difference."""
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    model.eval().requires_grad_(False)
    ours, theirs = tangent_kernel(model, x), recipe(model, x)
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    del ours, theirs
    kernel = seconds_of(lambda: tangent_kernel(model, x), repeats)
    peer = seconds_of(lambda: recipe(model, x), repeats)
    ratio = peer["median"] / kernel["median"]
    return {"tangent_kernel": kernel, "recipe": peer, "times faster": ratio, "error": error}


def spellings(repeats: int) -> dict[str, Any]:
    """A linear layer by hand and by torch."""
    torch.manual_seed(0)
    x = torch.randn(100, 64)
    found = {}
    for name, layer in {"by hand": ByHand, "F.linear": nn.Linear}.items():
        model = perceptron(layer, 1024)
        found[name] = seconds_of(lambda model=model: tangent_kernel(model, x), repeats)
    return found


def fixed_cost() -> dict[str, Any]:
    """Of one call on a small perceptron."""
    model, x = perceptron(nn.Linear, 32), torch.randn(8, 64)
    found = seconds_of(lambda: tangent_kernel(model, x), 100)
    return {"median": found["median"], "least": min(found["all"]), "first": found["first"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"settings": {"n": N, "k": K, "clock": "CPU seconds"}}
    record["fixed cost"] = fixed_cost()
    record["linear layer"] = spellings(options.repeats)
    record["networks"] = {name: compared(name, options.repeats) for name in options.networks}
    record["machine"] = machine()
    write(record, options.out)


if __name__ == "__main__":
    main()
