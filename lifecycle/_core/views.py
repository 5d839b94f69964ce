"""Views: native memory as a `memoryview` that keeps its object alive."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from lifecycle._core.describe import describe
from lifecycle._core.record import Pin
from lifecycle.errors import LifecycleError

_array_types: dict[int, Any] = {}
LAST_ADDRESS = sys.maxsize


def _array_type(length: int) -> Any:
    """An array of bytes with a slot for the pin, so that no array needs a dict."""
    base: Any = ctypes.c_ubyte * length

    class Memory(base):  # type: ignore[misc]
        __slots__ = ("pin",)

    return Memory


def make_view(pin: Pin, address: int, nbytes: int, readonly: bool) -> memoryview:
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
            text = describe(pin.record)
            raise LifecycleError(
                f"a view of {text} needs an address above 0 and a size of 0 or more bytes that lie within "
                f"the address space, not ({address!r}, {nbytes!r})"
            )
        bits = (nbytes - 1).bit_length()
        array_type = _array_types.get(bits)
        if array_type is None:
            array_type = _array_types.setdefault(bits, _array_type(1 << bits))
        array = array_type.from_address(address)
        array.pin = pin
        view = memoryview(array)
        if readonly:
            view = view.toreadonly()
        return view[:nbytes].cast("B")
    except BaseException:
        array = pin = view = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive
        raise
