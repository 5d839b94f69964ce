"""The vendor's functions, declared: types of arguments, types of results, and errors that raise."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from typing import Any

NAME = os.environ.get("ACMEMETER_LIBRARY") or ctypes.util.find_library("acmemeter")
if NAME is None:
    raise ImportError(
        "acmemeter: the vendor's library (libacmemeter) is not installed; where it lies elsewhere, name the "
        "file in the environment variable ACMEMETER_LIBRARY"
    )
library: Any = ctypes.CDLL(NAME)

OUT = ctypes.POINTER(ctypes.c_void_p)


class Block(ctypes.Structure):
    """The vendor's ``meter_block``."""

    _fields_ = [
        ("first", ctypes.c_uint64),
        ("count", ctypes.c_size_t),
        ("samples", ctypes.c_void_p),
    ]


class MeterError(Exception):
    """A function of the SDK has failed. `number` is its error number."""

    def __init__(self, function: str, number: int) -> None:
        super().__init__(f"{function}: {library.meter_error(number).decode()} ({number})")
        self.number = number


def _check(number: int, function: Any, _: Any) -> None:
    if number:
        raise MeterError(function.__name__, number)


# A function without these takes and returns an `int`: half of a pointer.
library.meter_error.restype, library.meter_error.argtypes = ctypes.c_char_p, [ctypes.c_int]
library.meter_open.argtypes = [ctypes.c_char_p, OUT]
library.meter_read.argtypes = [ctypes.c_void_p, ctypes.c_size_t, OUT]
library.meter_free.argtypes = [ctypes.c_void_p]
library.meter_close.argtypes = [ctypes.c_void_p]
for _function in (library.meter_open, library.meter_read, library.meter_free, library.meter_close):
    _function.restype, _function.errcheck = ctypes.c_int, _check


def open_device(serial: str, into: ctypes.c_void_p) -> None:
    """Open a device; its pointer is written to `into`."""
    library.meter_open(serial.encode(), ctypes.byref(into))


def read(device: ctypes.c_void_p, count: int, into: ctypes.c_void_p) -> None:
    """Read a block; its pointer is written to `into`."""
    library.meter_read(device, count, ctypes.byref(into))


def free(block: ctypes.c_void_p) -> None:
    """Give a block back, where there is one."""
    if block:
        library.meter_free(block)


def close(device: ctypes.c_void_p) -> None:
    """Close a device, where there is one."""
    if device:
        library.meter_close(device)
