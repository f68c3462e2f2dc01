"""The mean tangent kernel of a few networks, as the estimators use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tangent.capture import picking
from tangent.capture.outputs import output_count
from tangent.kernel.matrix import tangent_kernel
from tangent.solve.system import allocations_of, check_memory

_ROWS = 512  # new inputs whose kernel with the training inputs is held at once


class EnsembleKernel:
    """Mean over networks of their tangent kernel; of "trace", of its mean over outputs too.

    Parameters
    ----------
    networks : sequence of nn.Module
    outputs : {"trace", "pseudo", "full"} or int
    dtype : torch.dtype
        Of the tangent features; sums and result are float64.
    parameters, output
        As in `tangent.tangent_kernel`.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        outputs: str | int,
        dtype: torch.dtype,
        parameters: str | Sequence[str] | None = None,
        output: Any = None,
    ):
        self.networks = [picking(network.to("cpu", dtype), output) for network in networks]
        self.outputs, self.parameters = outputs, parameters
        self.dtype = dtype

    def __call__(
        self,
        x1: Tensor,
        x2: Tensor | None = None,
        device: str | torch.device = "cpu",
        *,
        distributed: bool = False,
    ) -> Tensor:
        """Return the kernel, (n1, n2) or (n1, k, n2, k), in float64 on the CPU.

        With ``distributed`` its rows are shared by the processes, and each gets all of it.
        """
        others = (x1, x2, device, distributed)
        return self._mean(self._of(self.networks[0], *others), *others)

    def first(self, x: Tensor, device: str | torch.device, *, distributed: bool) -> Tensor:
        """Return the kernel of the first network alone."""
        return self._of(self.networks[0], x, None, device, distributed)

    def completed(
        self, first: Tensor, x: Tensor, device: str | torch.device, *, distributed: bool
    ) -> Tensor:
        """Return the mean over all networks; ``first``, what `first` gave, becomes it."""
        return self._mean(first, x, None, device, distributed)

    def _mean(self, total: Tensor, *others: Any) -> Tensor:
        for network in self.networks[1:]:
            total.add_(self._of(network, *others))
        return total.div_(len(self.networks))

    def _of(
        self,
        network: nn.Module,
        x1: Tensor,
        x2: Tensor | None,
        device: str | torch.device,
        distributed: bool,
    ) -> Tensor:
        network = network.to(device)
        with allocations_of(
            f"the tangent kernel of {type(network).__name__} on {len(x1)} inputs",
            "take a smaller network, fewer inputs or solver='cg', which never forms it",
        ):
            kernel = tangent_kernel(
                network,
                self._on(x1, device),
                None if x2 is None else self._on(x2, device),
                outputs=self.outputs,
                parameters=self.parameters,
                accumulate=torch.float64,
                distributed=distributed,
            )
        assert isinstance(kernel, Tensor)
        if self.outputs == "trace":
            kernel = kernel / output_count(network, self._on(x1[:1], device))
        network.to("cpu")
        return kernel.cpu()

    def _on(self, x: Tensor, device: str | torch.device) -> Tensor:
        return x.to(device, self.dtype) if x.is_floating_point() else x.to(device)

    def diagonal(self, x: Tensor, device: str | torch.device = "cpu") -> Tensor:
        """Return the kernel of every input with itself, (n,), for a shared kernel."""
        parts = [self(part, None, device).diagonal() for part in x.split(64)]
        return torch.cat(parts)

    def rows(self, x1: Tensor, x2: Tensor, device: str | torch.device = "cpu") -> Iterator[Any]:
        """Yield slices of ``x1`` and their kernel with ``x2``, a bounded number of rows each."""
        for start in range(0, len(x1), _ROWS):
            part = slice(start, start + _ROWS)
            yield part, self(x1[part], x2, device)


def check_kernel_memory(n: int, k: int | None) -> None:
    """Refuse a kernel that would not fit before it is computed."""
    check_memory(
        n * (k or 1),
        5,
        "exact solution",
        "take solver='cg', which never forms the kernel"
        + ("" if k is None else ", or outputs='pseudo'"),
    )


def feature_dtype(dtype: str, shape: tuple[int, ...] | None) -> torch.dtype:
    """Return the dtype of tangent features: if auto, float32 where a shape of inputs is given."""
    if dtype not in ("auto", "float32", "float64"):
        raise ValueError(f"dtype must be 'auto', 'float32' or 'float64'; got {dtype!r}")
    if dtype == "auto":
        return torch.float64 if shape is None else torch.float32
    return torch.float64 if dtype == "float64" else torch.float32
