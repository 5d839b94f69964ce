"""Finds deaths whose callback did not run, by walking through the table.

**The problem.** The tickets come by weakref callbacks that are C methods. At the recursion limit even such a
call fails: CPython prints the `RecursionError` and forgets the callback. The object would stay unreleased for
ever.

**The idea.** What was not told can be seen: a weak reference that is dead. So the keeper walks through the
table, `SLICE` objects a pass, at most one round every `ROUND` seconds, and does what the callback would have
done. All of that may be done twice.

**What a look must not do** is hold anything, were it for a moment: others count the references of pins, and
ask whether cores live. So the looks are chains of iterators in C, which let go within the one call what they
have taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import compress, islice, repeat
from operator import attrgetter, is_
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.dropped import has_died
from lifecycle._core.record import Core, DoorRef, ObservedRef, Record
from lifecycle._core.tables import Registry
from lifecycle.errors import LifecycleError
from lifecycle.places.workers import Workers
from lifecycle.states import RELEASING

SLICE = 500
"""Objects looked at in one pass of the keeper, at most."""
ROUND = 0.4
"""Seconds between the beginnings of two rounds through the table, at least."""

_NOTHING = repeat(None)
_core_of: Any = Record.__call__
_pin_of: Any = Core.__call__
_cell_of: Any = DoorRef.__call__
_door_of = attrgetter("door")


class LostTickets:
    """Looks for the objects of one manager whose death was not told. On the keeper's thread, or when that has
    ended."""

    def __init__(self, registry: Registry, workers: Workers) -> None:
        self._registry = registry
        self._workers = workers
        self._ids: Iterator[int] = iter(())
        self._walking = False
        self._next_round = 0.0
        self._due: dict[int, Record] = {}
        self._were_due: dict[int, Record] = {}
        self.after_round: list[Callable[[], None]] = []

    def make_up(self) -> None:
        """Do what there was no room for at the recursion limit, or what interrupts struck each time. By one
        thread at a time."""
        later = self._registry.later
        entry = None
        try:
            while later:
                for entry in iter(later.pop, None):  # noqa: B007 - FOR_ITER takes and stores in one step
                    break
                if entry is not None:
                    # What cannot be taken, as with a release that is not callable, stays the caller's, who
                    # was told.
                    with suppress(LifecycleError):
                        entry[0](*entry[1])
                entry = None
        except BaseException:
            if entry is not None:
                later.append(entry)
            raise
        finally:
            entry = None  # a kept traceback must keep nothing alive

    def look(self) -> None:
        """The next slice."""
        if not self._walking:
            now = runtime.monotonic()
            if now < self._next_round:
                return
            self._next_round = now + ROUND
            self._ids = iter(runtime.snapshot(self._registry.records))
            self._walking = True
        if not self._look_at(islice(self._ids, SLICE)):
            self._walking = False
            self._post_again()
            for also in self.after_round:
                also()

    def look_at_all(self) -> None:
        """All at once: the manager closes."""
        self._look_at(runtime.snapshot(self._registry.records))

    def _look_at(self, ids: Iterable[int]) -> int:
        """See what has become of these; how many there were."""
        records = [record for record in map(self._registry.records.get, ids) if record is not None]
        open_ = [record for record in records if record.phase is None or record.phase is RELEASING]
        for record in compress(open_, map(is_, map(_core_of, open_), _NOTHING)):
            self._due[record.id] = record
        if any(map(is_, map(_pin_of, filter(None, map(_core_of, open_))), _NOTHING)):
            self._uproot(open_)
        # Each is read once: whoever shuts a door takes it away.
        doors = list(filter(None, map(_door_of, (record for record in open_ if record.cause is None))))
        if any(map(is_, map(_cell_of, doors), _NOTHING)):
            self._tell([door for door in doors if runtime.is_dead(door)])
        # An interrupt may have come between the door and its telling. It is counted once, however often told.
        for record in open_:
            if record.cause is not None and record.phase is None and record.id not in record.kind.count.shut:
                self._registry.events.append(("shut", record))
        observed = [record.obj for record in open_ if record.owning < 0]
        self._tell([ref for ref in observed if type(ref) is ObservedRef and runtime.is_dead(ref)])
        return len(records)

    def _uproot(self, records: list[Record]) -> None:
        """Do what the callbacks of cores would have done. A core whose pin is garbage only is held by that,
        as ever."""
        for record in records:
            core = record()
            if core is not None and runtime.is_dead(core):
                self._registry.unroot(core)
            core = None

    def _tell(self, dead: list[Any]) -> None:
        """Tell again what may have been told; the second time it means nothing."""
        for reference in dead:
            self._registry.tell_drop(reference)

    def _post_again(self) -> None:
        """Post what was due a round ago, still is, and has no ticket anywhere."""
        due, self._due = self._due, {}
        lost = [record for record in due.values() if record.id in self._were_due and self._unclaimed(record)]
        self._were_due = due
        if not lost:
            return
        retried = {record.id for _, record in runtime.snapshot(self._registry.delayed)}
        for place in {id(record.place): record.place for record in lost}.values():
            waiting = place.tickets()
            # The keeper hands over to the workers what no other thread runs.
            elsewhere = self._workers.tickets()
            if waiting is None or elsewhere is None or place.lost_reason is not None:
                continue
            for record in lost:
                if record.place is place and record.id not in waiting and record.id not in retried:
                    place.put(record)

    def _unclaimed(self, record: Record) -> bool:
        """Return True if nobody runs its release, and none of those who wait for a fence, or for others to
        let go, will."""
        if record.id in self._registry.claims:
            return False
        extra = record.extra
        if extra is not None and extra.dropped is not None and extra.dropped.let_go:
            return has_died(record)
        return extra is None or extra.line is None
