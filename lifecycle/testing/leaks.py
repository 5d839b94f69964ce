"""`assert_no_leaks`: nothing that was made in a block is left when it ends.

The library's own leak reports are for production: sampled, never wrong about a leak, silent about what
somebody still holds. This is the other kind: it looks at everything made in the block and misses nothing, and
takes for a leak whatever is there at the end. While such a block is open every registration notes where it
was made, and so do leases, views, threads and managers.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import attrs

from lifecycle._core import runtime
from lifecycle._core.describe import describe, fate, state_of
from lifecycle._core.handle import Handle
from lifecycle._core.holders import holders_of
from lifecycle._core.leases import Lease
from lifecycle._core.record import Pin, Record
from lifecycle.manager import manager as manager_module
from lifecycle.manager.manager import SafetyManager
from lifecycle.places.queues import Generation
from lifecycle.states import BY_DROP, DUE, ENDED, FAILED, STUCK
from lifecycle.testing.notes import notes

HOLDERS_OF = 20
"""For so many objects it is said who holds them: that costs a look through the whole heap each."""
LOOK_EVERY = 0.02
"""Seconds between two looks while something is left."""


class LeftBehind:
    """What a block left behind, by kind: a class of attrs whose fields are tuples of words."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return any(attrs.astuple(self, recurse=False))  # type: ignore[arg-type]

    def _in_order(self) -> list[str]:
        """What is worth telling, the worst first."""
        raise NotImplementedError

    def first(self) -> str:
        """One of them, and how many more there are: the one line that a summary of tests shows."""
        found = self._in_order()
        more = len(found) - 1
        return f"{found[0]}{f' (and {more} more)' if more > 0 else ''}" if found else "nothing"

    def __str__(self) -> str:
        lines = []
        for name, found in attrs.asdict(self).items():  # type: ignore[arg-type]
            lines += [f"{name} ({len(found)}):", *(f"  {one}" for one in found)] if found else []
        return "\n".join(lines)


@attrs.frozen
class Leftovers(LeftBehind):
    """What a block left behind, each in words: what it is, in which state, and where it was made."""

    objects: tuple[str, ...] = ()
    """Not released, and in use, or stuck, or failed."""
    tickets: tuple[str, ...] = ()
    """Closed, without a holder, and waiting for a place that does not run them."""
    leases: tuple[str, ...] = ()
    """Blocks that have not ended, and where they began."""
    threads: tuple[str, ...] = ()
    """Still running; those of a manager that was made in the block, and not closed, under its name."""
    dropped: tuple[str, ...] = ()
    """Released, but only since the last handle was collected: nobody had closed it."""

    def _in_order(self) -> list[str]:
        return [
            *self.objects,
            *self.tickets,
            *self.dropped,
            *self.threads,
            *(() if self.objects else self.leases),  # leases are those of the objects
        ]


class LeaksFound(AssertionError):
    """Raised by `assert_no_leaks`; `left` says what was found."""

    def __init__(self, left: Leftovers) -> None:
        super().__init__(f"left behind: {left.first()}\n{left}")
        self.left = left


