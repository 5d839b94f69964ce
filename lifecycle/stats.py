"""What the library knows about itself, as frozen snapshots: of a manager and its types, of pools, memory,
distributors and profilers. The counters behind them stand in `_core/counters.py`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from reprlib import recursive_repr
from typing import Any

import attrs

from lifecycle.states import ObjectState

__all__ = [
    "DistributorStats",
    "GroupStats",
    "Histogram",
    "MemoryStats",
    "MemoryTypeStats",
    "ObjectStats",
    "PoolReport",
    "PoolStats",
    "QueueStats",
    "ReceiverStats",
    "TimelineStats",
    "TypeProfile",
]
"""What is public here; the figures of a manager and its types stand at the top, in `lifecycle`."""


class Value:
    """What snapshots and events are: equal to those of their class with equal fields. Written once: attrs
    would make and compile these three for each class, which is half of what importing them takes."""

    __slots__ = ()

    @recursive_repr()
    def __repr__(self) -> str:
        fields: Any = attrs.fields(type(self))  # type: ignore[arg-type]
        shown = ", ".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields if field.repr)
        return f"{type(self).__qualname__}({shown})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _compared(self) == _compared(other)

    def __hash__(self) -> int:
        return hash(_compared(self))


def _compared(value: Any) -> tuple[object, ...]:
    return tuple(getattr(value, field.name) for field in attrs.fields(type(value)) if field.eq)


@attrs.frozen(eq=False, repr=False)
class Histogram(Value):
    """Counts of durations in seconds."""

    bounds: tuple[float, ...]
    """Upper bounds, ascending."""
    counts: tuple[int, ...]
    """One more than `bounds`: per bucket, not cumulative; the last holds what is above every bound."""
    sum: float
    """All durations together, in seconds."""

    @property
    def count(self) -> int:
        """How many durations there were."""
        return sum(self.counts)


@attrs.frozen(eq=False, repr=False)
class TypeStats(Value):
    """One type's figures. Every mapping has all its keys from the start, at 0."""

    type_name: str
    """The type's name, as registered."""
    registered: int
    """Objects registered, ever."""
    live: int
    """Objects that have not ended."""
    states: Mapping[str, int]
    """Objects not ended, by ``valid``, ``invalid``, ``closing``, ``kept`` and ``releasing``."""
    bytes: int
    """Native bytes of the live objects, as given with ``size=``."""
    bytes_limit: int | None
    """The type's ``policy(max_bytes=)``, None without one."""
    objects_limit: int | None
    """The type's ``policy(max_live=)``, None without one."""
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
    """Undeclared exceptions that were contained."""
    errors: int
    """Declared errors that passed the panic boundary."""
    leaks: int
    """Objects whose last handle was garbage-collected unclosed."""
    held_too_long: int
    """Live objects that are older than the type's ``policy(max_age=)``."""
    release_duration: Histogram
    """How long the release functions took."""
    release_wait: Histogram
    """From the close to the beginning of the release: other holders, and the queue of its place."""
    release_failures: Mapping[str, int]
    """Releases that failed, by reason."""
    retries: int
    """Calls of release functions beyond the first."""


@attrs.frozen(eq=False, repr=False)
class QueueStats(Value):
    """One place that releases wait at."""

    queue: str
    """Its name."""
    entries: int
    """Tickets that wait."""
    oldest: float
    """Unix time at which the oldest waiting ticket was shut, 0.0 when none waits."""
    last_drain: float
    """Unix time of the last drain, 0.0 before the first."""
    orphaned: int
    """Objects that were given up because the queue or their fence was lost."""
    fences_pending: int
    """Tickets that wait for a fence."""
    run: int
    """Releases of a `ReleaseQueue` that ran at once, since they were closed where they belong."""
    handed: int
    """Releases of a `ReleaseQueue` that were closed, or dropped, anywhere else, and ran in a drain."""

    @property
    def outcomes(self) -> Mapping[str, int]:
        """What became of releases: ``run`` where they were closed, ``handed`` to the queue's owner,
        ``orphaned`` with a loss."""
        return {"run": self.run, "handed": self.handed, "orphaned": self.orphaned}


