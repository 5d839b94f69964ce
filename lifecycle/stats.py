"""What the library knows about itself: frozen snapshots for users, and the counters behind them.

The counters (`TypeCount`, `HistogramCount`) are written by the keeper alone, so they need no lock and lose
nothing. Everything a user gets is a frozen copy.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from lifecycle.states import ENDED, Cause, ObjectState

if TYPE_CHECKING:
    from lifecycle._core.record import Record

BUCKETS = (1e-5, 1e-4, 1e-3, 5e-3, 0.0166, 0.0333, 0.1, 0.5, 1.0, 5.0, 30.0)
"""Upper bounds in seconds of every histogram; one exactly at ``finalizer_timeout`` is added."""

ENDS = ("released", "failed", "stuck", "detached", "orphaned")


def bounds_with(timeout: float) -> tuple[float, ...]:
    """`BUCKETS` with one bound exactly at `timeout`."""
    return tuple(sorted({*BUCKETS, timeout}))


@attrs.frozen
class Histogram:
    """Counts of durations in seconds."""

    bounds: tuple[float, ...]
    """Upper bounds, ascending."""
    counts: tuple[int, ...]
    """One more than `bounds`: per bucket, not cumulative; the last holds what is above every bound."""
    sum: float

    @property
    def count(self) -> int:
        """How many durations there were."""
        return sum(self.counts)


class HistogramCount:
    """A histogram being filled, by one writer."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add_all(self, durations: list[float]) -> None:
        """Count `durations` (seconds)."""
        if not durations:
            return
        self.sum += sum(durations)
        bounds, counts = self.bounds, self.counts
        if max(durations) <= bounds[0]:
            counts[0] += len(durations)
            return
        for bucket, number in Counter(map(partial(bisect_left, bounds), durations)).items():
            counts[bucket] += number

    def snapshot(self) -> Histogram:
        """A frozen copy."""
        return Histogram(self.bounds, tuple(self.counts), self.sum)


COMPACT_AT = 64
"""Ended objects of a type that are kept in its list of live ones in any case."""


class TypeCount:
    """The counters of one type."""

    __slots__ = (
        "bytes",
        "closed",
        "duration",
        "ended",
        "errors",
        "failures",
        "gone",
        "invalid",
        "leaks",
        "order",
        "panics",
        "refused",
        "registered",
        "retries",
        "shut",
        "wait",
    )

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.registered = 0
        self.bytes = 0
        self.ended = dict.fromkeys(ENDS, 0)
        self.closed = {str(cause): 0 for cause in Cause}
        self.refused = {str(state): 0 for state in ObjectState}
        self.failures = {"error": 0, "timeout": 0, "not_released": 0}
        self.panics = self.errors = self.leaks = self.retries = 0
        self.invalid = 0
        self.shut: dict[int, bool] = {}  # shut and not ended: id -> poisoned
        self.order: deque[Record] = deque()  # oldest first; ended ones are dropped when they pile up
        self.gone = 0  # how many of them, or more
        self.duration = HistogramCount(bounds)
        self.wait = HistogramCount(bounds)

    @property
    def live(self) -> int:
        """Objects registered and not ended."""
        return self.registered - sum(self.ended.values())

    def oldest(self) -> Record | None:
        """The oldest object that has not ended."""
        order = self.order
        while order and order[0].phase in ENDED:
            order.popleft()
        return order[0] if order else None

    def compact(self) -> None:
        """Forget ended objects once they are the larger part, and more than `COMPACT_AT`: otherwise their
        records stay for as long as no other object of the type comes. Walks twice as many as have ended since
        it last did."""
        if self.gone > COMPACT_AT and 2 * self.gone > len(self.order):
            self.gone = 0
            self.order = deque(record for record in self.order if record.phase not in ENDED)


@attrs.frozen
class TypeStats:
    """One type's figures. Every mapping has all its keys from the start, at 0."""

    type_name: str
    registered: int
    live: int
    states: Mapping[str, int]
    """Objects not ended, by ``valid``, ``invalid``, ``closing`` and ``releasing``."""
    bytes: int
    bytes_limit: int | None
    objects_limit: int | None
    oldest: float
    """Unix time at which the oldest live object was registered, 0.0 when there is none."""
    ended: Mapping[str, int]
    """By ``released``, ``failed``, ``stuck``, ``detached``, ``orphaned``; an object counts once, at its first
    end."""
    closed: Mapping[str, int]
    """What shut the door, by cause."""
    refused: Mapping[str, int]
    """Accesses refused, by the state that refused; ``valid`` for those beside an exclusive access."""
    panics: int
    errors: int
    leaks: int
    held_too_long: int
    release_duration: Histogram
    release_wait: Histogram
    release_failures: Mapping[str, int]
    retries: int


