"""Views: native memory as a `memoryview` that keeps its object alive.

A view dies in C, where no code can release the object. So an object that any thread may release gets a bell
with its first view (`record.Bell`).
"""

from __future__ import annotations

import ctypes
import sys
from types import FrameType
from typing import Any

from lifecycle._core.checks import whole
from lifecycle._core.describe import about, describe
from lifecycle._core.numbers import is_pointer, number_of
from lifecycle._core.record import Held, Pin, arm
from lifecycle._core.runtime import Site, users_frame
from lifecycle.errors import LifecycleError, shown

_array_types: dict[int, Any] = {}
LAST_ADDRESS = sys.maxsize


def _array_type(length: int) -> Any:
    """An array of bytes with slots for the pin and for where it was made, so that no array needs a dict."""
    base: Any = ctypes.c_ubyte * length

    class Memory(base):  # type: ignore[misc]
        __slots__ = ("pin", "site")

    return Memory


def _site() -> Site | None:
    """Where the user's line stands that asks for a view."""
    try:
        frame: FrameType | None = users_frame(sys._getframe(3))
    except ValueError:  # C asked
        return None
    return None if frame is None else (frame.f_code, frame.f_lasti)


def make_view(pin: Pin, address: int, nbytes: int | None, readonly: bool) -> memoryview:
    """A memoryview of native memory that holds `pin`. The array types are few: lengths are rounded up to a
    power of two and the view is sliced, since each ctypes array type costs 10 µs and leaves cyclic garbage.
    """
    array = None
    try:
        if nbytes == 0:
            empty = memoryview(bytearray())
            return empty.toreadonly() if readonly else empty
        if (
            type(address) is not int
            or type(nbytes) is not int
            or not 0 < address <= LAST_ADDRESS - nbytes
            or nbytes < 0
        ):
            number = whole(nbytes)
            if number is not None and type(nbytes) is not int:
                return make_view(pin, address, number, readonly)
            record = pin.record
            raise about(
                record,
                LifecycleError(
                    f"a view of {describe(record)} needs an address above 0 and a size of 0 or more bytes "
                    f"that lie within the address space, not ({address!r}, {nbytes!r})"
                ),
            )
        bits = (nbytes - 1).bit_length()
        array_type = _array_types.get(bits)
        if array_type is None:
            array_type = _array_types.setdefault(bits, _array_type(1 << bits))
        array = array_type.from_address(address)
        array.pin = pin
        array.site = _site()
        view = memoryview(array)
        if readonly:
            view = view.toreadonly()
        if pin.record.place.anywhere:
            arm(pin.record)
        return view[:nbytes].cast("B")
    except BaseException:
        array = pin = view = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive
        raise


