"""What a registered object shares with the proxies of its children, and its handle.

A *light* child has no record. Its proxy holds the raw child and the handle of its parent, through whose door
each call goes. So that no raw child dies on a native that is gone, the release of the parent drops all of
them first, the newest first, at the parent's place; no call is inside then, since each call holds the pin.
The same holds for iterators and generators that are not at their end.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Generator
from typing import Any

from lifecycle._core.calls import complain
from lifecycle._core.proxied import GONE, Proxy, all_drops, is_light, set_raw
from lifecycle.lowlevel import Default, after_fork, snapshot

FIRST_SWEEP = 64
"""Entries of proxies that may be dead above which it is looked which are."""


def _over() -> Generator[Any, Any, None]:
    yield from ()


async def _over_later() -> AsyncGenerator[Any, Any]:
    nothing: tuple[Any, ...] = ()
    for one in nothing:
        yield one


OVER: Generator[Any, Any, None] = _over()
"""In place of an iterator that was dropped: it is at its end, for whoever goes on with it. A ``__del__`` of
the same garbage may, as with a generator of Python."""
OVER.close()
OVER_LATER: AsyncGenerator[Any, Any] = _over_later()
"""The same for one that is asynchronous."""


class Box:
    """An iterator, generator or coroutine that is not at its end. Kept by its object's `Dependents`, so that
    nothing of it runs once the object is released."""

    __slots__ = ("raw", "returned")

    def __init__(self, raw: Any) -> None:
        self.raw: Any = raw
        self.returned: list[Any] = []
        """What a generator has returned at its end, where that was noted."""

    def end(self) -> None:
        """Drop what is in it; a generator runs its ``finally`` now."""
        raw = self.raw
        try:
            if hasattr(type(raw), "aclose") and hasattr(type(raw), "asend"):
                _end_async(raw)
                self.raw = OVER_LATER
            else:
                self.raw = OVER
        finally:
            raw = None


def _end_async(raw: Any) -> None:
    """Run the ``finally`` of an asynchronous generator as far as it comes without its loop. Dropped as it is,
    it would have the loop run it later, on an object that is gone."""
    step = raw.aclose()
    try:
        step.send(None)
    except (StopIteration, StopAsyncIteration):
        return
    except Exception:
        complain()
    else:
        step.close()
    finally:
        raw = step = None


_end_async(OVER_LATER)


class Dependents:
    """What was made of one registered object: the proxies of its children, its iterators. Keeps neither a
    proxy nor the object alive; its `drop` is a cleanup of the object."""

    __slots__ = ("boxes", "limit", "lock", "members", "over", "pending")

    def __init__(self, lock: Any) -> None:
        self.lock: Any = lock
        """Taken for calls that run one at a time. None where none do."""
        self.members: dict[int, weakref.ref[Proxy]] = {}
        """By identity of the raw child: its proxy. Light and registered ones, the newest last."""
        self.boxes: dict[int, Box] = {}
        self.pending: dict[int, list[bool]] = {}
        """By identity of a raw child that is being registered: whether it is the manager's."""
        self.over: list[Any] = []
        """Has an item once an end has returned: the native is gone by that."""
        self.limit: int = FIRST_SWEEP

    def add(self, key: int, proxy: Proxy) -> None:
        """Enter the proxy of a child, as the newest."""
        members = self.members
        members.pop(key, None)
        members[key] = weakref.ref(proxy)
        if len(members) > self.limit:
            self.sweep()

    def sweep(self) -> None:
        """Forget the proxies that are dead."""
        members = self.members
        for one, entry in snapshot(members.items()):
            if entry() is None and members.get(one) is entry:
                members.pop(one, None)
        self.limit = max(FIRST_SWEEP, 2 * len(members))

    def find(self, key: int) -> Proxy | None:
        """The proxy of the raw child at that address, if it lives. It may be that of another, gone since."""
        entry = self.members.get(key)
        return None if entry is None else entry()

    def living(self) -> list[Proxy]:
        """The proxies that live, the newest first."""
        return [one for entry in reversed(snapshot(self.members.values())) if (one := entry()) is not None]

    def drop(self) -> None:
        """Let go of every raw child, iterator and generator. Interrupted, it may be called again."""
        proxy = box = None
        try:
            for key in reversed(snapshot(self.boxes)):
                box = self.boxes.get(key)
                if box is not None:
                    box.end()
                self.boxes.pop(key, None)
            for proxy in self.living():
                if is_light(proxy):
                    set_raw(proxy, GONE)
        finally:
            proxy = box = None  # K3

    def close_children(self, timeout: float | Default | None) -> None:
        """Close the registered children, the newest first. One that cannot be closed does not keep the others
        from it: the first error is raised in the end."""
        failed: Exception | None = None
        try:
            for proxy in self.living():
                if not is_light(proxy):
                    try:
                        proxy._lifecycle_handle.close(timeout=timeout)
                    except Exception as error:
                        failed = failed or error
            if failed is not None:
                raise failed
        finally:
            proxy = failed = None  # type: ignore[assignment]  # K3


class Forked:
    """In a forked child nothing made of its parent's objects may die, since even that may touch a native that
    is not there."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self) -> None:
        """Keep all of it, for ever."""
        for drop in all_drops():
            dependents = drop.__self__
            self.kept += (dependents, [one._lifecycle_raw for one in dependents.living() if is_light(one)])


forked: Forked = Forked()
after_fork(forked.keep)
