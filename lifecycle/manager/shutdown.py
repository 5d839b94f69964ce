"""Closing a manager: doors shut, releases newest first, everything within one budget, every failure
collected.

Also what a forked child does with what it inherited: nothing, said openly.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from lifecycle._core import runtime
from lifecycle._core.describe import info_of
from lifecycle._core.doors import cell_of, is_open
from lifecycle._core.dropped import is_kept
from lifecycle._core.ends import wait_for_end
from lifecycle._core.holders import raw_references
from lifecycle._core.keeping import keep_for_ever
from lifecycle._core.record import Record, shut
from lifecycle._core.release import end_without_release, nesting, process
from lifecycle._core.tables import Registry, open_records, owners
from lifecycle._core.timelines import Order, busy, poll_busy
from lifecycle.places.queues import Generation
from lifecycle.places.workers import Batch, Workers
from lifecycle.states import ENDED, FAILED, ORPHANED, RELEASED, RELEASING, STUCK, Cause, ObjectState
from lifecycle.stats import ObjectInfo, ShutdownReport


def shut_doors(records: list[Record]) -> None:
    """No access from here on, through any of them."""
    for record in records:
        cell = cell_of(record)
        if cell is not None or is_open(record):
            shut(record, cell, Cause.EXIT, None)
            record.kind.registry.events.append(("shut", record))
        cell = None


def release_all(records: list[Record], workers: Workers, until: float) -> KeyboardInterrupt | None:
    """Release `records`, whose doors are shut, in their order as far as nobody holds them, until the clock
    says `until`.

    What may run anywhere runs on one timed worker, so that a release that hangs is written off and the rest
    goes on; what belongs to an owner's thread runs here if this is it, and is waited for otherwise. What
    falls free by that, a parent, has its turn in the next round. An interrupt that struck in a release stops
    nothing: the first one is returned, to be raised in the end.
    """
    interrupt = None
    before: set[int] = set()
    while True:
        due = [record for record in records if record.phase not in ENDED and record() is None]
        ids = {record.id for record in due}
        if ids == before or runtime.monotonic() >= until:  # nothing due, or nothing moved
            break
        before = ids
        for record in due:
            if is_kept(record):
                record.more().not_before = 0.0  # looked at once more
        # Not only what is due by now: by the time a parent has its turn its children are gone, so a family
        # takes one round.
        anywhere = (record for record in records if not isinstance(record.place, Generation))
        _run_batch([record for record in anywhere if record.phase not in ENDED], workers, until)
        workers.let_go()
        for record in records:
            if isinstance(record.place, Generation) and record.place.may_run_here():
                try:
                    process(record, None, max(0.0, until - runtime.monotonic()))
                except KeyboardInterrupt as error:
                    interrupt = interrupt or error
        if nesting():  # a release is closing its manager: waiting here would be waiting for itself
            break
        for record in due:
            if record.phase not in ENDED and _somebody_will_run(record):
                wait_for_end(
                    record, until, 0.005 if isinstance(record.place, Generation) else None, insist=False
                )
    return interrupt


def _run_batch(free: list[Record], workers: Workers, until: float) -> None:
    if (
        not workers.healthy
    ):  # none was started before the interpreter began to shut down: inline, without deadlines
        for record in free:
            left = until - runtime.monotonic()
            if left > 0:
                process(record, None, left)
        return
    batch = Batch(free[::-1])
    workers.mailbox.put(batch)
    try:
        batch.done.get(max(0.001, until - runtime.monotonic()))
    except runtime.Empty:
        batch.records.clear()


def _somebody_will_run(record: Record) -> bool:
    """Return True if to wait for a ticket: it runs, it waits for its retry or fence, or its queue has an
    owner to drain it."""
    place = record.place
    if isinstance(place, Generation) and not place.may_run_here():
        return place.thread is not None and not place.abandoned()
    registry = record.kind.registry
    if is_kept(record):
        return False
    if record.extra is not None and record.extra.line is not None:
        return True
    return record.id in registry.claims or any(
        record is other for _, other in runtime.snapshot(registry.delayed)
    )


DEVICE_PAUSE = 0.001
"""Seconds between two looks at what devices still use."""


def await_devices(records: list[Record], until: float) -> None:
    """Wait for the submissions that use an object, until the clock says `until`: as releases are waited for,
    and unlike other holders, they end by themselves."""
    ours = {record.id for record in records}
    while busy:
        poll_busy()
        waits = [
            timeline
            for timeline in runtime.snapshot(busy.values())
            if _will_be_polled(timeline) and not ours.isdisjoint(record.id for record in timeline.used())
        ]
        if not waits or runtime.monotonic() >= until:
            break
        runtime.sleep(DEVICE_PAUSE)


def _will_be_polled(timeline: Order) -> bool:
    """Return True if its fences may be asked here, or by a thread that owns them and lives."""
    generation = timeline.generation
    return (
        generation is None
        or generation.may_run_here()
        or (generation.thread is not None and not generation.abandoned())
    )


def await_holders(records: list[Record], until: float) -> None:
    """Wait for those who still hold an object, until the clock says `until`."""
    for record in records:
        if record.phase not in ENDED and runtime.monotonic() < until:
            wait_for_end(record, until, 0.005, insist=False)


EXIT_GRACE = 0.5
"""Seconds for which the exit pass waits for other threads, daemons all, to let go what they hold."""


def await_others(records: list[Record], until: float) -> None:
    """At exit: give other threads a moment to end their leases. Where there are none, only forgotten
    references of the program hold the objects, and they would not be dropped."""
    if runtime.others_run():
        await_holders(records, min(until, runtime.monotonic() + EXIT_GRACE))


def report_on(
    records: list[Record],
    errors: list[str],
    began: float,
    running: tuple[str, ...] = (),
    before: Iterable[ObjectInfo] = (),
) -> ShutdownReport:
    """How it went with `records`, and what had failed or got stuck `before`."""
    by_end: dict[ObjectState, list[Record]] = {}
    leaked = []
    for record in records:
        phase = record.phase
        if phase is not None and phase in ENDED:
            by_end.setdefault(phase, []).append(record)
        else:
            leaked.append(attrs.evolve(info_of(record), reason=_why_left(record)))
    before = tuple(before)
    return ShutdownReport(
        released=len(by_end.get(RELEASED, ())),
        failed=(*_of(FAILED, before), *map(info_of, by_end.get(FAILED, ()))),
        stuck=(*_of(STUCK, before), *map(info_of, by_end.get(STUCK, ()))),
        leaked=tuple(leaked),
        errors=tuple(errors),
        duration=runtime.monotonic() - began,
        running=running,
    )


def _of(state: ObjectState, infos: tuple[ObjectInfo, ...]) -> tuple[ObjectInfo, ...]:
    return tuple(info for info in infos if info.state is state)


def _why_left(record: Record) -> str:
    """Why an object was not released when its manager closed."""
    place = record.place
    if is_kept(record):
        names = () if runtime.must_not_wait() else tuple(map(str, raw_references(record, True)))
        return f"its object is still referred to{': ' if names else ''}{', '.join(names)}"
    said = record.extra.reason if record.extra is not None else ""
    if said:
        return said
    if record() is not None:
        for timeline in runtime.snapshot(busy.values()):
            if any(used is record for used in timeline.used()):
                return f"still in flight on timeline {timeline.name!r}"
        return "still held"
    if record.phase is RELEASING:
        return "its release has not returned"
    if isinstance(place, Generation) and place.abandoned():
        return f"the thread that owns queue {place.name!r} has ended"
    if isinstance(place, Generation) and not place.may_run_here():
        return f"queue {place.name!r} was not drained by its owner"
    return "there was no time for its release"


def orphan_inherited(registry: Registry) -> None:
    """In a forked child: every object belongs to the parent process. Doors are shut, nothing is released.

    Other threads of the parent may have been anywhere: what they had locked is made anew, and what they had
    half entered, in the owners or the limits, is forgotten.
    """
    registry.claims.clear()
    for kind in registry.kinds.values():
        kind.budget = runtime.RLock()
    for record in open_records(registry):
        record.phase = None
        if record.kind.forked:
            keep_for_ever(record.obj)
        end_without_release(record, ORPHANED, Cause.FORK, "it belongs to the parent process")
    owners.clear()
    for kind in registry.kinds.values():
        kind.gone.clear()
        kind.held = None
        if kind.alive is not None:
            kind.alive = {}
