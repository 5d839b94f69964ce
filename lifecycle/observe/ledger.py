"""Counting: what happened becomes figures, by one writer.

Everything that is to be counted goes as an event into one mailbox (`Registry.events`, a deque that any
thread, callback or handler can append to), and only whoever holds the keeper's role counts: the keeper, and
any thread that asks or registers. Registrations and ends have a mailbox each (`entered`, `ended`), into which
the record itself goes: it is marked as counted, so a lost or doubled event changes no figure (I7).

**Plain ends.** Most objects are registered, closed and released between two counts. `Handle.close` knows such
an end and puts it into a mailbox of its own (`plain_ends`). It needs no event and no mark: a batch of them
gives new totals, which replace the old by one store.

**An interrupt strikes here too**, since threads of the program count. So every step can be taken up again
(K7). What is taken out of a mailbox is in a list of the ledger before anything can raise, and leaves it when
it is counted. The figures of one record or event change together with its mark, with no call in between (K4).
Observers are told before that: rather twice than never.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice, repeat, starmap, takewhile
from operator import attrgetter
from typing import Any, TypeVar

from lifecycle._core import runtime
from lifecycle._core.access import invalidate_record
from lifecycle._core.counters import HistogramCount, PlainTotals
from lifecycle._core.describe import info_of
from lifecycle._core.doors import cell_of, lives
from lifecycle._core.record import ENDED_TOO, LISTED, PLAIN, REGISTERED, DoorRef, ObservedRef, Record, shut
from lifecycle._core.tables import ObjectType, Registry
from lifecycle.events import event_of
from lifecycle.observe.leaks import LeakReports
from lifecycle.observe.observers import Observer
from lifecycle.states import BY_DROP, ENDED, FAILED, POISONED, RELEASED, STUCK, Cause, ObjectState
from lifecycle.stats import ObjectInfo

T = TypeVar("T")

_kind_of = attrgetter("kind")
_id_of, _ended_of = attrgetter("id"), attrgetter("ended")


def _move(mailbox: deque[Record], into: list[Record], most: int | None = None) -> None:
    """Move what is in `mailbox` now. Others go on appending; only the counting thread takes. One call: each
    is in the one or in the other."""
    number = len(mailbox) if most is None else min(len(mailbox), most)
    into.extend(_first_of(mailbox, number))


def _first_of(mailbox: deque[T], number: int) -> Iterator[T]:
    """Take the first `number` out of `mailbox`, each when it is asked for. In C, and without the comparison
    that ``iter(mailbox.popleft, None)`` makes for each."""
    return starmap(mailbox.popleft, repeat((), number))


GLANCE = 512
"""Registrations of objects that have not ended which a registering thread looks through at most: more are the
keeper's."""
TOLD_ONE_BY_ONE = 8
"""Ends of one kind, for one reason and at one time, that are told one by one; more are told together."""
FAILED_KEPT = 1000
"""Of so many failed releases, the latest, the facts are kept for the report at the end of the manager."""
LOOKS = 3
"""How often a door that seems to live, but is not found, is looked for outside a collection: each time looks
through the heap."""


