"""Networks of plain torch: recurrent, attention, transposed, derivatives inside, and the like."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["NETWORKS", "Net"]


class Net(nn.Module):
    """A module with a given forward and parts."""

    def __init__(self, function: Callable[..., Tensor], **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


class Mixture(nn.Module):
    """Experts that get the rows that chose them."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList([nn.Linear(6, 4) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        chosen = weights.argmax(-1)
        out = x.new_zeros(len(x), 4)
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero()[:, 0]
            out[rows] += weights[rows, i, None] * expert(x[rows])
        return out


class Spectral(nn.Module):
    """A layer of a Fourier neural operator."""

    def __init__(self):
        super().__init__()
        self.lift, self.head = nn.Conv1d(2, 4, 1), nn.Conv1d(4, 1, 1)
        self.weight = nn.Parameter(torch.randn(4, 4, 3, dtype=torch.float32) * 0.3)
        self.phase = nn.Parameter(torch.randn(4, 4, 3) * 0.3)
        self.local = nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        f = torch.fft.rfft(x)
        modes = torch.einsum("bix,iox->box", f[..., :3], torch.complex(self.weight, self.phase))
        out = torch.zeros_like(f)
        out[..., :3] = modes
        x = F.gelu(torch.fft.irfft(out, n=x.shape[-1]) + self.local(x))
        return self.head(x).flatten(1)[:, :3]


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.silu(self.down(x))
        b = self.up(F.silu(self.middle(a)))
        return self.out(torch.cat([a, b], 1)).mean((2, 3))


