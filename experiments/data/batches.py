"""The published batches of CIFAR-10, read without unpickling them.

A pickle is a program that may call anything, and NumPy's own part of it can be talked into arrays
of pointers. Here the few steps that a batch is made of are followed by hand: numbers, strings,
lists, dictionaries, and arrays of bytes or 64-bit integers. Whatever else is asked for is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_MOST_STEPS = 10**6  # a batch of 10,000 images has 60,000
_KINDS: dict[Any, np.dtype[Any]] = {"u1": np.dtype("u1"), "i8": np.dtype("<i8")}
_PLAIN_STATE = (None, None, None)  # of a dtype: no parts, no names, no fields


class BatchError(ValueError):
    """Content that is no batch; the message says what it asks for."""


@dataclass(frozen=True)
class _Mark:
    """Where the items of a list, dictionary or tuple begin."""


@dataclass(frozen=True)
class _Name:
    """A name that the program refers to; nothing is imported."""

    words: str


@dataclass
class _Array:
    """An array, empty until its state comes."""

    values: np.ndarray | None = None


class _Machine:
    """The stack and the memory that a pickle's steps work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise BatchError(f"it has the step {name}, which no batch needs")

    def items(self) -> list[Any]:
        """Take what lies above the last mark, and the mark."""
        items: list[Any] = []
        while not isinstance(one := self.stack.pop(), _Mark):
            items.append(one)
        return items[::-1]

    def put(self, key: Any) -> None:
        self.memory[len(self.memory) if key is None else int(key)] = self.stack[-1]

    def get(self, key: Any) -> None:
        self.stack.append(self.memory[int(key)])

    def name(self, words: Any) -> None:
        if words is None:
            inner, outer = self.stack.pop(), self.stack.pop()
            words = f"{outer} {inner}"
        self.stack.append(_Name(words))

    def tuple_of(self, count: int | None) -> None:
        items = self.items() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise BatchError("it appends to what is no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or not all(isinstance(key, str | bytes) for key in items[::2]):
            raise BatchError("it has a dictionary with other keys than strings")
        target.update(zip(items[::2], items[1::2], strict=True))

    def dictionary(self) -> None:
        items = self.items()
        self.stack.append({})
        self.set_items(items)

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or type(arguments) is not tuple:
            raise BatchError("it calls what is no name")
        outer, _, inner = name.words.partition(" ")
        if outer.startswith("numpy") and inner == "_reconstruct":
            self.stack.append(_Array())
        elif name.words == "numpy dtype":
            self.stack.append(_kind(arguments[0]))
        elif outer.startswith("numpy") and inner == "_frombuffer":
            raw, kind, shape, order = arguments
            self.stack.append(_Array(_array(shape, kind, order != "C", raw)))
        elif name.words == "_codecs encode":  # how protocol 2 writes bytes
            self.stack.append(str(arguments[0]).encode("latin-1"))
        else:
            raise BatchError(f"it asks for {name.words!r:.80}, which no batch needs")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, np.dtype):
            if state[1] not in ("|", "<", "=") or tuple(state[2:5]) != _PLAIN_STATE:
                raise BatchError("it has an array of other than plain numbers")
        elif isinstance(target, _Array):
            _, shape, kind, fortran, raw = state
            target.values = _array(shape, kind, fortran, raw)
        else:
            raise BatchError("it builds what is no array")


def _kind(code: Any) -> np.dtype[Any]:
    if code not in _KINDS:
        raise BatchError(f"it has an array of {code!r:.40}; a batch has u1 or i8")
    return _KINDS[code]


def _array(shape: Any, kind: Any, fortran: Any, raw: Any) -> np.ndarray:
    """The array of these bytes, which have to be as many as its shape and its type say."""
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    plain = type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape)
    if not plain or not isinstance(kind, np.dtype) or not isinstance(raw, bytes | bytearray):
        raise BatchError("it has an array of other than plain numbers")
    if math.prod(shape) * kind.itemsize != len(raw) or (fortran and len(shape) > 1):
        raise BatchError("it has an array whose bytes do not fit its shape")
    return np.frombuffer(bytes(raw), kind).reshape(shape)


_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "BINUNICODE8")
_VALUES = frozenset((*_NUMBERS, *_BYTES, *_STRINGS, "SHORT_BINUNICODE"))
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), _Machine.name),
    "LIST": lambda machine, _: machine.stack.append(machine.items()),
    "DICT": lambda machine, _: machine.dictionary(),
    "TUPLE": lambda machine, _: machine.tuple_of(None),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.items()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.items()),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}


def read_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return the images, uint8 of shape (n, 3072), and the labels, int64, of a pickled batch.

    Raises
    ------
    BatchError
        When the content is anything else, or asks for anything else on the way.
    """
    machine = _Machine()
    try:
        for count, (code, argument, _) in enumerate(pickletools.genops(content)):
            if count > _MOST_STEPS:
                raise BatchError(f"it has more than {_MOST_STEPS} steps")
            machine.step(code.name, argument)
        return _images_and_labels(machine.stack.pop())
    except BatchError:
        raise
    except Exception as error:  # a damaged program can fail in any step
        raise BatchError(f"it cannot be read ({type(error).__name__}: {error!s:.80})") from error


def _images_and_labels(batch: Any) -> tuple[np.ndarray, np.ndarray]:
    images, labels = batch["data"], batch["labels"]
    if isinstance(labels, _Array) and labels.values is not None:
        labels = labels.values.tolist()
    if type(labels) is not list or not all(type(label) is int for label in labels):
        raise BatchError("its labels are no list of integers")
    values = images.values if isinstance(images, _Array) else None
    if values is None or values.dtype != np.uint8 or values.shape != (len(labels), 3072):
        raise BatchError("it holds arrays of another shape")
    return values, np.array(labels, dtype=np.int64)