class Ledger:
    """The figures of one manager. One thread at a time writes them, the one that holds the keeper's role."""

    def __init__(self, registry: Registry, observer: Observer) -> None:
        self.registry = registry
        self.observer = observer
        self.late: int = 0
        self.other_failures: int = 0
        self.plain: dict[ObjectType, PlainTotals] = {}
        """What plain ends came to so far. Never changed but replaced."""
        # Taken out of the mailboxes of the registry and not counted yet.
        self._entered: list[Record] = []
        self._plain: list[Record] = []
        self._ended: list[Record] = []
        self._event: Any = None
        self._next_events = iter(registry.events.popleft, None)
        # Counted ends in their order: they are forgotten in their turn. Those that came late are put in
        # later.
        self._expiring: deque[Record] = deque()
        self._unsorted: list[Record] = []
        self._in_turn: list[Record] = []  # of the plain ends in hand: those that are among them already
        self._any_failed = False  # whether any of them may have failed; then it stays so
        self.leaks: LeakReports = LeakReports(registry, self._tell)
        self.profiler: Any = None  # profiling.Profiler, while one runs
        self.failed: deque[ObjectInfo] = deque(maxlen=FAILED_KEPT)
        """Failed releases whose records are forgotten: for the report at the end."""
        self._began = runtime.monotonic()
        self._telling = False
        self._in_doubt: dict[int, int] = {}  # by id: how often it was looked at

    def count_all(self) -> int:
        """Count everything that had happened when this began; how much that was."""
        registry = self.registry
        self._telling = bool(self.observer.hooks)
        if self._in_doubt:
            self._judge()
        number = registry.pending() + len(self._ended) + len(self._plain)
        # Ends are taken first, so that the registration and the events of each are at hand, and told last.
        _move(registry.ended, self._ended)
        _move(registry.entered, self._entered)
        self._count_entered([record for record in self._entered if record.outcome is not PLAIN])
        self._entered.clear()
        self._count_plain()
        self._count_events()
        self._count_ended()
        return number

    def count_here(self) -> None:
        """Count the plain ends: a registering thread's share."""
        entered = self._entered
        if len(entered) < GLANCE:
            _move(self.registry.entered, entered, GLANCE)
            entered[:] = [record for record in entered if record.outcome is not PLAIN]
        self._count_plain()
        self._expire_some()

    def _count_plain(self) -> None:
        """Count the plain ends that are marked as such, with their registrations. Those of which an event was
        made, or is to be made, go the way of all others."""
        batch = self._plain
        _move(self.registry.plain_ends, batch)
        if not batch or self._count_sums(batch):
            return
        others = self._not_plain(batch)
        if others:
            # The mark comes a moment after the end was told: those are left for the next time.
            early = {record.id for record in others if record.outcome is not PLAIN}
            left = set(map(_id_of, others))
            fresh = [record for record in batch if record.id not in left]
            left -= early
            self._ended.extend([record for record in others if record.id in left])
            batch[:] = [record for record in batch if record.id not in left]
        else:
            early = set()
            fresh = list(batch)
        in_turn = fresh
        if self._in_turn:
            known = set(map(_id_of, self._in_turn))
            in_turn = [record for record in fresh if record.id not in known]
        both = self._in_turn + in_turn
        # K4. All types in one, in their order: the oldest are forgotten first.
        self._expiring += in_turn
        self._in_turn = both
        kinds = set(map(_kind_of, fresh))
        for kind in kinds:
            ours = fresh if len(kinds) == 1 else [record for record in fresh if record.kind is kind]
            rest = [record for record in batch if record.kind is not kind or record.id in early]
            self._count_plain_of(kind, ours, rest)
        self._in_turn = []

    def _count_sums(self, batch: list[Record]) -> bool:
        """Count the whole of `batch` in one step, where each is plain and nobody has counted or was told of
        any before; False where that is not so, and then nothing has changed."""
        if self._in_turn or self._ended or self.leaks.alarmed or self._each_is_told():
            return False
        kinds = {record.kind for record in batch}
        uncounted = [record for record in batch if record.outcome is PLAIN and not record.counted]
        if len(uncounted) < len(batch) or [kind for kind in kinds if kind.count.shut]:
            return False
        totals = self.plain.copy()
        for kind in kinds:
            before = totals.get(kind) or PlainTotals.none(kind.count.duration.bounds)
            totals[kind] = before.plus([rec.ended - rec.begun for rec in batch if rec.kind is kind])
        # K4. All types in one, in their order: the oldest are forgotten first.
        self._expiring += batch
        self.plain = totals
        batch[:] = ()
        return True

    def _each_is_told(self) -> bool:
        """Return True if somebody is told of each end."""
        config = self.registry.config
        return bool(
            self.observer.hooks
            or self.profiler is not None
            or config.log_state_changes
            or config.log_finalizers
        )

    def _not_plain(self, batch: list[Record]) -> list[Record]:
        """Those of `batch` that a sum is not enough for."""
        if self._each_is_told():
            return batch
        others = [record for record in batch if record.outcome is not PLAIN]
        alarmed = self.leaks.alarmed
        # Whose closing was counted, and who is there already after an interrupt.
        if alarmed or any(kind.count.shut for kind in set(map(_kind_of, batch))):
            others += [rec for rec in batch if rec.id in alarmed or rec.id in rec.kind.count.shut]
        if self._ended:
            ids = set(map(_id_of, self._ended))
            others += [record for record in batch if record.id in ids]
        return others

    def _count_plain_of(self, kind: ObjectType, ours: list[Record], rest: list[Record]) -> None:
        """Count the plain ends of one type; `rest` is what is left of the batch. Where somebody counted while
        they lived, their registrations move to the totals of plain ends."""
        count, living = kind.count, kind.count.living
        before = self.plain.get(kind) or PlainTotals.none(count.duration.bounds)
        after = before.plus([record.ended - record.begun for record in ours])
        totals = {**self.plain, kind: after}
        known = listed = freed = 0
        sizes = [record.size if record.counted == LISTED else -1 for record in ours if record.counted]
        if sizes:
            known = len(sizes)
            listed = known - sizes.count(-1)
            freed = sum(sizes) + sizes.count(-1)
        batch = self._plain
        # K4
        self.plain = totals
        count.registered -= known
        count.bytes -= freed
        living.gone += listed
        batch[:] = rest

    def _count_events(self) -> None:
        events = self.registry.events
        for _ in range(len(events) + (self._event is not None)):
            if self._event is None:
                for self._event in self._next_events:  # noqa: B020 - K2
                    break
            self._count_one(self._event)

    def _count_one(self, event: Any) -> None:
        """Count the event in hand. One that cannot be is told as `observer_failed`, and costs no other
        anything. Its figures change together with ``self._event = None``, which says that it is counted."""
        try:
            self._count_event(event)
        except Exception as error:
            self.observer.tell_failure(error)
        self._event = None

    def _count_event(self, event: Any) -> None:
        if type(event) is ObservedRef:
            observed = self.registry.records.get(event.id)
            if observed is not None:
                invalidate_record(observed, Cause.OWNER, "its owner let it go", None)
            return
        if type(event) is not DoorRef:
            getattr(self, f"_on_{event[0]}")(*event[1:])
            return
        record = self.registry.records.get(event.id)
        if record is not None and not self._judged(record, 0):
            self._in_doubt[record.id] = 1

    def _judge(self) -> None:
        """Look again after the doors that the collector had reported when it was too early to say what became
        of them."""
        for id, looks in list(self._in_doubt.items()):
            record = self.registry.records.get(id)
            if record is None or self._judged(record, looks):
                del self._in_doubt[id]
            elif not runtime.collecting:
                self._in_doubt[id] = looks + 1

    def _judged(self, record: Record, looks: int) -> bool:
        """Decide about an object whose last handle is said to be gone; False when that cannot be known yet.
        In a garbage cycle it is said before ``__del__`` has run, which may close the handle, or save it
        (`_core/doors.py`)."""
        if record.phase in ENDED:
            return True
        if lives(record) and looks < LOOKS:
            cell = cell_of(record)
            if cell is None:
                return False
            if record.cause is not None:  # shut while it could not be found
                shut(record, cell, record.cause, None)
            cell = None
            return True
        if record.cause is None or record.cause is BY_DROP:
            shut(record, None, BY_DROP, None)
            self._note_shut(record)
        return True

    def _count_entered(self, records: list[Record]) -> None:
        telling = self._telling or self.registry.config.log_state_changes
        for record in records:
            if record.counted:
                continue
            if telling:
                self._tell("registered", record)
            count = record.kind.count
            listed = count.living.newest().append
            # K4, in both branches. What has ended, or is about to, never appears among the live ones.
            if record.phase is None:
                count.registered += 1
                count.bytes += record.size
                record.counted = LISTED
                listed(record)
            else:
                count.registered += 1
                record.counted = REGISTERED

    def _count_ended(self) -> None:
        ended = self._ended
        if not ended and self.profiler is None:
            return
        # One may be there twice, after an interrupt.
        fresh = list({record.id: record for record in ended if record.counted != ENDED_TOO}.values())
        self._count_entered(fresh)  # those whose registration was interrupted before it was told
        self._tell_ends([record for record in fresh if record.phase is not RELEASED])
        self.leaks.ended(fresh)
        profiler = self.profiler
        if profiler is not None:
            profiler.ended(fresh)
        if self._telling or self.registry.config.log_finalizers:
            for record in fresh:
                if record.phase is RELEASED:
                    self._tell("released", record, **self._ending(record))
        for record in fresh:
            self._count_end(record)
        self._retain()
        ended.clear()

    def _count_end(self, record: Record) -> None:
        kind, id, phase = record.kind, record.id, record.phase
        count, living = kind.count, kind.count.living
        cause = record.cause or BY_DROP
        shut = count.shut
        known = id in shut  # its closing was counted when the door was shut
        poisoned = known and shut[id]
        leak = not known and cause is BY_DROP and self.leaks.leaked(record)
        listed = record.counted == LISTED
        freed = record.size if listed else 0
        failure = "timeout" if phase is STUCK else record.more().failure if phase is FAILED else ""
        failures = count.failures if failure else _UNCOUNTED
        took = record.ended - record.begun if record.begun else 0.0
        durations = count.duration if record.begun else _NO_TIMES
        took_bucket = bisect_left(durations.bounds, took)
        # Who has dropped it may be noted only once its release has begun.
        waited = max(0.0, record.begun - record.shut) if record.begun and record.shut else 0.0
        waits = count.wait if record.begun and record.shut else _NO_TIMES
        waited_bucket = bisect_left(waits.bounds, waited)
        # Those that are stuck stay, with all they hold.
        retain = (_FORGOTTEN if phase is STUCK else self._unsorted).append
        self._any_failed = self._any_failed or phase is FAILED
        # K4
        count.bytes -= freed
        living.gone += listed
        count.invalid -= poisoned
        count.ended[phase] += 1  # type: ignore[index]
        count.closed[cause] += not known
        count.leaks += leak
        failures[failure] += 1
        durations.counts[took_bucket] += 1
        durations.sum += took
        waits.counts[waited_bucket] += 1
        waits.sum += waited
        record.counted = ENDED_TOO
        shut[id] = False
        del shut[id]
        retain(record)

    def _tell_ends(self, records: list[Record]) -> None:
        """Tell of ends that are no plain releases: one by one, or in one event where many ended alike at
        once, as in a forked child or with a lost queue."""
        alike: dict[tuple[str, str, str], list[Record]] = {}
        for record in records:
            reason = record.extra.reason if record.extra is not None else ""
            alike.setdefault((str(record.phase), str(record.cause or BY_DROP), reason), []).append(record)
        for (phase, cause, reason), group in alike.items():
            if len(group) <= (1 if cause == Cause.FORK else TOLD_ONE_BY_ONE):
                for record in group:
                    self._tell(phase, record, **self._ending(record))
                continue
            types = Counter(record.kind.type_name for record in group)
            text = ", ".join(f"{number} of type {name}" for name, number in types.most_common())
            fields = {"cause": cause, "reason": reason, "count": len(group), "types": text}
            self._tell_with(phase, None, fields, group[0].kind if len(types) == 1 else None)

    @staticmethod
    def _ending(record: Record) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "cause": str(record.cause or BY_DROP),
            "duration": record.ended - record.begun if record.begun else 0.0,
        }
        extra = record.extra
        if extra is not None:
            fields["reason"] = extra.reason
            if extra.trace:
                fields["traceback"] = extra.trace
        return fields

    def _note_shut(self, record: Record) -> None:
        """A door was shut and the object has not ended yet."""
        count = record.kind.count
        if record.outcome is PLAIN:
            return  # it has ended since, and is counted with that
        if not record.counted:
            if record.id not in self.registry.records:
                return  # a component that was closed while its manager was
            self._count_entered([record])
        if record.counted == ENDED_TOO or record.id in count.shut:
            return
        id = record.id
        cause = record.cause or BY_DROP
        poisoned = cause in POISONED
        leak = cause is BY_DROP and self.leaks.leaked(record)
        if self.registry.config.log_state_changes or self.observer.hooks:
            self._tell("closed", record, cause=str(cause))
        # K4
        count.shut[id] = poisoned
        count.invalid += poisoned
        count.closed[cause] += 1
        count.leaks += leak

    # Events that are tuples: the name after `_on_` is their first item.

    def _on_shut(self, record: Record) -> None:
        self._note_shut(record)

    def _on_refused(self, kind: ObjectType, state: ObjectState) -> None:
        kind.count.refused[state] += 1
        self._event = None

    def _on_panic(self, kind: ObjectType, record: Record | None, reason: str, trace: str) -> None:
        self._tell_with("panic", record, {"reason": reason, "traceback": trace}, kind)
        kind.count.panics += 1
        self._event = None

    def _on_error(self, kind: ObjectType, record: Record | None, reason: str) -> None:
        if self.registry.config.log_state_changes or self.observer.hooks:
            self._tell_with("error", record, {"reason": reason}, kind)
        kind.count.errors += 1
        self._event = None

    def _on_retry(self, record: Record, reason: str) -> None:
        if self.registry.config.log_finalizers or self.observer.hooks:
            self._tell("retry", record, reason=reason)
        record.kind.count.retries += 1
        self._event = None

    def _on_cleanup_failed(self, record: Record, reason: str, trace: str) -> None:
        self._tell("failed", record, reason=f"a cleanup raised {reason}", traceback=trace)
        self.other_failures += 1
        self._event = None

    def _on_finalizer_failed(self, type_name: str, reason: str, trace: str) -> None:
        fields = {"reason": f"a safe finalizer raised {reason}", "traceback": trace}
        self._tell_with("failed", None, fields, None, type_name)
        self.other_failures += 1
        self._event = None

    def _on_late(self, record: Record, reason: str) -> None:
        self._tell("late", record, reason=reason)
        retain = (_FORGOTTEN if reason else self._unsorted).append
        self.late += 1
        self._event = None
        retain(record)

    def _on_told(self, kind: str, fields: dict[str, Any]) -> None:
        self._tell_with(kind, None, fields)

    def _tell(self, event: str, record: Record | None, /, **fields: Any) -> None:
        self._tell_with(event, record, fields)

    def _tell_with(
        self,
        event: str,
        record: Record | None,
        fields: dict[str, Any],
        kind: ObjectType | None = None,
        type_name: str = "",
    ) -> None:
        """Tell observers and the log. The names of `fields` are the program's own business."""
        if not self.observer.hooks and not self.observer.logs(event):
            return
        kind = record.kind if record is not None else kind
        self.observer.emit(
            event_of(
                event,
                fields,
                manager=self.registry.name,
                id=record.id if record is not None else 0,
                type_name=kind.type_name if kind is not None else type_name,
                name=record.name if record is not None else None,
                time=runtime.wall_time(),
                source=record if event == "leak" else None,
            )
        )

    def unreleased(self) -> list[ObjectInfo]:
        """The releases that failed or got stuck so far and did not come back, the oldest first."""
        ended = [
            info_of(record)
            for record in runtime.snapshot(self.registry.records.values())
            if record.phase in (FAILED, STUCK) and record.ended >= self._began
        ]
        # By id: what an interrupt struck while it was being forgotten stands in both, or twice in the first.
        return list({info.id: info for info in [*runtime.snapshot(self.failed), *ended]}.values())

    def after_fork(self) -> None:
        """In the child: what failed before is the parent's."""
        self.failed.clear()
        self.leaks.after_fork()
        self._began = runtime.monotonic()

    def trim(self) -> None:
        """Have the oldest live object of each type stand first, so that figures find it at once."""
        for kind in runtime.snapshot(self.registry.kinds.values()):
            kind.count.living.trim()

    def sweep(self) -> None:
        """Forget some of what has ended among the records of live objects. By the keeper alone."""
        for kind in runtime.snapshot(self.registry.kinds.values()):
            kind.count.living.sweep()

    # -- retention -------------------------------------------------------------------------------------------

    def _retain(self) -> None:
        """Have what was counted last forgotten in its turn. Plain ends that came later may have been counted
        before it: they are put behind it."""
        fresh = self._unsorted
        if not fresh:
            return
        oldest = min(map(_ended_of, fresh))
        before = takewhile(oldest.__lt__, map(_ended_of, reversed(self._expiring)))
        fresh.extend(islice(iter(self._expiring.pop, None), sum(1 for _ in before)))
        fresh.sort(key=_ended_of)
        # K4
        self._expiring += fresh
        fresh[:] = ()

    def _expire_some(self) -> None:
        """Forget the oldest where more have ended than are retained."""
        number = len(self._expiring) - self.registry.config.max_retained
        if number > 0:
            if self._any_failed:
                # One call, since they are more than all else that is looked at here. Only who counts changes
                # them.
                gone = list(islice(self._expiring, number))
                self.failed.extend([info_of(record) for record in gone if record.phase is FAILED])
            ids = map(_id_of, _first_of(self._expiring, number))
            deque(map(self.registry.records.pop, ids, repeat(None)), 0)

    def expire(self) -> None:
        """Forget ended objects whose retention is over."""
        self._retain()
        self._expire_some()
        expiring = self._expiring
        old = runtime.monotonic() - self.registry.config.state_retention
        records = self.registry.records
        while expiring and expiring[0].ended < old:
            if expiring[0].phase is FAILED:
                self.failed.append(info_of(expiring[0]))
            records.pop(expiring[0].id, None)
            expiring.popleft()


_UNCOUNTED = {"": 0}
"""Stands for the failures of what has not failed: what has no branch has no jump, at which 3.10 lets
interrupts in."""
_NO_TIMES = HistogramCount(())
"""Stands for the histograms of what never began."""
_FORGOTTEN: deque[Record] = deque(maxlen=0)
"""Stands for the list of what is retained."""
