"""Bytes in a budget that are no object's: what a cache keeps ready, the idle blocks of a pool."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from lifecycle.lowlevel import Uncopied


class ReservationRef(weakref.ref["Reservation"]):
    """How the books know that a reservation was dropped: its callback is a C method. No code of ours runs
    there."""

    __slots__ = ("id",)
    id: int


class Reservation(Uncopied):
    """So many bytes of a `MemoryManager`'s budget, until it is released, or dropped. `MemoryManager.reserve`
    makes it. All methods may be called on any thread and at any moment."""

    _remedy = "reserve() again for another"

    __slots__ = ("__weakref__", "_id", "_leave", "size")

    def __init__(self, id: int, size: int, leave: Callable[[int], object]) -> None:
        self._id = id
        self._leave = leave
        self.size: int = size

    def release(self) -> None:
        """Give the bytes back. Calling again changes nothing."""
        self._leave(self._id)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Reservation {self._id}: {self.size} bytes>"