class _PyBuffer(ctypes.Structure):
    """``Py_buffer`` of CPython."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


# Prototypes of our own: those of `ctypes.pythonapi` are shared with other code that sets their types.
_get_buffer = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)(
    ("PyObject_GetBuffer", ctypes.pythonapi)
)
_release_buffer = ctypes.PYFUNCTYPE(None, ctypes.POINTER(_PyBuffer))(("PyBuffer_Release", ctypes.pythonapi))


def _address_of(export: memoryview) -> int:
    """Where the memory of a contiguous buffer begins; Python itself tells it of what may be written only."""
    buffer = _PyBuffer()
    at = ctypes.byref(buffer)
    try:
        _get_buffer(export, at, 0)
        address: int = buffer.buf or 0
        return address
    finally:
        # The first call in here, so an interrupt leaves no export. Where none was taken it does nothing.
        _release_buffer(at)


def _has_buffer(memory: Any) -> bool:
    try:
        memoryview(memory).release()
    except (TypeError, ValueError, BufferError):
        return False
    return True


NATIVE_FORMATS = frozenset("cbB?hHiIlLqQnNfdP")


def make_buffer_view(pin: Pin, memory: Any, nbytes: Any, readonly: bool | None) -> memoryview:
    """As `make_view`, of anything with the buffer protocol, or of an address that is no int. The view holds
    the buffer's export, and lets go of it ahead of the pin."""
    array = export = view = None
    try:
        # An integer of ctypes without a size is a buffer as well: its own bytes.
        own_bytes = nbytes is None and isinstance(memory, ctypes._SimpleCData) and not is_pointer(memory)
        address = None if own_bytes else number_of(memory)
        if address is not None:
            return make_view(pin, address, nbytes, readonly is not False)
        export = _export_of(memory, nbytes, readonly)
        if isinstance(export, str):
            record = pin.record
            raise about(record, LifecycleError(f"no view of {describe(record)} can be made: {export}"))
        size = export.nbytes
        readonly = export.readonly if readonly is None else readonly
        if size == 0:
            empty = memoryview(bytearray())
            return empty.toreadonly() if readonly else empty
        bits = (size - 1).bit_length()
        array_type = _array_types.get(bits)
        if array_type is None:
            array_type = _array_types.setdefault(bits, _array_type(1 << bits))
        array = array_type.from_address(_address_of(export))
        array.pin = Held((pin, _site(), export))
        if pin.record.place.anywhere:
            arm(pin.record)
        view = memoryview(array)
        if readonly:
            view = view.toreadonly()
        view = view[:size].cast("B")
        plain = export.format.removeprefix("@")
        if (plain != "B" or export.ndim != 1) and plain in NATIVE_FORMATS and export.ndim:
            view = view.cast(plain, export.shape)  # type: ignore[call-overload]
        return view
    except BaseException:
        memory = array = pin = view = None  # type: ignore[assignment]
        raise
    finally:
        export = None


def _export_of(memory: Any, nbytes: Any, readonly: bool | None) -> memoryview | str:
    """The buffer of `memory` that a view is made of, or why there is none."""
    if memory is None:
        return "there is no address: handle.native is None where none was given as native="
    if nbytes is not None and _has_buffer(memory):
        return "a size is for an address only: slice the view"
    if nbytes is not None:
        return f"it takes an address and a size, or a buffer, not {shown(memory)} and a size"
    try:
        export = memoryview(memory)
    except TypeError:
        return f"it takes an address and a size, or a buffer, not {shown(memory)}"
    except (ValueError, BufferError) as error:  # released, or of a type that buffers do not have
        why = f"{error}".rstrip(".")
        return f"{why}; of an array of NumPy use handle.array()"
    if not export.c_contiguous:
        return "the buffer is not contiguous: use handle.array(), which keeps strides"
    if readonly is False and export.readonly:
        return "the buffer is read-only, so there is no view that could be written to"
    return export


class ArrayOwner:
    """What arrays over an object's memory have as their base: it holds the pin, and the array that knows the
    memory."""

    __slots__ = ("__array_interface__", "__weakref__", "_lifecycle_held", "owner")
    __array_interface__: Any
    _lifecycle_held: Held
    owner: object  # of an observed object: that itself


def make_array(pin: Pin, array: Any) -> Any:
    """An ndarray of the same memory as `array` that holds `pin`."""
    owner = made = None
    try:
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(array, numpy.ndarray) or array.dtype.hasobject:
            record = pin.record
            raise about(
                record,
                LifecycleError(
                    f"array() of {describe(record)} takes an ndarray over the object's own memory, of "
                    f"numbers, not {shown(array)[:80]}"
                ),
            )
        owner = ArrayOwner()
        owner.__array_interface__ = array.__array_interface__
        owner._lifecycle_held = Held((pin, _site(), array))
        if pin.record.place.anywhere:
            arm(pin.record)
        made = numpy.asarray(owner)
        if made.dtype != array.dtype:  # names, titles and offsets, which the interface does not tell in full
            made = made.view(array.dtype)
        return made
    except BaseException:
        owner = made = pin = array = None  # type: ignore[assignment]
        raise
