"""The modes and hooks within which a network's calls are written down."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tangent.capture.graph import Custom
from tangent.capture.recorder import Recorder
from tangent.operations.pointwise import SubsampledPointwise
from tangent.operations.registry import rule_for

__all__ = ["recording"]

_READERS = {"numpy", "tolist", "__array__"}
_CUTS = {"detach", "detach_"}
_DATA = Tensor.data.__get__  # type: ignore[attr-defined]
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


class Functions(SubsampledPointwise):
    """Above the recorder: functions with a user's rule, and calls that have to be led around."""

    def __init__(self, recorder: Recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        recorder = self.recorder
        if recorder.paused:
            return super().__torch_function__(func, types, args, kwargs)
        if name in _CUTS or func == _DATA:  # a new object at every look
            recorder.suspect = True
        if name in _READERS:
            recorder.reads = True
        elif name in _RECURRENT and torch.backends.mkldnn.enabled:
            with torch.backends.mkldnn.flags(enabled=False):
                return func(*args, **kwargs)
        elif recorder.custom and (target := _user_target(func, name)) is not None:
            return recorder.custom_call(Custom(target, func), args, kwargs)
        return super().__torch_function__(func, types, args, kwargs)


def _user_target(func: Any, name: str) -> Any:
    if rule_for(func) is not None:
        return func
    return name if name and rule_for(name) is not None else None


@contextmanager
def recording(recorder: Recorder, model: nn.Module) -> Iterator[Any]:
    """Within it, what ``model`` calls is written down; math paths are taken throughout."""
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # they take no hooks
            continue
        leaf = next(module.children(), None) is None
        entry = (name, type(module).__name__, leaf)
        handles.append(
            module.register_forward_pre_hook(lambda *_, e=entry: recorder.where.append(e))
        )
        handles.append(module.register_forward_hook(lambda *_: _left(recorder), always_call=True))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            warnings.catch_warnings(),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
            recorder,
            Functions(recorder),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


def _left(recorder: Recorder) -> None:
    if recorder.where:
        recorder.where.pop()
