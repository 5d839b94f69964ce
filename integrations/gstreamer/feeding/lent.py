"""Memory for pictures that Python makes and GStreamer shows: laid out as GStreamer wants it, and used again
when it is back.

A fresh picture of some megabytes costs more for its pages than for its contents, so memory that has come back
serves again, once no array looks at it any more.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from typing import Any, Final

from lifecycle.integrations.gstreamer._native import np
from lifecycle.integrations.gstreamer.frames.held import Held
from lifecycle.integrations.gstreamer.frames.planes import Plane
from lifecycle.lowlevel import Pin, raw

__all__ = ["Checked", "Memory", "MemoryStore", "address_of", "can_be_sealed", "in_a_row", "is_fixed"]

ALIGNMENT: Final = 64
SAMPLED: Final = 4096
"""How many bytes of an array are compared, at equal steps."""


class Memory:
    """Bytes of our own, and the arrays of the planes in them. One thread uses it at a time."""

    __slots__ = ("_raw", "_start", "size")

    def __init__(self, size: int) -> None:
        self.size: int = size
        self._raw: np.ndarray[Any, Any] = np.empty(size + ALIGNMENT, np.uint8)
        self._start = -address_of(self._raw) % ALIGNMENT

    @property
    def address(self) -> int:
        """Where the bytes begin."""
        return address_of(self._raw) + self._start

    def arrays(self, planes: tuple[Plane, ...]) -> tuple[np.ndarray[Any, Any], ...]:
        """A writable array for each plane."""
        self._raw.flags.writeable = True
        return tuple(
            np.ndarray(plane.shape, plane.dtype, self._raw, self._start + plane.offset, plane.strides)
            for plane in planes
        )

    def onlookers(self) -> int:
        """How many arrays look at it: NumPy has every slice refer to the array that owns the memory."""
        return sys.getrefcount(self._raw) - _SOLE

    def seal(self, arrays: tuple[np.ndarray[Any, Any], ...]) -> None:
        """Have nothing written any more through `arrays`, nor through what is made of them."""
        for array in arrays:
            array.flags.writeable = False
        self._raw.flags.writeable = False


class Checked:
    """An array that is lent, and some of the bytes that it had then."""

    __slots__ = ("_array", "_before", "_bytes", "number")

    def __init__(self, array: np.ndarray[Any, Any], size: int, number: int) -> None:
        self.number: int = number
        self._array = array
        self._bytes = memoryview((ctypes.c_ubyte * size).from_address(address_of(array))).cast("B")
        self._before = self._now()

    def _now(self) -> bytes:
        return bytes(self._bytes[:: max(1, len(self._bytes) // SAMPLED)])

    def is_as_it_was(self) -> bool:
        """Return True if these bytes are what they were."""
        return self._before == self._now()


def address_of(array: np.ndarray[Any, Any]) -> int:
    """Where an array's first element lies."""
    address: int = array.__array_interface__["data"][0]
    return address


def is_fixed(array: np.ndarray[Any, Any]) -> bool:
    """Return True if nobody can write to what `array` shows, however he came by it: bytes, and what a `Frame`
    shows.

    An array that owns its memory can be made writable again, and whoever has a bytearray, an `array.array` or
    an mmap writes to it whatever is made of it.
    """
    owner = _owner_of(array)
    if isinstance(owner, np.ndarray) or (isinstance(owner, memoryview) and not owner.readonly):
        return False
    owner = owner.obj if isinstance(owner, memoryview) else owner
    # A view of `lifecycle.lowlevel` has the pin of what it shows.
    held = getattr(owner, "pin", None) if isinstance(owner, ctypes.Array) else None
    return type(owner) is bytes or (isinstance(held, Pin) and isinstance(raw(held), Held))


def can_be_sealed(array: np.ndarray[Any, Any]) -> bool:
    """Return True if the memory is NumPy's own, so that its arrays can be made read-only."""
    return isinstance(_owner_of(array), np.ndarray)


def _owner_of(array: np.ndarray[Any, Any]) -> Any:
    """What `array` is a view of in the end: an array that owns its memory, or what NumPy did not make."""
    owner: Any = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner


def in_a_row(array: np.ndarray[Any, Any]) -> Plane:
    """The plane of memory that holds the array without gaps."""
    strides = [array.itemsize]
    for length in reversed(array.shape[1:]):
        strides.insert(0, strides[0] * length)
    return Plane(array.shape, array.dtype, 0, tuple(strides))


def _count_of_sole() -> int:
    """What `onlookers` counts of memory that nobody looks at: differs between Python versions."""
    memory = Memory.__new__(Memory)
    memory._raw = np.empty(1, np.uint8)
    return sys.getrefcount(memory._raw)


_SOLE: Final = _count_of_sole()


class MemoryStore:
    """Memory of one size that came back, at most `most` of it."""

    __slots__ = ("_idle", "most")

    def __init__(self, most: int) -> None:
        self._idle: deque[Memory] = deque()
        self.most: int = most

    def take(self, size: int) -> Memory:
        """Memory of `size` bytes that nobody looks at."""
        for _ in range(len(self._idle)):
            try:
                memory = self._idle.popleft()
            except IndexError:
                break
            if memory.size == size and memory.onlookers() == 0:
                return memory
        return Memory(size)

    def put(self, memory: Memory) -> None:
        """Memory that is back. Callable on any thread."""
        if len(self._idle) < self.most:
            self._idle.append(memory)

    def clear(self) -> None:
        """Keep none."""
        self._idle.clear()
