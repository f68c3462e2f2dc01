"""Small networks that use every kind of layer the kernel engine has a rule for, and some others."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tangent.nets import ScaledConv2d, ScaledLinear


class SharedConvolution(nn.Module):
    """One convolution used twice, and a linear layer used on every position."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.mix = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = x + torch.tanh(self.conv(x))
        return self.mix(x).mean((1, 2))


class Sequence(nn.Module):
    """Embedding, layer norm, attention by hand, and a head tied to nothing."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=0)
        self.norm = nn.LayerNorm(4)
        self.query = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embedding(x))
        scores = torch.softmax(self.query(x) @ x.transpose(1, 2), dim=-1)
        return self.head(F.gelu(scores @ x)).mean(1)


class TiedHead(nn.Module):
    """The embedding's weight is the head's: roles of rows and columns are exchanged."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.embedding(x)).mean(1)
        return F.linear(x, self.embedding.weight)


class Unusual(nn.Module):
    """Parameters in places without a rule: a gate, a position code, a normalized weight."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.ones(3))
        self.code = nn.Parameter(torch.zeros(4, 3))
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 3, padding=1))
        self.unused = nn.Parameter(torch.zeros(2))
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).transpose(1, 2) * self.gate + self.code
        return self.head(torch.sin(x).flatten(1))


class Detached(nn.Module):
    """A branch without gradients that a record of the calls alone does not show."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        with torch.no_grad():
            y = self.second(x)
        return self.second(x) * torch.sigmoid(y)


class TokensFirst(nn.Module):
    """Merges the batch behind the tokens, where rows of the merged axis are not in order."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        y = torch.tanh(self.first(x.transpose(0, 1).reshape(t * n, 3)))
        return self.second(y).view(t, n, 2).mean(0)


class InPlace(nn.Module):
    """Operations in place, some of which a record can follow and one that it cannot."""

    def __init__(self, hard: bool):
        super().__init__()
        self.hard = hard
        self.first = nn.Linear(3, 4)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.hard:
            x = x.clone()
            x[:, 0] = 0
        x = x * 2
        x += 1
        return self.second(self.act(x))


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding="same", groups=2),
        nn.Softplus(),
        nn.Conv2d(6, 6, (3, 1), padding=(2, 0), dilation=2, groups=6, bias=False),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.LazyLinear(3),
    )


def _normalized() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def _scaled() -> nn.Module:
    return nn.Sequential(
        ScaledConv2d(2, 3, 3, padding=1, gain=1.4),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        ScaledLinear(12, 2),
    )


IMAGE, ROW, TOKENS = (2, 4, 4), (3,), (5,)

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "stride, groups and dilation": (_convolutions, (2, 8, 8)),
    "normalization": (_normalized, (2, 6, 6)),
    "ntk parametrization": (_scaled, IMAGE),
    "shared convolution": (SharedConvolution, IMAGE),
    "sequence": (Sequence, TOKENS),
    "tied head": (TiedHead, TOKENS),
    "unusual parameters": (Unusual, (2, 4)),
    "no_grad branch": (Detached, ROW),
    "tokens first": (TokensFirst, (4, 3)),
    "in place": (lambda: InPlace(False), ROW),
    "in place, by index": (lambda: InPlace(True), ROW),
}


def example(name: str, n: int, seed: int) -> tuple[nn.Module, Tensor]:
    """A network in float64 with random weights and statistics, and n inputs."""
    build, shape = MODELS[name]
    generator = torch.Generator().manual_seed(seed)
    model = build().double()
    if shape == TOKENS:
        x = torch.randint(0, 7, (n, *shape), generator=generator)
    else:
        x = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    model.eval()
    with torch.no_grad():
        model(x[:1])  # lazy layers learn their sizes
        for p in model.parameters():
            p.normal_(generator=generator).mul_(0.7)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return model, x