@attrs.frozen(eq=False, repr=False)
class SafetyStats(Value):
    """A manager's figures at one moment, exact (I7): ``total_objects == active_objects + released + failed +
    stuck + detached + orphaned``, and the same for each type."""

    manager: str
    """The manager's name."""
    total_objects: int
    """Objects registered, ever."""
    active_objects: int
    """Objects that have not ended."""
    released: int
    """Objects whose release has returned."""
    failed: int
    """Objects whose release raised."""
    stuck: int
    """Objects whose release passed its deadline. One that came back later stays counted here, and in `late`.
    """
    detached: int
    """Objects whose ownership was given away by `Handle.detach`."""
    orphaned: int
    """Objects that are never released: their queue or fence was lost, or they belong to the parent of a
    fork."""
    late: int
    """Releases that came back after their deadline."""
    panics: int
    """Undeclared exceptions that were contained."""
    errors: int
    """Declared errors that passed the panic boundary."""
    leaks: int
    """Objects whose last handle was garbage-collected unclosed."""
    refused: int
    """Accesses that were refused."""
    finalizer_failures: int
    """Releases that failed or got stuck, and safe finalizers and cleanups that raised."""
    types: Mapping[str, TypeStats]
    """The figures of each type, by its name."""
    queues: tuple[QueueStats, ...]
    """The figures of each place where releases of this manager wait."""
    stuck_workers: int
    """Workers that were written off and have not come back."""
    stuck_workers_limit: int
    """``max_stuck_finalizers`` of the configuration."""
    quarantined: int
    """Timed releases that are not begun because that limit is reached."""
    keeper_last_run: float
    """Unix time of the keeper's last pass, 0.0 before the first."""
    events_pending: int
    """Events that are not counted or delivered yet."""
    observer_events_dropped: int
    """Events that were dropped because an observer or the log was slow."""


@attrs.frozen(eq=False, repr=False)
class Health(Value):
    """True if the manager's own machinery is well. Read without asking the keeper, so it answers even when
    that is stuck."""

    ok: bool
    """True if there are no `problems`."""
    closed: bool
    """True if the manager is closed."""
    keeper_alive: bool
    """True if the keeper's thread runs. It starts with the first object."""
    keeper_last_run: float
    """Unix time of the keeper's last pass, 0.0 before the first."""
    events_pending: int
    """Events that are not counted or delivered yet."""
    stuck_workers: int
    """Workers that were written off and have not come back."""
    stuck_workers_limit: int
    """``max_stuck_finalizers`` of the configuration."""
    quarantined: int
    """Timed releases that are not begun because that limit is reached."""
    backlog: Mapping[str, int]
    """Waiting tickets by queue."""
    observer_events_dropped: int
    """Events that were dropped because an observer or the log was slow."""
    problems: tuple[str, ...]
    """What is wrong, in words."""

    def __bool__(self) -> bool:
        """As `ok`."""
        return self.ok


@attrs.frozen(eq=False, repr=False)
class ObjectInfo(Value):
    """What is known of one object at one moment."""

    id: int
    """The object's id, unique in the process."""
    type_name: str
    """The type's name, as registered."""
    name: str | None
    """The object's own name, None without one."""
    native: Any
    """The native name given with ``native=``, None without one."""
    state: ObjectState
    """Where it is in its life."""
    cause: str
    """What shut the door, empty while it is open."""
    reason: str
    """Why it failed, is stuck or waits, empty otherwise."""
    size: int
    """Native bytes, as given with ``size=``."""
    parents: tuple[int, ...]
    """The ids of what must not be released before it."""
    registered_at: float
    """Unix time."""
    site: str
    """Where it was registered, where that was recorded."""

    @property
    def parent(self) -> int:
        """The id of its first parent, 0 without one."""
        return self.parents[0] if self.parents else 0

    def __str__(self) -> str:
        name = f' "{self.name}"' if self.name else ""
        site = f", made at {self.site}" if self.site else ""
        reason = f" ({self.reason})" if self.reason else ""
        return f"object {self.id} ({self.type_name}{name}): {self.state}{reason}{site}"


