"""Leak detection in production: no false alarm, and cheap enough to be always on.

Two detectors have opposite errors. This one speaks only of what is certain – a handle that was collected
unclosed, an object past the ``max_age`` of its type – and may not know where that was made: sites are
sampled. The other, `lifecycle.testing`, looks at every object a test leaves behind, and takes for a leak what
may only be late.

**Levels**, by `SafetyConfig.leak_level` or ``LIFECYCLE_LEAK_LEVEL``:

- ``off``: nothing is noted or reported (held-too-long alarms still are: they are asked for by a policy).
- ``simple``: the sites of the first `SITES` registrations of each type, and of one in 64 after that.
- ``detailed``: the site of every registration, and the last 4 accesses of each object.
- ``paranoid``: the same with the last 32.

An access is noted by the way that validators take, so at the lower levels it costs nothing. Views are not
accesses here.

**Reports** are limited to one per site and second; what was held back is told with the next one, or at the
latest a second later or when the manager's threads end, with its count. An alarm about an object held too
long is withdrawn by a ``returned`` event when it ends.

Everything here but `note_access` and `warn_of_leak` is called by the one who counts (`ledger.py`).
"""

from __future__ import annotations

import functools
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, takewhile
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.budget import Budget
from lifecycle._core.dropped import collect
from lifecycle._core.holders import raw_references
from lifecycle._core.record import ENDED_TOO, Record
from lifecycle._core.selfkept import keeps_itself
from lifecycle._core.tables import ObjectType, Registry
from lifecycle.events import Event, Leak
from lifecycle.states import ENDED, RELEASED

SITES = {"off": (-1, 0), "simple": (63, 16), "detailed": (0, 0), "paranoid": (0, 0)}
"""By level: the sites of a type's first registrations are kept (second figure), and of one in 64, none or all
after that."""
HISTORY = {"off": 0, "simple": 0, "detailed": 4, "paranoid": 32}
"""By level: how many of an object's last accesses are kept."""
REPORT_EVERY = 1.0
"""Seconds between two reports about the same site."""
SITES_KEPT = 1000
"""Of so many sites it is known when they were last reported, before those that may be reported again are
forgotten."""
KEEPS_ITSELF_AFTER = 1.0
"""Seconds after which an object is looked at for whether nothing but itself keeps its handle: once soon, so
that a report comes while the program is being tried, and then in each round."""
YOUNG = 1000
"""How many of the newest objects of a type are looked at soon."""
WALK_EVERY, LOOK_TWICE = 30.0, 1.0
"""Seconds between two rounds of that, and between the two looks that have to agree."""
WALK_SLICE, WALK_SHARE = 0.005, 0.01
"""Seconds that a slice of a round takes, and the share of the time that all of them may take."""
KEPT_FOR = 1.0
"""Seconds after which it is reported that others refer to what was closed and is released by its own
deallocation."""
UNCLOSED = "dropped without close()"
"""The reason of a leak whose last handle was collected, as the log shows it."""
LOOK_EVERY = (0.05, 5.0)
"""Seconds between two looks for what is held too long: a quarter of the shortest ``max_age``, within these.
"""


def arm(kind: ObjectType, level: str) -> None:
    """Have `kind` note what `level` asks for."""
    kind.site_mask, kind.first_sites = SITES[level]
    if HISTORY[level]:
        kind.note = functools.partial(note_access, HISTORY[level])
    kind.timer = kind.registry.timer
    kind.watch()


def note_access(limit: int, record: Record) -> None:
    """Note that `record` is accessed here and now. Callable on any thread and at any moment."""
    extra = record.more()
    accesses = extra.accesses
    if accesses is None:
        accesses = extra.accesses = deque(maxlen=limit)
    accesses.append((runtime.get_ident(), runtime.monotonic(), runtime.site_of(runtime.caller(3))))


def accesses_of(record: Record) -> tuple[str, ...]:
    """The last accesses of an object in words, the latest first."""
    extra = record.extra
    if extra is None or extra.accesses is None:
        return ()
    now = runtime.monotonic()
    return tuple(
        f"{runtime.describe_site(site)} on thread {runtime.thread_name(thread)}, {now - at:.3f} s ago"
        for thread, at, site in reversed(runtime.snapshot(extra.accesses))
    )


def _may_keep_itself(record: Record, now: float) -> bool:
    return (
        record.owning > 0
        and record.cause is None
        and record.phase is None
        and now - record.born >= KEEPS_ITSELF_AFTER
    )


