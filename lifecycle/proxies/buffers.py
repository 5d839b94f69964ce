"""Memory that a call of a proxied object gives out, guarded: it keeps the object from being released.

A proxy hands out what it can guard and a copy of what it cannot, so it never refuses a result: a buffer that
is not contiguous, an array of Python objects.
"""

from __future__ import annotations

import sys
from typing import Any

from lifecycle.errors import RegistrationError
from lifecycle.lowlevel import Pin, array_of, view_of


def guarded(pin: Pin, buffer: Any) -> memoryview:
    """Return a memoryview of the memory of `buffer`, of its format and shape, that holds `pin`.

    Memory that is not contiguous is copied, and the copy is read-only. A format that a memoryview cannot be
    cast to comes as bytes.
    """
    export = None
    try:
        try:
            export = memoryview(buffer)
        except TypeError as error:
            raise RegistrationError(
                f"VIEW in children= is for memory, and a {type(buffer).__name__} is none ({error}): name "
                "what gives a memoryview, a buffer or an array of NumPy"
            ) from None
        if not export.c_contiguous:
            return memoryview(export.tobytes())
        return view_of(pin, export)
    finally:
        pin = buffer = export = None  # type: ignore[assignment]  # K3


def is_array(value: object) -> bool:
    """Return True for an array of NumPy, which is not imported here."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and any(base is numpy.ndarray for base in type(value).__mro__)


def guarded_array(pin: Pin, array: Any) -> Any:
    """Return an array of the same memory, dtype and shape that holds `pin`, as its slices do; a copy of an
    array that is empty or has Python objects in it."""
    try:
        if array.size == 0 or array.dtype.hasobject:
            return array.copy()
        return array_of(pin, array)
    finally:
        pin = array = None  # type: ignore[assignment]  # K3
