"""Making room below a limit: what is due is released first, what is being released is waited for, and where
only garbage holds what there is the collector is asked. Only then a registration is refused, and told what is
in the way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from lifecycle._core import runtime
from lifecycle._core.budget import Budget
from lifecycle._core.describe import state_of
from lifecycle._core.ends import wait_for_end
from lifecycle._core.exports import exported, sweep
from lifecycle._core.record import Record
from lifecycle._core.release import nesting, releases_here
from lifecycle._core.sentences import who_holds
from lifecycle._core.tables import ObjectType, Registry
from lifecycle.states import ENDED, VALID

ROOM_WITHIN = 0.05
"""Seconds for which a newcomer waits for what is being released."""
LOOKED_AT = 4096
"""Objects that are looked at, at most, the oldest first."""
NAMED = 4
"""Objects that an error names."""


YOUNG, ALL = 1, 2
collections = Budget(0.5, 0.01)
"""For collections before a refusal: a program may well live at its limit."""


def make_room(registry: Registry, candidates: Callable[[], Iterable[Record]]) -> bool:
    """Release those of `candidates` (read anew each time) that have no holder any more, here if that may be,
    or wait for the thread that does it. Returns whether one of them ended; False at once inside a collection,
    near the recursion limit, and inside a release."""
    if runtime.collecting or runtime.near_limit() or (registry.claims and nesting()):
        return False
    if registry.waiting:
        registry.tend()
    ended = bool(exported) and sweep() > 0
    until = runtime.monotonic() + ROOM_WITHIN
    left_to_ask = iter((YOUNG, ALL))
    while True:
        there = [record for record in candidates() if record.phase not in ENDED]
        due = [record for record in there if record() is None]
        if not due:
            if ended or not there or not _collected(left_to_ask):
                return ended or not there
            continue
        for record in due:
            record.place.run_one(record)
            if record.phase in ENDED:
                ended = True
        if ended:
            return True
        ours = releases_here()
        waited_for = [record for record in due if comes_by_itself(record) and record not in ours]
        left = until - runtime.monotonic()
        if not waited_for or left <= 0.0 or runtime.must_not_wait():
            return False
        wait_for_end(waited_for[0], runtime.monotonic() + min(left, 0.005), None, insist=False)
        ended = any(record.phase in ENDED for record in due)


def _collected(generations: Iterator[int]) -> bool:
    """Run the collector for the next of `generations`, as the garbage may hold what is at its limit. False
    when that was done, or may not be."""
    if not runtime.collector_enabled() or runtime.must_not_wait() or not collections.allows():
        return False
    began = runtime.monotonic()
    for generation in generations:
        runtime.collect(generation)
        collections.spend(began)
        return True
    return False


def comes_by_itself(record: Record) -> bool:
    """Return True if another thread runs the release of what is due, or will soon: not what waits for its
    queue's owner, a fence or a retry."""
    extra = record.extra
    if extra is not None and (extra.fences or extra.not_before > runtime.monotonic() + ROOM_WITHIN):
        return False
    return not record.place.inline or record.id in record.kind.registry.claims


def live_of(kind: ObjectType) -> list[Record]:
    """What counts against the limits of a type, the oldest first."""
    records = kind.registry.records
    ids = itertools.islice(runtime.snapshot(kind.alive or ()), LOOKED_AT)
    return [record for record in map(records.get, ids) if record is not None]


def live_with(registry: Registry, slots: object) -> list[Record]:
    """What has a place among `slots`, of which its `Extra.slot` tells, the oldest first."""
    return [
        record
        for record in runtime.snapshot(registry.records.values())
        if record.phase not in ENDED
        and record.extra is not None
        and record.extra.slot is not None
        and record.extra.slot[0] is slots
    ]


def make_room_for(kind: ObjectType) -> bool:
    """As `make_room`, below the limits of a type."""
    return make_room(kind.registry, lambda: live_of(kind))


def limit_holders(kind: ObjectType) -> tuple[str, ...]:
    """Some of what counts against the limits of a type, in words."""
    return in_the_way(live_of(kind))


def in_the_way(records: Iterable[Record]) -> tuple[str, ...]:
    """Some of `records` in words, each with its holders: ``object 3 (view made at app.py:12)``."""
    found = []
    for record in records:
        if record.phase in ENDED:
            continue
        state = state_of(record)
        holders = who_holds(record)
        site = runtime.describe_site(record.site)
        made = f", from {site}" if site else ""
        said = f"{state}{made}" if state is VALID or not holders else state.value
        found.append(f"object {record.id} ({', '.join((said, *holders))})")
        if len(found) == NAMED:
            break
    return tuple(found)
