"""The paper's VGG-11 linearized and solved, where the way to the designed network starts."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from experiments.networks.classifiers import channel_statistics
from experiments.open_question.rows import one_hot
from experiments.runs.results import Context, Outcome
from experiments.usage import watched
from tangent import tangent_kernel
from tangent.machine.bars import counted
from tangent.nets import vgg11
from tangent.solve.share_ridge import share_ridge

# The paper's network, then what its poolings do to the kernel.
PIXELS: dict[str, dict[str, Any]] = {
    "vgg11": {},
    "vgg11-average": {"pooling": "average"},
    "vgg11-global": {"pooling": "average", "head": "global-average"},
}
_RIDGES = (1.0, 0.1, 0.01, 1e-3, 1e-4)


def compute_pixels(
    run: dict[str, Any], context: Context, train: Tensor, y: Tensor, test: Tensor, y_test: Tensor
) -> Outcome:
    """Ridge regression with the tangent kernel of one output, every layer as it comes."""
    start = time.process_time()
    mean, deviation = channel_statistics(train)
    x, x_test = (train - mean) / deviation, (test - mean) / deviation
    model = _network(run, x)
    context.log(f"{run['lever']}: kernel of {len(x)} images with {len(x) + len(x_test)}")
    kernel = tangent_kernel(model, x, outputs=0, progress=watched())
    assert isinstance(kernel, Tensor)
    row = share_ridge([kernel.double()], one_hot(y), [(1.0,)], _RIDGES)
    parts = []
    for some in counted(x_test.split(500), "batch of test images"):
        cross = tangent_kernel(model, some, x, outputs=0)
        assert isinstance(cross, Tensor)
        parts.append(row.predict([cross]).argmax(1))
    correct = torch.cat(parts) == y_test
    return Outcome(
        {
            "test_accuracy": float(correct.double().mean()),
            "left_out_accuracy": row.left_out[row.weights, row.ridge],
            "ridge": row.ridge,
            "condition_number": row.condition_number,
            "features": sum(p.numel() for p in model.parameters()),
            "total_cpu_seconds": time.process_time() - start,
        },
        arrays={"correct": correct.numpy()},
    )


def _network(run: dict[str, Any], x: Tensor) -> nn.Module:
    generator = torch.Generator().manual_seed(run["seed"])
    return vgg11(
        1,
        in_channels=x.shape[1],
        image_size=x.shape[2],
        width=run["vgg_width"],
        gain=math.sqrt(2),
        generator=generator,
        **PIXELS[run["lever"]],
    )