class LeakReports:
    """What is reported of one manager's leaks, and how often."""

    def __init__(self, registry: Registry, tell: Callable[..., None]) -> None:
        self.registry = registry
        self.emit = tell
        self._told: dict[tuple[str, Any], float] = {}  # when last, by kind of report and site
        self._held_back: dict[tuple[str, Any], tuple[Record, int]] = {}
        self.alarmed: dict[int, None] = {}
        """The ids of objects whose alarm was raised and not withdrawn."""
        self._next_look = 0.0
        self._walk: Iterator[int] = iter(())  # the ids of what is still to be looked at for that
        self._next_walk = runtime.monotonic() + WALK_EVERY
        self._young: deque[int] = deque(maxlen=10 * YOUNG)  # the ids of what is to be looked at soon
        self._looks = Budget(0.5, WALK_SHARE)
        self._next_young = self._born_before = 0.0  # what is older than that was young before
        self._suspects: dict[int, float] = {}  # what seems to keep itself alive, and since when
        self._own_keepers: dict[int, None] = {}  # what was reported for it

    def leaked(self, record: Record) -> bool:
        """A handle was collected unclosed: report that. True when it is to be counted as a leak."""
        if self.registry.config.leak_level == "off" or record.owning <= 0:
            return False
        if record.extra is not None and record.extra.quiet:
            return False
        self._report("leak", record)
        return True

    def ended(self, records: Iterable[Record]) -> None:
        """Objects have ended: withdraw their alarms."""
        if not self.alarmed:
            return
        for record in records:
            if record.id in self.alarmed:
                self.emit("returned", record, held=record.ended - record.born)
                self.alarmed.pop(record.id, None)

    def look(self) -> None:
        """Look for what is held too long, and tell what was held back."""
        now = runtime.monotonic()
        if self._held_back:
            self.tell_held_back(now - REPORT_EVERY)
        if self.registry.still:
            self._look_at_kept(now)
        if self.registry.config.leak_level != "off":
            if self._suspects:
                self._look_again(now)
            self._look_at_young(now)
            if now >= self._next_walk:
                self._look_within(now)
        if now < self._next_look:
            return
        ages = []
        for kind in runtime.snapshot(self.registry.kinds.values()):
            max_age = kind.max_age
            if max_age is None:
                continue
            ages.append(max_age)
            before = now - max_age
            for record in takewhile(lambda record, before=before: record.born < before, kind.count.living):  # type: ignore[misc]
                if (
                    record.id not in self.alarmed
                    and record.counted != ENDED_TOO
                    and record.phase not in ENDED
                ):
                    self.alarmed[record.id] = None
                    self._report("held_too_long", record)
        self._next_look = now + min(max(min(ages, default=1.0) / 4, LOOK_EVERY[0]), LOOK_EVERY[1])

    def _look_again(self, now: float) -> None:
        """Report what seemed to refer to its own handle, and does so still."""
        for id, since in list(self._suspects.items()):
            if now - since >= LOOK_TWICE:  # a second time, since others may have changed things meanwhile
                del self._suspects[id]
                record = self.registry.records.get(id)
                way = keeps_itself(record) if record is not None and _may_keep_itself(record, now) else ""
                if record is not None and way:
                    self._own_keepers[id] = None
                    site = runtime.describe_site(record.site)
                    reason = f"refers to its own handle through {way}, so that handle is never dropped"
                    self.emit("leak", record, site=site, count=1, reason=reason)

    def _look_at_young(self, now: float) -> None:
        """Look at objects that have just become old enough to refer to their own handles, for a slice of
        time."""
        if now >= self._next_young:
            self._next_young = now + LOOK_TWICE
            until = now - KEEPS_ITSELF_AFTER
            for kind in runtime.snapshot(self.registry.kinds.values()):
                for record in islice(reversed(kind.count.living), YOUNG):
                    if record.born < self._born_before:
                        break
                    if record.born < until and _may_keep_itself(record, now):
                        self._young.append(record.id)
            self._born_before = until
        if not self._young or not self._looks.allows():
            return
        began = runtime.monotonic()
        while self._young and runtime.monotonic() - began < 2 * WALK_SLICE:
            id = self._young.popleft()
            found = self.registry.records.get(id)
            if found is not None and _may_keep_itself(found, now) and keeps_itself(found):
                self._suspects.setdefault(id, now)
        self._looks.spend(began)

    def _look_within(self, now: float) -> None:
        """Look for objects that refer to their own handles, for a slice of time."""
        began = runtime.monotonic()
        for id in self._walk:
            record = self.registry.records.get(id)
            if record is None or id in self._own_keepers or not _may_keep_itself(record, now):
                continue
            if keeps_itself(record):
                self._suspects.setdefault(id, now)
            if runtime.monotonic() - began > WALK_SLICE:
                self._next_walk = now + (runtime.monotonic() - began) / WALK_SHARE
                return
        ids = runtime.snapshot(self.registry.records)
        self._walk = iter(ids)
        known = frozenset(ids)
        self._own_keepers = {id: None for id in self._own_keepers if id in known}
        self._next_walk = now + WALK_EVERY

    def _look_at_kept(self, now: float) -> None:
        """Report what has been closed for long, and others still refer to it."""
        for record in runtime.snapshot(self.registry.still.values()):
            dropped = record.more().dropped
            if dropped.told is None and now - dropped.since >= KEPT_FOR and record.phase not in ENDED:
                if not dropped.asked:  # perhaps only garbage refers to it
                    dropped.asked = True
                    collect()
                    continue
                dropped.told = tuple(map(str, raw_references(record, True)))
                self.emit("kept", record, site=runtime.describe_site(record.site), holders=dropped.told)

    def tell_held_back(self, before: float = float("inf")) -> None:
        """Tell what was held back at the sites last reported `before` then (monotonic): all by default, for
        there may be no later."""
        now = runtime.monotonic()
        for key, (record, count) in list(self._held_back.items()):
            if self._told[key] <= before:
                del self._held_back[key]
                self._told[key] = now
                self._tell(key[0], record, count)

    def after_fork(self) -> None:
        """In the child: what was held back is the parent's to tell."""
        self._held_back.clear()

    def _report(self, kind: str, record: Record) -> None:
        key = (kind, record.site or record.kind.type_name)
        now = runtime.monotonic()
        if now - self._told.get(key, -REPORT_EVERY) < REPORT_EVERY:
            _, count = self._held_back.get(key, (record, 0))
            self._held_back[key] = (record, count + 1)
            return
        _, count = self._held_back.pop(key, (record, 0))
        if len(self._told) >= SITES_KEPT:  # code that is made as the program runs has ever new sites
            self._told = {
                site: when
                for site, when in self._told.items()
                if now - when < REPORT_EVERY or site in self._held_back
            }
        self._told[key] = now
        self._tell(kind, record, count + 1)

    def _tell(self, kind: str, record: Record, count: int) -> None:
        fields: dict[str, Any] = {"site": runtime.describe_site(record.site), "count": count}
        accesses = accesses_of(record)
        if accesses:
            fields["accesses"] = accesses
        if kind == "leak":
            fields["reason"] = UNCLOSED
        else:
            fields["age"] = runtime.monotonic() - record.born
        self.emit(kind, record, **fields)


