"""Tables of live objects: an entry goes by the very step that ends its object, whatever the end is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from lifecycle._core.facts import Facts
from lifecycle._core.handle import Handle
from lifecycle.states import ENDED

__all__ = ["Leaving"]


class _Ends:
    """What the records in a table know of it. They know it weakly: a table that is dropped drops its
    handles."""

    __slots__ = ("table",)

    def __init__(self, table: Leaving) -> None:
        self.table = weakref.ref(table)

    def pop(self, id: int, default: object = None) -> None:
        """Called as an object ends, at its place; once more where that was interrupted."""
        table = self.table()
        try:
            if table is not None:
                table.left(id)
                table.pop(id, None)
        finally:
            table = None  # K3


class Leaving(dict[int, Handle[Any]]):
    """Keeps the handles of objects by their ids until they end (released, failed, stuck, orphaned, detached).

    ``left(id)`` is called for each that ends, at its release place and perhaps twice: it must be short, raise
    nothing, and keep nothing alive (`weakly` makes such a callback of a method). An object is in one such
    table at most; the objects of a factory with a limit are in its own. The methods may be called on any
    thread.
    """

    __slots__ = ("__weakref__", "_ends", "left")

    def __init__(self, left: Callable[[int], object]) -> None:
        super().__init__()
        self.left: Callable[[int], object] = left
        self._ends = _Ends(self)

    def enter(self, handle: Handle[Any]) -> int:
        """Keep `handle` until its object ends, or not at all if it has. Return the object's id. May be
        repeated."""
        record = handle._record
        id = record.id
        try:
            self[id] = handle
            record.more().slot = (self._ends, id)
            if record.phase in ENDED:
                self._ends.pop(id)
            return id
        finally:
            handle = None  # type: ignore[assignment]  # K3

    def knew(self, known: Facts) -> bool:
        """Return True if the object is in this table, or was until it ended."""
        record = known._record
        extra = record.extra
        return record.id in self or (
            extra is not None and extra.slot is not None and extra.slot[0] is self._ends
        )
