"""Data-parallel training under `torch.distributed`: every process takes its share of each batch.

All processes hold the whole model, draw the same order and augmentation from the same seed, and
add up their gradients: the result is that of one process, up to the order of the sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Share:
    """The share of one process: number ``rank`` of ``size``; by default the only one."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    def of(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return this process's rows; of a batch smaller than ``size`` they may be none."""
        return tuple(tensor.tensor_split(self.size)[self.rank] for tensor in tensors)

    def add(self, *tensors: Tensor) -> None:
        """Add up ``tensors`` over all processes, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor, group=self.group)

    def firsts(self, value: float) -> float:
        """The first process's ``value``: what is measured may differ in its last bits."""
        if self.size == 1:
            return value
        values = [value]
        root = dist.get_global_rank(self.group, 0) if self.group else 0
        dist.broadcast_object_list(values, root, group=self.group)
        return values[0]

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients; a process without rows brings zeros."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self.add(parameter.grad)


ONE = Share()


def my_share(group: dist.ProcessGroup | None = None) -> Share:
    """Return this process's share of the initialized ``group`` (the default one if None).

    Examples
    --------
    In a script that ``torchrun --nproc-per-node 2`` starts, with the same seed everywhere::

        torch.distributed.init_process_group("gloo")
        train(model, inputs, targets, settings, generator=generator, share=my_share())
        torch.distributed.barrier()  # none leaves while another still talks to it
        torch.distributed.destroy_process_group()

    Raises
    ------
    RuntimeError
        When `torch.distributed` is not initialized.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "torch.distributed is not initialized; call torch.distributed.init_process_group "
            "under torchrun first, or leave share out"
        )
    return Share(dist.get_rank(group), dist.get_world_size(group), group)


def share_of_fit(distributed: bool, random_state: object) -> Share:
    """The share that an estimator's fit takes: this process's if ``distributed``, else all.

    Raises
    ------
    RuntimeError
        When `torch.distributed` is not initialized.
    ValueError
        When ``random_state`` is no int: the processes would draw different networks and orders.
    """
    if not distributed:
        return ONE
    if not isinstance(random_state, Integral):
        raise ValueError(
            "random_state must be an int with distributed=True, the same in every process; got "
            f"{random_state!r}"
        )
    return my_share()
