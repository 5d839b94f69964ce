"""Figures: a snapshot of what was counted, and of what is only known now (what releases, what waits)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable

from lifecycle._core import runtime
from lifecycle._core.counters import PlainTotals
from lifecycle._core.place import Place
from lifecycle._core.record import ENDED_TOO, Record
from lifecycle._core.tables import ObjectType, Registry
from lifecycle.observe.ledger import Ledger
from lifecycle.places.queues import ReleaseQueue
from lifecycle.places.workers import Workers
from lifecycle.states import ENDED, RELEASING
from lifecycle.stats import QueueStats, SafetyStats, TypeStats


def figures(
    registry: Registry, ledger: Ledger, workers: Workers, queues: tuple[QueueStats, ...], last_run: float
) -> SafetyStats:
    """A snapshot. Exact when no thread counts meanwhile."""
    releasing: dict[ObjectType, list[Record]] = {}
    for id in runtime.snapshot(registry.claims):
        record = registry.records.get(id)
        if record is not None and record.phase is RELEASING and record.counted not in (0, ENDED_TOO):
            releasing.setdefault(record.kind, []).append(record)
    kept: dict[ObjectType, list[Record]] = {}
    for record in runtime.snapshot(registry.still.values()):
        if record.phase is None and record.counted not in (0, ENDED_TOO):
            kept.setdefault(record.kind, []).append(record)
    plain = ledger.plain
    types = {
        kind.type_name: _type_figures(kind, releasing.get(kind, []), kept.get(kind, []), plain.get(kind))
        for kind in runtime.snapshot(registry.kinds.values())
    }
    ends = {
        end: sum(t.ended[end] for t in types.values())
        for end in ("released", "failed", "stuck", "detached", "orphaned")
    }
    total = sum(t.registered for t in types.values())
    return SafetyStats(
        manager=registry.name,
        total_objects=total,
        active_objects=total - sum(ends.values()),
        late=ledger.late,
        panics=sum(t.panics for t in types.values()),
        errors=sum(t.errors for t in types.values()),
        leaks=sum(t.leaks for t in types.values()),
        refused=sum(sum(t.refused.values()) for t in types.values()),
        finalizer_failures=ends["failed"] + ends["stuck"] + ledger.other_failures,
        types=types,
        queues=queues,
        stuck_workers=len(workers.stuck),
        stuck_workers_limit=registry.config.max_stuck_finalizers,
        quarantined=workers.quarantined,
        keeper_last_run=last_run,
        events_pending=registry.pending(),
        observer_events_dropped=ledger.observer.dropped,
        **ends,
    )


def _type_figures(
    kind: ObjectType, releasing: list[Record], kept: list[Record], plain: PlainTotals | None
) -> TypeStats:
    count = kind.count
    plain = plain or PlainTotals.none(count.duration.bounds)
    ended, closed = dict(count.ended), dict(count.closed)
    ended["released"] += plain.number
    closed["close"] += plain.number
    live = count.live
    known = [count.shut[record.id] for record in releasing if record.id in count.shut]  # poisoned or not
    others = [count.shut[record.id] for record in kept if record.id in count.shut]
    invalid = count.invalid - sum(known) - sum(others)
    closing = len(count.shut) - count.invalid - known.count(False) - others.count(False)
    oldest = count.living.oldest()
    return TypeStats(
        type_name=kind.type_name,
        registered=count.registered + plain.number,
        live=live,
        states={
            "valid": live - closing - invalid - len(releasing) - len(kept),
            "invalid": invalid,
            "closing": closing,
            "kept": len(kept),
            "releasing": len(releasing),
        },
        bytes=count.bytes,
        bytes_limit=kind.max_bytes,
        objects_limit=kind.max_live,
        oldest=0.0 if oldest is None else runtime.wall_time() - (runtime.monotonic() - oldest.born),
        ended=ended,
        closed=closed,
        refused=dict(count.refused),
        panics=count.panics,
        errors=count.errors,
        leaks=count.leaks,
        held_too_long=_held_too_long(kind),
        release_duration=count.duration.snapshot(plain.counts, plain.sum),
        release_wait=count.wait.snapshot((plain.number,)),
        release_failures=dict(count.failures),
        retries=count.retries,
    )


def _held_too_long(kind: ObjectType) -> int:
    max_age = kind.max_age
    if max_age is None:
        return 0
    before = runtime.monotonic() - max_age
    aged = itertools.takewhile(lambda record: record.born < before, kind.count.living)
    return sum(record.phase not in ENDED for record in aged)


def queue_figures(
    registry: Registry, places: Iterable[Place], queues: Collection[ReleaseQueue], last_run: float
) -> tuple[QueueStats, ...]:
    """The places that releases wait at. Callable on any thread."""
    found: list[QueueStats] = []
    for place in places:
        found.append(QueueStats(place.name, len(place), 0.0, last_run, 0, len(place.timelines), 0, 0))
    for queue in runtime.snapshot(queues):
        found.append(
            QueueStats(
                queue.name,
                queue.backlog,
                queue.oldest(),
                queue.last_drain,
                queue.orphaned,
                len(queue.generation.timelines),
                int(queue.at_once),
                int(queue.handed),
            )
        )
    return tuple(found)
