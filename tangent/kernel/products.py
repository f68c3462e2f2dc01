"""Products with a tangent kernel that is never formed, on one machine or many.

``K v = J (J^T v)``: one backward pass for ``J^T v``, one pass of differences for ``J``, batch by
batch. The memory is that of a batch and of one displacement a column; it does not grow with n
but for the vectors themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from tangent.capture import evaluated_copy, picking, unwrapped
from tangent.capture.functional import check_inputs, selected_parameters
from tangent.capture.outputs import output_count
from tangent.kernel.cut import cuts_gradients, plain_output, pushed_forward
from tangent.kernel.matrix import factor_dtype
from tangent.machine.copies import copied
from tangent.machine.modes import ordinary_mode, ordinary_network, ordinary_tensor
from tangent.models.propagation import ScaledDifference, sharing

__all__ = ["KernelProduct"]

Displacement = dict[str, Tensor]

_TOGETHER = 8  # displacements that one run of the network serves ...
_NUMBERS = 2**27  # ... while they have no more numbers


class KernelProduct:
    """The tangent kernel of a network on fixed inputs, as a function of columns.

    Parameters
    ----------
    model : nn.Module
        Read at its present weights, in evaluation mode, and left as found. One in float16 is
        differentiated in float32: float16 does not hold inner products.
    x : Tensor of shape (n, *input)
        All inputs, or this rank's share of them with ``group``.
    outputs : {"full", "pseudo", "trace"} or int
        As in `tangent.tangent_kernel`: "trace" is the sum over the k outputs; it costs k times
        what "pseudo" does. ``"full"`` takes and returns n * k rows, the outputs of an input
        together.
    parameters, output
        As in `tangent.tangent_kernel`.
    batch_size : int
        Inputs handled at once.
    group : torch.distributed.ProcessGroup or "world", optional
        Ranks among which the inputs are divided, in the order of the ranks. Vectors hold the
        rows of all ranks on every rank; ``J^T v`` is summed over them. On GPUs every rank has to
        choose its own first: ``torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))``.

    Attributes
    ----------
    rows : int
        Of the vectors, over all ranks.
    products : int
        Columns multiplied so far.
    """

    @ordinary_mode
    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        *,
        outputs: str | int = "full",
        parameters: str | Sequence[str] | None = None,
        output: Any = None,
        batch_size: int = 256,
        group: dist.ProcessGroup | str | None = None,
    ):
        if outputs not in ("full", "pseudo", "trace") and not isinstance(outputs, int):
            raise ValueError(
                f"outputs must be 'full', 'pseudo', 'trace' or the index of an output; "
                f"got {outputs!r}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        model = picking(unwrapped(ordinary_network(model)), output)
        if factor_dtype(model) is not None:
            model = copied(model).to(factor_dtype(model))
        self.names = tuple(selected_parameters(model, parameters))
        self.model, self.x = model, ordinary_tensor(check_inputs(model, x))
        self._linear: ScaledDifference | None = None
        self._cut = False
        self.outputs, self.batch_size = outputs, batch_size
        self.group = dist.group.WORLD if isinstance(group, str) else group
        self.k = output_count(model, self.x)
        self.width = self.k if outputs == "full" else 1
        self.start, self.rows = 0, len(self.x) * self.width
        if self.group is not None:
            counts: list = [None] * dist.get_world_size(self.group)
            dist.all_gather_object(counts, self.rows, self.group)
            rank = dist.get_rank(self.group)
            self.start, self.rows = sum(counts[:rank]), sum(counts)
        self.products = 0

    @ordinary_mode
    def __call__(self, v: Tensor) -> Tensor:
        """Return the kernel times ``v`` of shape (rows,) or (rows, r), in its dtype and device.

        Raises
        ------
        ValueError
            If ``v`` has not the kernel's rows, or the product is not finite in its dtype.
        """
        columns = v.reshape(len(v), -1)
        self._check_rows(columns)
        columns = ordinary_tensor(columns).detach()
        image = torch.zeros_like(columns)
        own = slice(self.start, self.start + len(self.x) * self.width)
        reads = list(self._reads())
        jobs = [(j, read) for j in range(columns.shape[1]) for read in reads]
        together = max(1, min(_TOGETHER, _NUMBERS // self._parameters()))
        for first in range(0, len(jobs), together):
            some = jobs[first : first + together]
            moved = self._pulled([(columns[:, j], read) for j, read in some])
            for (j, read), delta in zip(some, moved, strict=True):
                image[own, j] += self._pushed(delta, self.x, read).to(image)
        if self.group is not None:
            # On the weights' device: NCCL reduces nothing else.
            summed = image.to(self.x.device)
            dist.all_reduce(summed, group=self.group)
            image = summed.to(image.device)
        _check_finite(image)
        self.products += columns.shape[1]
        return image.reshape(v.shape)

    @ordinary_mode
    def displacement(self, v: Float[Tensor, " rows"]) -> Displacement:
        """Return ``J^T v``: the displacement of the weights, by parameter name.

        Not for "trace", whose features are those of k networks side by side.
        """
        self._check_rows(v[:, None])
        if self.outputs == "trace":
            raise ValueError("outputs='trace' has no one displacement; take 'pseudo' or 'full'")
        (read,) = self._reads()
        return self._pulled([(v, read)])[0]

    @ordinary_mode
    def linear_outputs(self, delta: Displacement, x: Tensor) -> Tensor:
        """Return ``J(x) delta``, (n_new,), or (n_new, k) for "full"."""
        (read,) = self._reads()
        pushed = self._pushed(delta, check_inputs(self.model, x), read)
        return pushed.reshape(len(x), -1) if self.outputs == "full" else pushed

    def _check_rows(self, columns: Tensor) -> None:
        if len(columns) != self.rows:
            raise ValueError(f"v must have the {self.rows} rows of the kernel; got {len(columns)}")

    def _reads(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield functions of the outputs (b, k) to (b, width); the kernel sums over them."""
        if self.outputs == "full":
            yield lambda f: f
        elif self.outputs == "pseudo":
            yield lambda f: f.sum(1, keepdim=True) / self.k**0.5
        elif self.outputs == "trace":
            for a in range(self.k):
                yield lambda f, a=a: f[:, a : a + 1]
        else:
            index = int(self.outputs)
            yield lambda f: f[:, index].unsqueeze(1)

    def _parameters(self) -> int:
        own = dict(self.model.named_parameters())
        return max(1, sum(own[name].numel() for name in self.names))

    def _pulled(self, jobs: list[tuple[Tensor, Callable[[Tensor], Tensor]]]) -> list[Displacement]:
        """``J^T v`` of every v and what it reads, the network run once for all of them."""
        linear = self._linearized()
        own = dict(linear.network.named_parameters())
        leaves = {name: own[name].detach().requires_grad_() for name in self.names}
        totals = [{name: torch.zeros_like(p) for name, p in leaves.items()} for _ in jobs]
        start = self.start
        with torch.inference_mode(False), torch.enable_grad():
            for x in self.x.split(self.batch_size):
                if self._cut:
                    out = plain_output(linear.network, x, leaves)
                else:
                    out = linear.network_output(x, leaves).reshape(len(x), -1)
                rows = slice(start, start + len(x) * self.width)
                start = rows.stop
                if not out.requires_grad:  # all of it is cut
                    continue
                for last, ((v, read), total) in enumerate(zip(jobs, totals, strict=True), 1):
                    f = read(out)
                    found = torch.autograd.grad(
                        f,
                        list(leaves.values()),
                        v[rows].to(f).reshape(len(x), self.width),
                        retain_graph=last < len(jobs),
                        allow_unused=True,
                    )
                    for d, g in zip(total.values(), found, strict=True):
                        if g is not None:
                            d.add_(g)
        if self.group is not None:
            for total in totals:
                for d in total.values():
                    dist.all_reduce(d, group=self.group)
        return totals

    def _pushed(
        self, delta: Displacement, x: Tensor, read: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, " rows"]:
        linear = self._linearized()
        moved = [delta[name] for name in linear.names]
        parts = []
        with torch.inference_mode(False), torch.no_grad():
            for part in x.split(self.batch_size):
                if self._cut:
                    v = pushed_forward(
                        linear.network, part, dict(zip(linear.names, moved, strict=True))
                    )
                else:
                    out = linear.pair(part, delta=moved)
                    v = torch.zeros_like(out.base) if out.difference is None else out.difference
                parts.append(read(v.reshape(len(part), -1)).reshape(-1))
        return torch.cat(parts)

    def _linearized(self) -> ScaledDifference:
        """The network's linear part, which shares the memory of its weights."""
        if self._linear is None:
            self._linear = sharing(evaluated_copy(self.model).eval(), self.names)
            self._cut = cuts_gradients(self._linear, self.x)
        return self._linear


def _check_finite(image: Tensor) -> None:
    if torch.isfinite(image).all():
        return
    largest = torch.finfo(image.dtype).max
    raise ValueError(
        f"the kernel's product with v must be finite; in {str(image.dtype).removeprefix('torch.')},"
        f" which ends at {largest:.3g}, it has infinite or NaN entries; check that v is finite, or "
        "take v and the weights in float64"
    )
