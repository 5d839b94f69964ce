"""Deciding without a lock: a chain of versions, of which only the last can be followed by another.

**The problem.** Publishing, receiving and closing may happen on any thread, in a signal handler, in a
``__del__`` in the middle of another publish on the same thread. A lock would deadlock against itself there,
and a re-entrant one lets the inner call see half of what the outer has done.

**The idea.** Every change makes a new object and hangs it on the last one in one indivisible step:
``last.setdefault(None, new) is new``. The second thread finds the winner's object there, and goes on from it.
An object that has a follower never changes again, so there is nothing half done to be seen, and no number or
address that could come back (the trouble of a bare compare-and-swap) decides anything. The linked queue of
Michael and Scott (PODC 1996), with the collector to free what can no longer be reached.

Where a chain is entered (`Register`, `Ring.tail`) is a hint: it may be older than the last, since the step
and the store of the hint are two, and then is walked forward.

Relied on: `dict.setdefault`, ``None in link`` and ``link[None]`` are indivisible, with and without the GIL.
Readers use the last two: `dict.get` takes the dictionary's lock in 3.13 without the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Link(dict[None, Any]):
    """Something that may have one follower, and keeps it for ever: ``link.get(None)``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}{' with a follower' if self.get(None) is not None else ''}>"


class Version(Link, Generic[T]):
    """One value of a `Register`."""

    __slots__ = ("value",)
    value: T


class Register(Generic[T]):
    """A value that many may replace, each knowing what it replaced. For values that are themselves never
    changed."""

    __slots__ = ("_hint",)

    def __init__(self, value: T) -> None:
        self._hint = first = Version[T]()
        first.value = value

    def _last(self) -> Version[T]:
        last = self._hint
        while None in last:
            last = last[None]
        return last

    @property
    def value(self) -> T:
        """The value now."""
        return self._last().value

    def update(self, change: Callable[[T], T]) -> T:
        """Replace the value by ``change(value)``, which may be called several times and must not do anything
        else; the new one. An interrupt in here leaves the value as it was or as it was to be."""
        while True:
            last = self._last()
            new = Version[T]()
            new.value = change(last.value)
            if new.value is last.value:
                return last.value
            if last.setdefault(None, new) is new:
                self._hint = new
                return new.value