@attrs.frozen
class QueueStats:
    """One place that releases wait at."""

    queue: str
    entries: int
    oldest: float
    """Unix time at which the oldest waiting ticket was shut, 0.0 when none waits."""
    last_drain: float
    orphaned: int
    fences_pending: int
    run: int
    """Releases of a `ReleaseQueue` that ran at once, since they were closed where they belong."""
    handed: int
    """Releases of a `ReleaseQueue` that were closed, or dropped, anywhere else, and ran in a drain."""

    @property
    def outcomes(self) -> Mapping[str, int]:
        """What became of releases: ``run`` where they were closed, ``handed`` to the queue's owner,
        ``orphaned`` with a loss."""
        return {"run": self.run, "handed": self.handed, "orphaned": self.orphaned}


@attrs.frozen
class SafetyStats:
    """A manager's figures at one moment, exact (I7): ``total_objects == active_objects + released + failed +
    stuck + detached + orphaned``, and the same for each type."""

    manager: str
    total_objects: int
    active_objects: int
    released: int
    failed: int
    stuck: int
    """Objects whose release passed its deadline. One that came back later stays counted here, and in `late`.
    """
    detached: int
    orphaned: int
    late: int
    panics: int
    errors: int
    leaks: int
    refused: int
    finalizer_failures: int
    """Releases that failed or got stuck, and safe finalizers and cleanups that raised."""
    types: Mapping[str, TypeStats]
    queues: tuple[QueueStats, ...]
    stuck_workers: int
    stuck_workers_limit: int
    quarantined: int
    keeper_last_run: float
    events_pending: int
    observer_events_dropped: int


@attrs.frozen
class Health:
    """Whether the manager's own machinery is well. Read without asking the keeper, so it answers even when
    that is stuck."""

    ok: bool
    closed: bool
    keeper_alive: bool
    keeper_last_run: float
    """Unix time of the keeper's last pass, 0.0 before the first."""
    events_pending: int
    stuck_workers: int
    stuck_workers_limit: int
    quarantined: int
    backlog: Mapping[str, int]
    """Waiting tickets by queue."""
    observer_events_dropped: int
    problems: tuple[str, ...]
    """What is wrong, in words."""

    def __bool__(self) -> bool:
        """As `ok`."""
        return self.ok


@attrs.frozen
class ObjectInfo:
    """What is known of one object at one moment."""

    id: int
    type_name: str
    name: str | None
    native: Any
    state: ObjectState
    cause: str
    """What shut the door, empty while it is open."""
    reason: str
    size: int
    parent: int
    """The parent's id, 0 without one."""
    registered_at: float
    """Unix time."""
    site: str
    """Where it was registered, where that was recorded."""

    def __str__(self) -> str:
        name = f' "{self.name}"' if self.name else ""
        site = f", made at {self.site}" if self.site else ""
        reason = f" ({self.reason})" if self.reason else ""
        return f"object {self.id} ({self.type_name}{name}): {self.state}{reason}{site}"


@attrs.frozen
class ShutdownReport:
    """What `SafetyManager.close` achieved. ``ok`` is true when nothing is left behind."""

    released: int
    failed: tuple[ObjectInfo, ...]
    stuck: tuple[ObjectInfo, ...]
    leaked: tuple[ObjectInfo, ...]
    """Still held by somebody (a lease, a view), or waiting for a place whose owner did not drain it. Shut,
    but not released."""
    errors: tuple[str, ...]
    """What `on_close` callbacks and releases raised."""
    duration: float
    """Seconds."""
    running: tuple[str, ...] = ()
    """Threads attached to the stop token that had not ended within the budget."""

    @property
    def ok(self) -> bool:
        """Whether everything was released."""
        return not (self.failed or self.stuck or self.leaked or self.errors or self.running)

    def __bool__(self) -> bool:
        """As `ok`: ``assert manager.close()``."""
        return self.ok
