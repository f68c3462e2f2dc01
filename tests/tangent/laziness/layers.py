"""Layers whose second derivatives are looked at, each in a small network."""

from __future__ import annotations

import torch
from torch import nn


class Mixing(nn.Module):
    """Attention over three tokens of four channels."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = x.view(len(x), 3, 4)
        return self.attention(x, x, x, need_weights=False)[0].flatten(1)


BETWEEN = {
    "layer norm": lambda: nn.LayerNorm(12),
    "group norm": lambda: nn.GroupNorm(3, 12),
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 3)), nn.InstanceNorm1d(4, affine=True), nn.Flatten()
    ),
    "batch norm": lambda: nn.BatchNorm1d(12),
    "batch norm of the batch": lambda: nn.BatchNorm1d(12, track_running_stats=False),
    "RMS norm": lambda: nn.RMSNorm(12),
    "softmax": lambda: nn.Softmax(1),
    "attention": Mixing,
    "encoder": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 4)),
        nn.TransformerEncoderLayer(4, 2, 4, batch_first=True),
        nn.Flatten(),
    ),
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "GLU": nn.GLU,
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(12, 5)),
    "Cayley": lambda: nn.utils.parametrizations.orthogonal(
        nn.Linear(12, 12), orthogonal_map="cayley"
    ),
}


def network_with(name):
    """A network with that layer in evaluation mode, and three inputs, in float64."""
    torch.manual_seed(0)
    layers = [nn.Linear(3, 12), BETWEEN[name](), nn.Tanh(), nn.LazyLinear(2)]
    model = nn.Sequential(*layers).double().eval()
    x = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model(x)
    return model, x
