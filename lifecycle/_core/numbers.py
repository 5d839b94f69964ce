"""Which number an object is that stands for a native one: an int, one of NumPy, a pointer of ctypes or cffi.

Bindings give out the same native in many forms, and most of them are new objects each time: being another
object says nothing about being another native. Every other object is known by its identity.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import sys
from collections.abc import Callable
from typing import Any

NO_IDENTITY = frozenset({int, str, bytes, float, bool, complex, type(None), tuple, frozenset, range})
"""Types whose equal values may be one object: being the same object says nothing about being the same native.
"""
HAS_IDENTITY: dict[type, bool] = {}
"""Types whose objects are known by their identity, as far as they have been seen. Of classes in Python it has
what their modules had under their names, so it keeps none alive but those of a module that is loaded anew. A
dict, since a set is locked by each look into it without the GIL."""

_POINTER = ctypes._Pointer
_SIMPLE = ctypes._SimpleCData
_VOID_P = ctypes.c_void_p
_POINTERS, _WHOLE = frozenset("PzZ"), frozenset("bBhHiIlLqQ")
"""Simple types of ctypes that are pointers, texts of C among them, and those that are whole numbers."""


def number_of(value: Any) -> int | None:
    """The number that `value` is, 0 for NULL; None for what is none, or is a text or the like."""
    kind = type(value)
    if kind is int:
        return value  # type: ignore[no-any-return]
    if kind in HAS_IDENTITY or kind in NO_IDENTITY:
        return None
    reader = _reader(kind)
    return None if reader is None else reader(value)


def _reader(kind: type) -> Callable[[Any], int | None] | None:
    """What tells the numbers of objects of a type. None where they are none."""
    if issubclass(kind, int):
        return int.__index__
    if issubclass(kind, _POINTER):
        return _of_pointer
    if issubclass(kind, _SIMPLE):
        code = getattr(kind, "_type_", None)
        return _of_pointer if code in _POINTERS else _of_whole if code in _WHOLE else None
    if kind.__module__ == "_cffi_backend":
        return _of_cffi
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, getattr(numpy, "integer", ())):
        return operator.index
    return None


def _of_pointer(value: Any) -> int:
    # Not `ctypes.cast`, after which the pointer refers to itself. Nor is what it points to looked at, as
    # `c_char_p.value` does.
    return _VOID_P.from_buffer(value).value or 0


def _of_whole(value: Any) -> int:
    return value.value  # type: ignore[no-any-return]


_CFFI_POINTERS = frozenset({"pointer", "array", "function"})
_FRACTIONS = frozenset({"float", "double", "long double"})


def _of_cffi(value: Any) -> int | None:
    """Where a pointer of cffi points to, or the whole number that a value of it is."""
    cffi = sys.modules["_cffi_backend"]
    try:
        ctype = cffi.typeof(value)
        if ctype.kind in _CFFI_POINTERS:
            return int(cffi.cast(cffi.new_primitive_type("uintptr_t"), value))
        return None if ctype.cname in _FRACTIONS else int(value)
    except TypeError:  # a structure, a complex number, or no data at all
        return None


def is_pointer(value: Any) -> bool:
    """Return True if `value` is a pointer of ctypes or cffi, and no mere number."""
    kind = type(value)
    if kind.__module__ == "_cffi_backend":
        try:
            return sys.modules["_cffi_backend"].typeof(value).kind in _CFFI_POINTERS
        except TypeError:  # no data at all
            return False
    if issubclass(kind, _SIMPLE):
        return getattr(kind, "_type_", None) in _POINTERS
    return issubclass(kind, _POINTER)


FIRST_ADDRESS, LAST_ADDRESS = 1 << 32, (1 << 48) - 1
"""Numbers between them are addresses: names of 32 bits lie below, times in micro- and nanoseconds above."""
FIRST_OF_HEAPS = 1 << 22
"""Below it there is no heap: no number has to be looked at there."""
FIRST_MAPPED = 1 << 16
"""Below it systems map nothing: a pointer to there is a name in the form of one, such as a Windows handle."""


def is_address(value: Any, number: int) -> bool:
    """Return True if a number, that of `value`, is an address: since pointers have no other, since it is as
    large as those are, or since it lies in the heap of a program that has its own further down."""
    if FIRST_ADDRESS <= number <= LAST_ADDRESS:
        return True
    if not FIRST_MAPPED <= number < FIRST_ADDRESS:
        return False
    if type(value) is not int and is_pointer(value):
        return True
    if number >= FIRST_OF_HEAPS and _sbrk is not None:
        heap = _low_heap()
        return heap is not None and heap <= number < (_sbrk(0) or 0)
    return False


try:
    _sbrk: Any = ctypes.CDLL(None).sbrk
    _sbrk.restype, _sbrk.argtypes = _VOID_P, (ctypes.c_ssize_t,)
except (AttributeError, OSError, TypeError):  # a system without it
    _sbrk = None


@functools.cache
def _low_heap() -> int | None:
    """Where the heap begins, in a program that was linked to lie at a fixed address: there pointers have less
    than 32 bits. None in others, and where it is not known."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            begins = [int(line.partition("-")[0], 16) for line in maps if line.rstrip().endswith("[heap]")]
    except OSError:
        return None
    return begins[0] if begins and begins[0] < FIRST_ADDRESS else None


def learn(kind: type) -> None:
    """Note of a type none of whose objects is a number, so that it is not asked again. Not of one that may go
    before the program does: it would be kept."""
    if _reader(kind) is None and (not kind.__flags__ & _HEAP_TYPE or _stays(kind)):
        HAS_IDENTITY[kind] = True


_HEAP_TYPE = 1 << 9


def _stays(kind: type) -> bool:
    """Return True if a class is what its module has under its name."""
    module = kind.__module__
    one: Any = sys.modules.get(module) if isinstance(module, str) else None
    for name in kind.__qualname__.split("."):
        one = getattr(one, "__dict__", {}).get(name)
    return one is kind


def function_address(function: Any) -> int | None:
    """Where a function of ctypes is. None for any other function."""
    if not isinstance(function, ctypes._CFuncPtr):  # type: ignore[attr-defined]
        return None
    return _VOID_P.from_buffer(function).value


def as_number(native: Any) -> Any:
    """The int that a native name is, of NumPy, an enumeration or a pointer; what has none comes back as it
    is."""
    number = number_of(native)
    if number is not None:
        return number
    try:
        return operator.index(native)
    except TypeError:
        return native