class Lora(nn.Module):
    """A frozen layer with a low-rank one beside it, by hand."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(6, 5).requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(F.linear(x, self.base.weight + 0.5 * self.b @ self.a, self.base.bias))


class Siren(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(3 * layer(x))
        return self.layers[-1](x)


def _pinn(net: Net, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        u = net.second(torch.tanh(net.first(x)))
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    return torch.cat([u, slope], 1)


def _hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    model[0].register_forward_hook(lambda module, args, output: 3 * output)
    model[2].register_forward_pre_hook(lambda module, args: (args[0] ** 2,))
    return model


def _tied() -> nn.Module:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), first)


def _encoder(norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    return Net(
        lambda net, x: net.encoder(x, src_key_padding_mask=x[:, :, 0] > 1.0)[:, 0],
        encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
    )


def _masked_attention(net: Net, x: Tensor) -> Tensor:
    y, _ = net.attention(x, x, x, is_causal=True, attn_mask=net.mask)
    return y.mean(1)


def _written(net: Net, x: Tensor) -> Tensor:
    h = net.first(x).clone()
    h[:, 0] = 2 * h[:, 1]
    h[:, 2:4].mul_(h[:, :2].clone())
    h.relu_()
    return net.second(h + 1)


def rows(*shape: int) -> Callable[[int], Tensor]:
    """Random rows."""
    return lambda n: torch.randn(n, *shape, generator=torch.Generator().manual_seed(7))


def words(length: int, count: int) -> Callable[[int], Tensor]:
    """Random words."""
    return lambda n: torch.randint(
        0, count, (n, length), generator=torch.Generator().manual_seed(7)
    )


def _recurrent(kind: type[nn.RNNBase], **options) -> Callable[[], nn.Module]:
    return lambda: Net(
        lambda net, x: net.cell(x)[0][:, -1], cell=kind(3, 4, batch_first=True, **options)
    )


Network = tuple[Callable[[], nn.Module], Callable[[int], Tensor], str]

NETWORKS: dict[str, Network] = {
    "gru": (_recurrent(nn.GRU), rows(5, 3), ""),
    "lstm": (_recurrent(nn.LSTM, num_layers=2, bidirectional=True), rows(5, 3), ""),
    "rnn": (_recurrent(nn.RNN, nonlinearity="relu"), rows(5, 3), ""),
    "time first": (
        lambda: Net(lambda net, x: torch.tanh(net.a(x.transpose(0, 1))).sum(0), a=nn.Linear(4, 3)),
        rows(2, 4),
        "",
    ),
    "attention": (
        lambda: Net(
            _masked_attention,
            attention=nn.MultiheadAttention(8, 2, batch_first=True),
            mask=torch.triu(torch.ones(5, 5, dtype=torch.bool), 1),
        ),
        rows(5, 8),
        "",
    ),
    "encoder": (lambda: _encoder(False), rows(5, 8), ""),
    "encoder, norm first": (lambda: _encoder(True), rows(5, 8), ""),
    "convolutions in 1-D": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3), nn.Mish(), nn.MaxPool1d(2), nn.Conv1d(4, 2, 2), nn.Flatten()
        ),
        rows(2, 12),
        "",
    ),
    "convolutions in 3-D": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 3, 2), nn.ELU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(24, 2)
        ),
        rows(1, 5, 5, 5),
        "",
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1),
            nn.Hardswish(),
            nn.ConvTranspose2d(3, 1, 2, bias=False),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        ),
        rows(2, 4, 4),
        "",
    ),
    "u-net": (UNet, rows(1, 8, 8), ""),
    "pinn": (lambda: Net(_pinn, first=nn.Linear(2, 8), second=nn.Linear(8, 1)), rows(2), ""),
    "siren": (Siren, rows(2), ""),
    "fourier operator": (Spectral, rows(2, 8), ""),
    "lora": (Lora, rows(6), ""),
    "tied": (_tied, rows(6), ""),
    "hooks": (_hooked, rows(6), ""),
    "weight norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 2)
        ),
        rows(6),
        "",
    ),
    "spectral norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 2)
        ),
        rows(6),
        "",
    ),
    "mixture": (Mixture, rows(6), ""),
    "prelu": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.PReLU(4), nn.Flatten(), nn.Linear(64, 2)),
        rows(2, 6, 6),
        "",
    ),
    "embedding bag": (
        lambda: nn.Sequential(nn.EmbeddingBag(9, 4, mode="mean"), nn.Tanh(), nn.Linear(4, 2)),
        words(5, 9),
        "",
    ),
    "instance norm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding_mode="reflect", padding=1),
            nn.InstanceNorm2d(4, affine=True),
            nn.ReLU6(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(4, 2, 3),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
        ),
        rows(2, 6, 6),
        "",
    ),
    "rms norm": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8), nn.GLU(), nn.Linear(4, 2)),
        rows(6),
        "",
    ),
    "checkpoint": (
        lambda: Net(
            lambda net, x: net.c(checkpoint(net.b, net.a(x), use_reentrant=True)),
            a=nn.Linear(6, 5),
            b=nn.Sequential(nn.Linear(5, 5), nn.Tanh()),
            c=nn.Linear(5, 2),
        ),
        rows(6),
        "",
    ),
    "branches": (
        lambda: Net(
            lambda net, x: torch.stack([net.a(v) if v.sum() > 0 else net.b(v) for v in x]),
            a=nn.Linear(6, 2),
            b=nn.Linear(6, 2),
        ),
        rows(6),
        "",
    ),
    "written in place": (
        lambda: Net(_written, first=nn.Linear(6, 5), second=nn.Linear(5, 2)),
        rows(6),
        "",
    ),
    "bilinear": (
        lambda: Net(
            lambda net, x: torch.einsum("bi,bj,ijk->bk", net.a(x), net.b(x), net.w),
            a=nn.Linear(6, 3),
            b=nn.Linear(6, 4),
            w=nn.Parameter(torch.randn(3, 4, 2)),
        ),
        rows(6),
        "",
    ),
    "batch statistics": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        rows(6),
        "mixes the inputs of a batch",
    ),
    "dropout that stays": (
        lambda: Net(lambda net, x: F.dropout(net.a(x)), a=nn.Linear(6, 4)),
        rows(6),
        "draws a new network",
    ),
}