@attrs.frozen(eq=False, repr=False)
class ShutdownReport(Value):
    """What `SafetyManager.close` achieved. ``ok``, and the report itself, is true when nothing is left
    behind."""

    released: int
    """Objects that were released by the close."""
    failed: tuple[ObjectInfo, ...]
    """Releases that failed in the manager's life: all those of the close, and of those before it the latest
    1000."""
    stuck: tuple[ObjectInfo, ...]
    """Releases of the manager's life that passed their deadline and have not come back."""
    leaked: tuple[ObjectInfo, ...]
    """Still held (by a lease, a view), or waiting for a place whose owner did not drain it. Shut, but not
    released."""
    errors: tuple[str, ...]
    """What `on_close` callbacks and releases raised."""
    duration: float
    """Seconds."""
    running: tuple[str, ...] = ()
    """Threads attached to the stop token that had not ended within the budget."""

    @property
    def ok(self) -> bool:
        """True if everything that the manager ever had was released."""
        return not (self.failed or self.stuck or self.leaked or self.errors or self.running)

    def __bool__(self) -> bool:
        """As `ok`: ``assert manager.close()``."""
        return self.ok


@attrs.frozen(eq=False, repr=False)
class Loan(Value):
    """One thing that is lent and has not come back."""

    id: int
    """The id of the handle that `get` gave."""
    text: str
    """How messages name it."""
    site: str
    """Where it was lent, as ``file.py:31``."""
    thread: int
    """The identity of the thread that borrowed it."""
    seconds: float
    """For how long."""
    state: str
    """``valid`` while its handle is open, ``closing`` once that is closed and only views, leases or arrays
    hold it."""

    def __str__(self) -> str:
        held = "" if self.state == "valid" else f", {self.state}: a lease or view still holds it"
        at = f" at {self.site}" if self.site else ""
        # Not `enumerate`: it takes a lock, and this may run in the collector.
        thread = threading._active.get(self.thread)  # type: ignore[attr-defined]
        on = self.thread if thread is None else f'"{thread.name}"'
        return f"{self.text}, lent {self.seconds:.3g} s ago{at} on thread {on}{held}"


@attrs.frozen(eq=False, repr=False)
class PoolStats(Value):
    """A pool's figures at one moment."""

    name: str
    """The pool's name."""
    items: Mapping[str, int]
    """``idle`` and ``in_use``; what was lent from outside the pool (fallbacks) is in use as well."""
    items_limit: int
    """How many the pool keeps at most."""
    item_bytes: int
    """Bytes of memory that the pool itself holds, idle or lent. 0 for pools of objects."""
    waiters: int
    """Callers that wait now."""
    results: Mapping[str, int]
    """Calls of `get` by result: ``reused`` and ``created`` items of the pool, ``fallback`` (one from outside
    the pool), ``timeout``, ``refused`` (all in use, without a wait), ``closed`` (the pool or its manager
    is)."""
    waits: int
    """Calls of `get` that waited for an item to come back."""
    wait_seconds: float
    """Seconds that these calls waited, in all."""
    get_wait: Histogram
    """Seconds from the call of `get` until it returned. An item that was taken at once counts as 0."""
    losses: Mapping[str, int]
    """Items that left the pool, by reason."""
    dropped: int
    """Loans that came back because their handle was garbage-collected, not closed. The manager reports each
    as a leak."""
    longest: Loan | None
    """The loan that has lasted longest."""
    guarded_bytes: int = 0
    """Bytes that came back and are inaccessible for a while (``BufferPool(guard=)``)."""

    @property
    def guarded(self) -> int:
        """How many buffers were made inaccessible as they came back."""
        return self.losses.get("guarded", 0)

    @property
    def fallbacks(self) -> int:
        """How often something plain was served instead of an item of the pool."""
        return self.results["fallback"]


@attrs.frozen(eq=False, repr=False)
class PoolReport(Value):
    """What closing a pool achieved."""

    name: str
    """The pool's name."""
    missing: tuple[Loan, ...]
    """What never came back, longest first. It is freed when its last holder drops it, and is not lent
    again."""

    @property
    def ok(self) -> bool:
        """True if everything had come back."""
        return not self.missing

    def __bool__(self) -> bool:
        """As `ok`."""
        return self.ok


