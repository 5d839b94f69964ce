"""What stands in front of every frame, and which arrays can be frames."""

from __future__ import annotations

import operator
import struct
from math import prod
from typing import Any, Final

from lifecycle.errors import shown
from lifecycle.integrations.across.errors import (
    FrameFormatError,
    FrameTooLargeError,
    MissingTransportError,
)

try:
    import numpy as np
except ImportError as _error:
    raise MissingTransportError("frames between processes are NumPy arrays: pip install numpy") from _error

__all__ = [
    "MOST_DIMENSIONS",
    "SIZE",
    "Form",
    "Head",
    "array_of",
    "array_over",
    "form_of",
    "np",
    "pack",
    "pack_into",
    "read",
]

MOST_DIMENSIONS: Final = 8
MOST_ELEMENTS: Final = 1 << 63
"""More than an array can have in one dimension."""
_LONGEST_DTYPE: Final = 16
# bytes, key frame, dimensions, element type, shape: the same for most frames of a topic
_FORM: Final = struct.Struct("<QBB6x16s8Q")
# number, epoch, time, form
_LAYOUT: Final = struct.Struct(f"<QQQ{_FORM.size}s")
SIZE: Final = _LAYOUT.size
"""Bytes of a header."""
MOST_KNOWN: Final = 64
"""Forms that are remembered: what a topic's frames have in common is worked out once."""


