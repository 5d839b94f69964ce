"""DLPack's structures in memory, and capsules, through ctypes.

**The deleter is a function of the C library.** `time` takes one pointer, writes eight bytes there, and needs
neither Python nor a lock: the first word of the structure (its version, or the address of its data) becomes
another, which whoever sweeps sees. A function of Python is called by `atexit` of C and crashes there, or
under its caller's locks and deadlocks there.

**Memory that is never given back.** A capsule may be looked at, and a deleter called, after the interpreter
has ended. So structures lie in blocks of C's allocator that are used again and never freed, and the names of
capsules as well.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections import deque
from typing import Any, Final

from lifecycle.integrations.dlpack.errors import DLPackError
from lifecycle.lowlevel import taking

P = ctypes.c_void_p

MAJOR, MINOR = 1, 0
READ_ONLY = 1
"""A flag of the structure with a version."""
MOST_DIMENSIONS = 58

# data, device, dimensions, type, shape, strides, offset; little words first where the machine's are.
_TENSOR: Final = struct.Struct("@QiiiBBHQQQ")
_HEAD: Final = struct.Struct("@IIQQQ")
"""Version, context, deleter, flags: what stands before a tensor with a version."""
_TAIL: Final = struct.Struct("@QQ")
"""Context, deleter: what stands behind a tensor without one."""
assert (_TENSOR.size, _HEAD.size, _TAIL.size) == (48, 32, 16)
SHAPE_AT: Final = 96
"""Where shape and strides begin, behind either structure."""

_api = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, P, P, P)(("PyCapsule_New", _api))
is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, P)(("PyCapsule_IsValid", _api))
_pointer = ctypes.PYFUNCTYPE(P, ctypes.py_object, P)(("PyCapsule_GetPointer", _api))
set_name = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, P)(("PyCapsule_SetName", _api))
_malloc = ctypes.PYFUNCTYPE(P, ctypes.c_size_t)(("PyMem_RawMalloc", _api))


def _for_ever(text: bytes) -> int:
    """The address of a C string that is never freed."""
    at = _malloc(len(text) + 1)
    ctypes.memmove(at, text + b"\0", len(text) + 1)
    return int(at)


NAME = _for_ever(b"dltensor")
NAME_VERSIONED = _for_ever(b"dltensor_versioned")
USED = _for_ever(b"used_dltensor")
USED_VERSIONED = _for_ever(b"used_dltensor_versioned")
TAKEN_BACK = _for_ever(b"lifecycle: taken back, it was never used")
TAKEN = (USED, USED_VERSIONED, TAKEN_BACK)
"""The names of capsules that are not to be taken any more."""


def _deleter() -> int:
    library = ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)
    found = library["_time64" if sys.platform == "win32" else "time"]
    address = ctypes.cast(found, P).value
    if not address:
        raise ImportError("the C library has no time(), which tells that a tensor is done with")
    return address


DELETER = _deleter()
NO_TIME = (1_500_000_000, 1 << 34)
"""What `time` writes lies between these."""

_free: dict[int, deque[int]] = {256: deque(), 1024: deque()}


def take_block(dimensions: int) -> tuple[int, deque[int]]:
    """A block for one structure, and where to put it when it is free again. An interrupt in here leaves a
    block unused, and nothing else."""
    size = 256 if SHAPE_AT + 16 * dimensions <= 256 else 1024
    blocks = _free[size]
    address = 0
    try:
        for address in taking(blocks.popleft):  # noqa: B007 - K2
            break
    except IndexError:
        address = 0
    if not address:
        address = _malloc(size)
        if not address:
            raise MemoryError
    return address, blocks


def fill(
    address: int,
    *,
    versioned: bool,
    readonly: bool,
    data: int,
    device: tuple[int, int],
    code: int,
    bits: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> int:
    """Write one structure; its first word. `strides` are elements."""
    number = len(shape)
    dims = struct.pack(f"@{2 * number}q", *shape, *strides)
    tensor = _TENSOR.pack(
        data, *device, number, code, bits, 1, address + SHAPE_AT, address + SHAPE_AT + 8 * number, 0
    )
    if versioned:
        packed = _HEAD.pack(MAJOR, MINOR, 0, DELETER, READ_ONLY if readonly else 0) + tensor
    else:
        packed = tensor + _TAIL.pack(0, DELETER)
    ctypes.memmove(address, packed.ljust(SHAPE_AT, b"\0") + dims, SHAPE_AT + len(dims))
    return int.from_bytes(packed[:8], sys.byteorder)


def new_capsule(address: int, versioned: bool) -> Any:
    """A capsule without a destructor."""
    return _new(address, NAME_VERSIONED if versioned else NAME, None)


def is_named(capsule: Any, name: int) -> bool:
    """Return True if a capsule has this name now."""
    return bool(is_valid(capsule, name))


class Described:
    """What a structure says, read once."""

    __slots__ = ("address", "bits", "code", "deleter", "device", "flags", "lanes", "shape", "strides")

    def __init__(self, capsule: Any, versioned: bool) -> None:
        at = _pointer(capsule, NAME_VERSIONED if versioned else NAME)
        flags = 0
        if versioned:
            major, minor, _, deleter, flags = _HEAD.unpack(ctypes.string_at(at, _HEAD.size))
            if major != MAJOR:
                raise DLPackError(
                    f"the tensor is of DLPack {major}.{minor}; only version {MAJOR} is understood: ask its "
                    f"producer for max_version=({MAJOR}, {MINOR})"
                )
            at += _HEAD.size
        else:
            _, deleter = _TAIL.unpack(ctypes.string_at(at + _TENSOR.size, _TAIL.size))
        data, kind, device, number, code, bits, lanes, shape, strides, offset = _TENSOR.unpack(
            ctypes.string_at(at, _TENSOR.size)
        )
        if number < 0 or number > MOST_DIMENSIONS or (number and not shape):
            raise DLPackError(f"a tensor of {number} dimensions cannot be taken, or it has no shape")
        self.flags: int = flags
        self.deleter: int = deleter
        self.device: tuple[int, int] = (kind, device)
        self.code, self.bits, self.lanes = code, bits, lanes
        self.shape: tuple[int, ...] = _numbers(shape, number)
        self.strides: tuple[int, ...] | None = _numbers(strides, number) if strides else None
        self.address: int = data + offset


def _numbers(address: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"@{count}q", ctypes.string_at(address, 8 * count)) if count else ()


def struct_of(capsule: Any, versioned: bool, used: bool = False) -> int:
    """The address of the structure in a capsule."""
    names = (USED, USED_VERSIONED) if used else (NAME, NAME_VERSIONED)
    return int(_pointer(capsule, names[versioned]))


Deleter = ctypes.PYFUNCTYPE(None, P)
"""What consumers call a deleter with: once, with the GIL held."""
