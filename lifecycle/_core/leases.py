"""Leases: the right to use an object until a block ends.

A lease takes the pin when it is made, before its block begins, and gives it up in ``__exit__`` *or* when it
dies: CPython 3.14 may skip an ``__exit__`` when a signal handler raises at the wrong moment. No lock, no
counter, nothing to unbalance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from lifecycle._core.describe import about, describe
from lifecycle._core.keeping import Uncopied
from lifecycle._core.record import Pin, Record, arm, silence
from lifecycle.errors import LeaseEndedError

T = TypeVar("T")


def leave(record: Record) -> None:
    """Called after `silence`, when a reference to a closed object was just dropped. If it was the last one,
    the object is released now, here if it may be released on any thread."""
    place = record.place
    if place.anywhere and record.phase is None and not arm(record):
        place.settle(record, 0)


class Lease(Uncopied, Generic[T]):
    """The right to use an object until the block ends. Made by `Handle.lease`; usable in one ``with`` block,
    on any thread."""

    _remedy = "take another lease of the handle"

    __slots__ = ("_pin", "_record", "_thread")
    _pin: Pin | None
    _record: Record  # whose facts an error has once the lease has ended
    _thread: int  # that took it: who waits for it to end can say whom it waits for

    def __enter__(self) -> T:
        try:
            return self._pin.record.obj  # type: ignore[union-attr, no-any-return]
        except AttributeError:
            raise self._ended() from None

    def _ended(self) -> LeaseEndedError:
        return about(
            self._record,
            LeaseEndedError(
                f"this lease of {describe(self._record)} has ended: it is for one block. Take another with "
                "handle.lease()."
            ),
        )

    def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        # A jump, at which 3.10 looks for signals, is taken in the block only.
        try:
            if self._record.cause is not None:
                self._leave()
        finally:
            self._pin = None

    def close(self) -> None:
        """End the lease early. Ending twice is ending once."""
        self.__exit__()

    def _leave(self) -> None:
        """The door was shut meanwhile: whoever is the last releases the object here and now, on the thread
        that used it, if any thread may."""
        record = self._record
        try:
            if self._pin is not None:
                silence(record)
        finally:
            self._pin = None
        leave(record)

    def take_times(self) -> tuple[Callable[[Any, float], None], Any, float] | None:
        """Of a lease that is timed: end it, and leave it to the caller to say so, as ``note(kind,
        since)``."""
        return None

    def __repr__(self) -> str:
        return f"<Lease of {describe(self._record)}{': ended' if self._pin is None else ''}>"