class Form:
    """The shape, element type and bytes of a frame that another process can read."""

    __slots__ = ("dtype", "nbytes", "packed", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape: tuple[int, ...] = shape
        self.dtype: Any = dtype
        self.nbytes: int = prod(shape) * dtype.itemsize
        padded = shape + (0,) * (MOST_DIMENSIONS - len(shape))
        coded = dtype.str.encode()
        self.packed: tuple[bytes, ...] = tuple(
            _FORM.pack(self.nbytes, key, len(shape), coded, *padded) for key in (False, True)
        )
        """Its part of the header, of a frame that is no key frame and of one that is."""


class Head:
    """What the header of a received frame says."""

    __slots__ = ("dtype", "epoch", "key", "nbytes", "published_ns", "seq", "shape")
    seq: int
    epoch: int
    published_ns: int
    nbytes: int
    key: bool
    shape: tuple[int, ...]
    dtype: Any


def _dtype_of(dtype: Any) -> Any:
    """NumPy's type of that name. Raises `FrameFormatError` where there is none."""
    try:
        return np.dtype(dtype)
    except Exception as error:
        raise FrameFormatError(f"{shown(dtype)} is no type of elements: {error}") from None


def _goes(kind: Any) -> bool:
    """Return True if elements of this type can go to another process, which knows the type by its text."""
    if kind.hasobject or kind.names is not None or kind.subdtype is not None or not kind.itemsize:
        return False
    # The text of another library's type names plain bytes.
    return bool(kind.isbuiltin == 1 or _dtype_of(kind.str) == kind)


def array_of(frame: Any) -> Any:
    """The array to be copied: `frame` itself, or what NumPy makes of it. Raises `FrameFormatError`."""
    try:
        # NumPy takes bytes for one text, whose last zeros it drops.
        return np.frombuffer(frame, "u1") if isinstance(frame, bytes) else np.asarray(frame)
    except Exception as error:
        raise FrameFormatError(f"NumPy makes no array of a {type(frame).__name__}: {error}") from None


_forms: dict[tuple[tuple[int, ...], Any], Form] = {}


def form_of(shape: Any, dtype: Any) -> Form:
    """The form of arrays of `shape` and `dtype`. Raises `FrameFormatError`."""
    sides = shape if type(shape) is tuple else (shape,)
    # Numbers of other types may equal whole ones. Looking these up calls no code of others.
    if {*map(type, sides)} <= {int} and (type(dtype) in (str, type) or isinstance(dtype, np.dtype)):
        known = _forms.get((sides, dtype))
        if known is None:
            known = _new_form(shape, dtype)
            _remember(_forms, (sides, dtype), known)
        return known
    return _new_form(shape, dtype)


def _remember(known: dict[Any, Any], key: Any, value: Any) -> None:
    if len(known) >= MOST_KNOWN:
        known.clear()
    known[key] = value


def _new_form(shape: Any, dtype: Any) -> Form:
    kind = _dtype_of(dtype)
    if not _goes(kind):
        raise FrameFormatError(
            f"frames of {kind!r} cannot go to another process: use numbers, or texts of a fixed length, and "
            "encode anything else into bytes (dtype 'u1')"
        )
    if len(kind.str) > _LONGEST_DTYPE:
        raise FrameFormatError(f"the type {kind.str!r} is longer than {_LONGEST_DTYPE} letters")
    try:
        sides = (
            tuple(map(operator.index, shape))
            if isinstance(shape, (tuple, list))
            else (operator.index(shape),)
        )
    except Exception:
        raise FrameFormatError(f"a shape is one or several whole numbers, not {shown(shape)}") from None
    if len(sides) > MOST_DIMENSIONS or any(not 0 <= side < MOST_ELEMENTS for side in sides):
        raise FrameFormatError(
            f"a frame has at most {MOST_DIMENSIONS} dimensions, each of 0 or more elements, not {sides!r}"
        )
    if prod(sides) * kind.itemsize >= MOST_ELEMENTS:
        raise FrameTooLargeError(f"a frame of {sides} {kind} has more bytes than any topic")
    return Form(sides, kind)


def pack_into(buffer: Any, form: Form, seq: int, epoch: int, published_ns: int, key: bool) -> None:
    """Write the header of a frame."""
    _LAYOUT.pack_into(buffer, 0, seq, epoch, published_ns, form.packed[key])


def pack(form: Form, seq: int, epoch: int, published_ns: int, key: bool) -> bytes:
    """The header of a frame."""
    buffer = bytearray(SIZE)
    pack_into(buffer, form, seq, epoch, published_ns, key)
    return bytes(buffer)


def array_over(memory: memoryview, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array over `memory`. An array over memory that may only be read cannot be made writable."""
    if not memory.nbytes:
        return np.empty(shape, dtype)
    return np.frombuffer(memory, dtype).reshape(shape)


_read: dict[bytes, tuple[int, bool, tuple[int, ...], Any]] = {}


def read(header: Any, room: int) -> Head:
    """What `header` says of a frame in `room` bytes. Raises `FrameFormatError` where that is no frame of
    this library's."""
    head = Head()
    head.seq, head.epoch, head.published_ns, form = _LAYOUT.unpack_from(header)
    known = _read.get(form)
    if known is None:
        known = _form_in(form, head.seq)
        _remember(_read, form, known)
    head.nbytes, head.key, head.shape, head.dtype = known
    if head.nbytes > room:
        raise FrameFormatError(
            f"the header of frame {head.seq} says {head.shape} of {head.dtype}, {head.nbytes} bytes, and "
            f"there are {room}"
        )
    return head


def _form_in(form: bytes, seq: int) -> tuple[int, bool, tuple[int, ...], Any]:
    """The bytes, key, shape and elements in a header. Raises `FrameFormatError` where they are none."""
    nbytes, key, dimensions, coded, *padded = _FORM.unpack(form)
    try:
        dtype = _dtype_of(coded.rstrip(b"\0").decode())
    except (FrameFormatError, UnicodeDecodeError) as error:
        raise FrameFormatError(f"the header of frame {seq} names no type of elements: {error}") from None
    if not _goes(dtype):
        raise FrameFormatError(f"the header of frame {seq} says that its elements are {dtype!r}")
    shape = tuple(padded[:dimensions])
    if dimensions > MOST_DIMENSIONS or prod(shape) * dtype.itemsize != nbytes:
        raise FrameFormatError(
            f"the header of frame {seq} says {shape} of {dtype} in {dimensions} dimensions, which are not "
            f"{nbytes} bytes"
        )
    return nbytes, bool(key), shape, dtype