@attrs.frozen(eq=False, repr=False)
class MemoryTypeStats(Value):
    """The figures of one type, or of all together."""

    bytes: int
    """Native bytes now."""
    objects: int
    """Objects now."""
    peak_bytes: int
    """The most bytes there were at one moment."""
    peak_objects: int
    """The most objects there were at one moment."""
    total_objects: int
    """Tracked since the beginning."""
    bytes_limit: int | None
    """The budget in bytes, None without one."""
    objects_limit: int | None
    """The budget in objects, None without one."""


@attrs.frozen(eq=False, repr=False)
class MemoryStats(Value):
    """The figures of a `MemoryManager` at one moment, exact for what is tracked through it."""

    name: str
    """The manager's name."""
    all: MemoryTypeStats
    """The figures of all types together."""
    types: Mapping[str, MemoryTypeStats]
    """The figures of each type, by its name."""
    waiting: int
    """Callers that wait for room now."""
    refused: int
    """Objects that were refused because there was no room."""
    reported: int
    """Objects taken over budget, by ``over="report"``."""
    pressure_runs: int
    """How often the pressure callbacks were run."""
    resident: int | None
    """Bytes of the process in physical memory, tracked or not; None where that cannot be known."""


@attrs.frozen(eq=False, repr=False)
class ReceiverStats(Value):
    """One receiver's figures at one moment.

    For every receiver, group and distributor ``published == received + missed + lag``, whatever races and
    interrupts there were: a receiver's three figures and its position change in one step.
    """

    name: str
    """The receiver's name, empty without one."""
    group: str
    """The group that it subscribed in."""
    published: int
    """Frames published since it subscribed (until it closed)."""
    received: int
    """Frames that it got."""
    missed: int
    """Frames it will never get: overwritten, skipped, shut by their owner before it came to them, or unread
    when it closed."""
    lags: int
    """How often it was found to have fallen behind."""
    lag: int
    """Frames published and neither received nor missed yet."""
    ended: str
    """Why it ended, empty while it is open."""


@attrs.frozen(eq=False, repr=False)
class GroupStats(Value):
    """The figures of all receivers of one group, those that are gone included."""

    group: str
    """The group's name."""
    receivers: int
    """Open receivers now."""
    published: int
    """Frames published to its receivers, summed."""
    received: int
    """Frames received, summed."""
    missed: int
    """Frames missed, summed."""
    lag: int
    """The largest lag in the group now."""
    evictions: int
    """Receivers that were thrown out by `EvictAfter`."""


@attrs.frozen(eq=False, repr=False)
class DistributorStats(Value):
    """A distributor's figures at one moment."""

    name: str
    """The distributor's name."""
    capacity: int
    """The slots of its ring."""
    published: int
    """Frames published."""
    held: int
    """Frames that it keeps now: at most `capacity`, and the overwritten key frames that `KeepKeyFrames` asks
    for."""
    receivers: int
    """Open receivers now."""
    closed: bool
    """True if it is closed."""
    close_failures: int
    """Shares whose ``close()`` raised."""
    groups: Mapping[str, GroupStats]
    """The figures of each group, by its name."""


@attrs.frozen(eq=False, repr=False)
class ObjectStats(Value):
    """The figures of an `ObjectLifecycleManager`, for code that shows components."""

    objects: int
    """Registered here and not ended."""
    names: int
    """Different names among them."""


@attrs.frozen(eq=False, repr=False)
class TimelineStats(Value):
    """A timeline's figures at one moment."""

    name: str
    """The timeline's name."""
    in_flight: int
    """Submissions that have begun and not ended."""
    oldest: float
    """Unix time at which the oldest of them was begun, 0.0 when there is none."""
    ends: Mapping[str, int]
    """Submissions that ended, ever: ``signalled`` or ``lost``."""
    waits: int
    """Calls of `Timeline.wait` that found something in flight."""


@attrs.frozen(eq=False, repr=False)
class TypeProfile(Value):
    """Where the time of one type's objects went, while the profiler ran. All durations in seconds."""

    type_name: str
    """The type's name, as registered."""
    life: Histogram
    """From registration to the end, of objects that have ended."""
    held: Histogram
    """Leases, and calls of ``safe_access(target, fn)``."""
    wait: Histogram
    """From the door shut until the release began: other holders, and the queue of its place."""
    release: Histogram
    """The release with its cleanups."""
