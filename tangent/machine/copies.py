"""Copies of a network, also of one that keeps what it computed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a copy with weights of its own, in which tensors of an earlier call are constants.

    ``copy.deepcopy`` refuses a network that keeps such a tensor with its graph, as those of
    ``torch.nn.utils.spectral_norm`` and ``weight_norm`` do from their first call on.

    Parameters
    ----------
    model : nn.Module
    memo : dict, optional
        From ``id`` to what is taken for the tensor in the copy, as of ``copy.deepcopy``.

    Raises
    ------
    TypeError
        For TorchScript.
    """
    memo = {} if memo is None else memo
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                "model must not be TorchScript here, whose weights cannot be exchanged; pass the "
                "network that was scripted, or torch.export.export(network, (x,)).module() "
                "(kernels and features take TorchScript)"
            )
        for value in module.__dict__.values():
            for t in tree_leaves(value) if not isinstance(value, nn.Module) else ():
                if isinstance(t, Tensor) and not t.is_leaf and id(t) not in memo:
                    memo[id(t)] = t.detach().clone()
                elif isinstance(t, torch.jit.ScriptFunction):  # which cannot be copied
                    memo[id(t)] = t
    return copy.deepcopy(model, memo)