class assert_no_leaks(contextlib.ContextDecorator):
    """``with assert_no_leaks():`` fails with `LeaksFound` when what was made in the block is left at its end:
    objects, leases, tickets, threads. Also a decorator. When the block itself raises, that passes and nothing
    is checked.

    Parameters
    ----------
    managers:
        Look at objects of these only; without any, at those of every manager.
    timeout:
        Seconds for which what is left may still end by itself: releases that run, threads that stop. Nothing
        left, no wait.
    threads:
        Whether threads count, the library's own among them.
    dropped:
        Whether objects count that were released only because their last handle was collected.

    Collects garbage. Blocks may be nested; on several threads at a time each sees what all of them made.
    `ignore` exempts.
    """

    def __init__(
        self, *managers: SafetyManager, timeout: float = 3.0, threads: bool = True, dropped: bool = True
    ) -> None:
        for manager in managers:
            if not isinstance(manager, SafetyManager):
                raise TypeError(f"assert_no_leaks() takes SafetyManagers, not {manager!r}")
        self._managers = managers
        self._timeout = timeout
        self._look_at_threads = threads
        self._look_at_dropped = dropped
        self._ignored: set[int] = set()
        self._first = 0
        self._running: set[threading.Thread] = set()
        self._known: weakref.WeakSet[SafetyManager] = weakref.WeakSet()

    def _recreate_cm(self) -> assert_no_leaks:
        return assert_no_leaks(
            *self._managers,
            timeout=self._timeout,
            threads=self._look_at_threads,
            dropped=self._look_at_dropped,
        )

    def ignore(self, *what: Handle[Any] | threading.Thread | SafetyManager) -> None:
        """Leave out objects by their handle, threads, or managers with all they have."""
        for one in what:
            if isinstance(one, Handle):
                self._ignored.add(one.id)
            elif isinstance(one, (threading.Thread, SafetyManager)):
                self._ignored.add(-id(one))
            else:
                raise TypeError(f"ignore() takes handles, threads and managers, not {one!r}")

    def left(self) -> Leftovers:
        """What is left of the block so far."""
        gc.collect()
        objects: list[str] = []
        tickets: list[str] = []
        dropped: list[str] = []
        ours: set[int] = set()
        for manager in self._managers or runtime.snapshot(manager_module._managers):
            if -id(manager) in self._ignored:
                continue
            manager._any_thread.run_some(None)  # as the next registration would
            for record in runtime.snapshot(manager._registry.records.values()):
                if record.id <= self._first or record.id in self._ignored:
                    continue
                ours.add(record.id)
                if record.phase not in ENDED or record.phase in (STUCK, FAILED):
                    named = len(objects) < HOLDERS_OF
                    (tickets if state_of(record) is DUE else objects).append(_in_words(record, named))
                elif self._look_at_dropped and record.owning > 0 and (record.cause or BY_DROP) is BY_DROP:
                    dropped.append(_in_words(record, False))
        return Leftovers(
            objects=tuple(objects),
            tickets=tuple(tickets),
            leases=tuple(_open_leases(ours)),
            threads=tuple(self._threads_left()) if self._look_at_threads else (),
            dropped=tuple(dropped),
        )

    def _threads_left(self) -> Iterator[str]:
        running = [
            thread
            for thread in threading.enumerate()
            if thread not in self._running
            and thread is not threading.current_thread()
            and -id(thread) not in self._ignored
        ]
        for manager in runtime.snapshot(manager_module._managers):
            theirs = [thread for thread in running if thread in _threads_of(manager)]
            running = [thread for thread in running if thread not in theirs]
            if theirs and manager not in self._known and -id(manager) not in self._ignored:
                state = "closed, but held up" if manager.closed else "never closed"
                made_at = _made_at(notes.managers.get(manager, ""))
                yield f"{len(theirs)} of manager {manager.name!r}, {state}{made_at}"
        for thread in running:
            frame = sys._current_frames().get(thread.ident or 0)
            at = f", now at {runtime.describe_site(runtime.site_of(frame))}" if frame is not None else ""
            yield f"{thread.name!r}{_made_at(notes.threads.get(thread, ''), 'started')}{at}"

    def __enter__(self) -> assert_no_leaks:
        notes.begin()
        self._running = set(threading.enumerate())
        self._known = weakref.WeakSet(runtime.snapshot(manager_module._managers))
        self._first = runtime.next_id()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True
        self.leave(check=error is None)

    def leave(self, *, check: bool = True) -> None:
        """End the block, for code that cannot use `with`; without `check`, nothing is checked."""
        __tracebackhide__ = True
        try:
            until = time.monotonic() + self._timeout
            while check and (left := self.left()):
                if time.monotonic() > until or not attrs.evolve(left, dropped=()):
                    raise LeaksFound(left)
                time.sleep(LOOK_EVERY)
        finally:
            notes.end()


def _in_words(record: Record, with_holders: bool) -> str:
    text = f"{describe(record)}: {fate(record)}{_made_at(runtime.describe_site(record.site))}"
    place = record.place
    if isinstance(place, Generation) and record.phase not in ENDED:
        text += f"; its queue {place.name!r} must be drained"
    pin = None
    try:
        pin = _pin_of(record) if with_holders else None
        holders = holders_of(pin) if pin is not None else ()
    finally:
        pin = None
    if holders:
        text += f"; held by {', '.join(sorted(set(holders)))}"
        if "view" in holders:  # one that does not know its own line
            text += _made_at(notes.views.get(record.id, ""), "taken")
    return text


def _pin_of(record: Record) -> Pin | None:
    """The pin of a record, also when its door is shut: by way of those who keep it from being garbage."""
    for hold in runtime.snapshot(record.kind.registry.roots):
        pin = hold()
        if pin is not None and pin.record is record:
            return pin
    return None


def _made_at(site: str, how: str = "made") -> str:
    return f", {how} at {site}" if site else ""


def _open_leases(ids: set[int]) -> Iterator[str]:
    for one in gc.get_objects():
        if type(one) is Lease:
            pin = one._pin
            record = pin.record if pin is not None else None
            pin = None
            if record is not None and record.id in ids:
                known, site = notes.leases.get(id(one), (0, ""))
                yield f"of {describe(record)}{_made_at(site if known == record.id else '', 'taken')}"


def _threads_of(manager: SafetyManager) -> list[threading.Thread | None]:
    workers = manager._machinery.workers
    return [
        manager._maintenance._thread,
        manager._maintenance.observer.thread,
        manager._maintenance.observer.last,
        *(worker.thread for worker in [*workers.healthy, *workers.stuck]),
    ]
