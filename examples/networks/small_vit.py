"""A vision transformer small enough for a laptop, for commands that take ``FILE.py:FUNCTION``.

Not in the paper, whose networks are convolutional.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import VisionTransformer

__all__ = ["small_vit"]


def small_vit(
    input_shape: tuple[int, ...], n_outputs: int, generator: torch.Generator
) -> nn.Module:
    """Eight by eight patches, 4 layers of 96 units, 3 heads: 0.46 million weights.

    torchvision's layers draw their weights from torch's own generator, seeded here from
    ``generator`` and then left as it was; its head, zero there, is drawn too.
    """
    side = input_shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        network = VisionTransformer(
            image_size=side,
            patch_size=max(1, side // 8),
            num_layers=4,
            num_heads=3,
            hidden_dim=96,
            mlp_dim=384,
            num_classes=n_outputs,
        )
        nn.init.normal_(network.heads.head.weight, std=96**-0.5)
    return network
