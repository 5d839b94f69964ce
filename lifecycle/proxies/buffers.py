"""Memory of an object, given out so that it keeps the object from being released.

What is given out holds the pin and, beside it, the export of the buffer it was made from, so that the
exporter does not move or free the memory. The export is let go first: the release, which the end of the pin
brings about, then finds none, and closes without a `BufferError`.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

FULL_RO = 0x011C
"""PyBUF_FULL_RO: strides, format and indirect memory are accepted, and so is memory that is read-only."""


class _Buffer(ctypes.Structure):
    """CPython's Py_buffer."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("suboffsets", ctypes.POINTER(ctypes.c_ssize_t)),
        ("internal", ctypes.c_void_p),
    )


# Prototypes of our own: those of `ctypes.pythonapi` are shared with whoever else sets their types.
_get = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int)(
    ("PyObject_GetBuffer", ctypes.pythonapi)
)
_release = ctypes.PYFUNCTYPE(None, ctypes.POINTER(_Buffer))(("PyBuffer_Release", ctypes.pythonapi))


def address_of(view: memoryview) -> int:
    """Where the memory of `view` begins."""
    buffer = _Buffer()
    _get(view, ctypes.byref(buffer), FULL_RO)
    try:
        return buffer.buf or 0
    finally:
        _release(ctypes.byref(buffer))


_types: dict[int, Any] = {}


def _memory_type(length: int) -> Any:
    base: Any = ctypes.c_ubyte * length

    class Memory(base):  # type: ignore[misc]
        # Cleared in alphabetical order: the export before the pin.
        __slots__ = ("export", "pin")

    return Memory


def guarded(pin: Any, buffer: Any) -> memoryview:
    """A memoryview of the memory of `buffer`, of the same format and shape, that holds `pin`.

    Memory that is not contiguous is copied, and the copy is read-only. A format that a memoryview cannot be
    cast to comes as bytes.
    """
    memory = view = None
    try:
        view = memoryview(buffer)
        nbytes = view.nbytes
        if nbytes == 0:
            return memoryview(b"") if view.readonly else memoryview(bytearray())
        if not view.c_contiguous:
            return memoryview(view.tobytes())
        bits = (nbytes - 1).bit_length()
        kind = _types.get(bits)
        if kind is None:
            kind = _types.setdefault(bits, _memory_type(1 << bits))
        memory = kind.from_address(address_of(view))
        memory.pin = pin
        memory.export = view
        made = memoryview(memory)
        if view.readonly:
            made = made.toreadonly()
        made = made[:nbytes].cast("B")
        if view.format != "B" or view.ndim != 1:
            try:
                made = made.cast(view.format, view.shape)  # type: ignore[call-overload]
            except (ValueError, TypeError):
                return made
        return made
    finally:
        pin = buffer = memory = view = made = None  # type: ignore[assignment]  # K3


class HeldArray:
    """What NumPy makes an array of that keeps the object: the interface of another array, and the pin."""

    __slots__ = ("__array_interface__", "array", "pin")
    __array_interface__: dict[str, Any]
    array: Any  # cleared before `pin`
    pin: Any


def is_array(value: object) -> bool:
    """Return True for an array of NumPy, which is not imported here."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and any(base is numpy.ndarray for base in type(value).__mro__)


def guarded_array(pin: Any, array: Any) -> Any:
    """An array of the same memory, type and shape that holds `pin`, and so do its slices."""
    held: Any = None
    try:
        if array.size == 0 or array.dtype.hasobject:
            return array.copy()
        held = HeldArray()
        held.__array_interface__ = array.__array_interface__
        held.pin = pin
        held.array = array
        return sys.modules["numpy"].asarray(held)
    finally:
        pin = array = held = None  # K3