def warn_of_leak(event: Event) -> None:
    """Leaks are a `ResourceWarning` too, so that whoever turns warnings on, or into errors, sees them: at the
    line that made the object where that is known, and with ``source=``, so that `tracemalloc` tells the whole
    way there."""
    if not isinstance(event, Leak) or not event.id:  # what is left at exit is in the log
        return
    if event.reason and event.reason != UNCLOSED:
        text = (
            f"{event.type_name} (object {event.id}{f', from {event.site}' if event.site else ''}) "
            f"{event.reason}. Close it, or let it refer to that weakly"
        )
        warnings.warn(text, ResourceWarning, stacklevel=2, source=event.source)
        return
    site, count, accesses = event.site, event.count or 1, event.accesses
    record = event.source
    component = isinstance(record, Record) and record.kind.component
    name = f' "{event.name}"' if event.name else ""
    made = f", from {site}" if site else ""
    gone = isinstance(record, Record) and record.phase is RELEASED
    if component:
        fate = "what it had opened has been ended" if gone else "what it had opened is ended"
    else:
        fate = "it has been released" if gone else "it is released at its place"
    text = (
        f"{event.type_name}{name} (object {event.id}{made}) was {UNCLOSED}; {fate}. Use `with`, "
        f"or close(){f' ({count - 1} more like it)' if count > 1 else ''}"
        f"{f'; last used at {accesses[0]}' if accesses else ''}"
    )
    made_at = record.site if isinstance(record, Record) else None
    if made_at is None:
        warnings.warn(text, ResourceWarning, stacklevel=2, source=record)
    else:
        warnings.warn_explicit(
            text, ResourceWarning, made_at[0].co_filename, runtime.line_of(made_at), source=record
        )
