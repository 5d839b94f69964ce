"""Counting: what happened becomes figures, by one writer.

Everything that is to be counted goes as an event into one mailbox (`Registry.events`, a deque that any
thread, callback or handler can append to), and only whoever holds the keeper's role counts. Registrations and
ends have a mailbox each (`entered`, `ended`), into which the record itself goes: it is marked as counted, so
a lost or doubled event changes no figure (I7). A scrape is an event too, a `Question`: it is answered in its
turn, after everything that was counted before it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.access import invalidate_record
from lifecycle._core.doors import cell_of, lives
from lifecycle._core.record import ENDED_TOO, LISTED, REGISTERED, DoorRef, ObservedRef, Record, shut
from lifecycle._core.tables import Kind, Registry
from lifecycle._core.waiting import Reply
from lifecycle.events import event_of
from lifecycle.observe.leaks import LeakReports
from lifecycle.observe.observers import Observer
from lifecycle.states import BY_DROP, ENDED, FAILED, POISONED, RELEASED, STUCK, Cause, ObjectState
from lifecycle.stats import SafetyStats

_kind_of = attrgetter("kind")
_end_of = attrgetter("kind", "phase", "cause")


def _take_all(mailbox: deque[Record]) -> list[Record]:
    """What is in `mailbox` now. Others go on appending; only the one who counts takes."""
    take = mailbox.popleft
    return [take() for _ in range(len(mailbox))]


TOLD_ONE_BY_ONE = 8
"""Ends of one kind, for one reason and at one time, that are told one by one; more are told together."""
LOOKS = 3
"""How often a door that seems to live, but is not found, is looked for outside a collection: each time looks
through the heap."""


class Question:
    """A scrape waiting for its answer."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer: Reply[SafetyStats] = Reply()


class Ledger:
    """The figures of one manager, and who writes them. One thread at a time, whoever holds the keeper's
    role."""

    def __init__(self, registry: Registry, observer: Observer, answer: Callable[[], SafetyStats]) -> None:
        self.registry = registry
        self.observer = observer
        self.answer = answer
        self.late = 0
        self.other_failures = 0
        self._expiring: deque[Record] = deque()
        self.leaks = LeakReports(registry, self._tell)
        self.profiler: Any = None  # profiling.Profiler, while one runs
        self._telling = False
        self._in_doubt: dict[int, int] = {}  # by id: how often it was looked at

    def count_all(self) -> int:
        """Count everything that had happened when this began; how much that was."""
        registry = self.registry
        self._telling = bool(self.observer.hooks)
        if self._in_doubt:
            self._judge()
        # Ends are taken first, so that the registration and the events of each are at hand, and told last.
        ended = _take_all(registry.ended)
        entered = _take_all(registry.entered)
        self._count_entered([record for record in entered if not record.counted])
        events = registry.events
        number = len(events)
        for _ in range(number):
            event = events.popleft()
            if type(event) is Question:
                self._count_ended(ended)
                ended = []
                self._count_records()  # what came in since, but before the question
                answer = self.answer()
                self.expire()  # first: whoever asks until all has ended finds what that frees gone as well
                event.answer.offer(answer)
            else:
                self._count_one(event)
        self._count_ended(ended)
        return len(ended) + len(entered) + number

    def _count_one(self, event: Any) -> None:
        """Count an event. One that cannot be is told as `observer_failed`, and costs no other anything."""
        try:
            self._count_event(event)
        except Exception as error:
            self.observer.tell_failure(error)

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
        if record.cause is None:
            shut(record, None, BY_DROP, None)
            self._note_shut(record)
        return True

    def _count_records(self) -> None:
        ended = _take_all(self.registry.ended)
        self._count_entered([record for record in _take_all(self.registry.entered) if not record.counted])
        self._count_ended(ended)

    def _count_entered(self, records: list[Record]) -> None:
        for kind, number in Counter(map(_kind_of, records)).items():
            kind.count.registered += number
        for record in records:
            if record.phase is None:
                record.counted = LISTED
                count = record.kind.count
                count.order.append(record)
                count.bytes += record.size
            else:  # it has ended, or is about to: it never appears among the live ones
                record.counted = REGISTERED
        if self._telling or self.registry.config.log_state_changes:
            for record in records:
                self._tell("registered", record)

    def _count_ended(self, records: list[Record]) -> None:
        fresh = []
        for record in records:
            counted = record.counted
            if counted != ENDED_TOO:
                if counted == LISTED:
                    count = record.kind.count
                    count.bytes -= record.size
                    count.gone += 1
                elif not counted:  # its registration was interrupted before it was told
                    self._count_entered([record])
                record.counted = ENDED_TOO
                fresh.append(record)
        for (kind, phase, cause), number in Counter(map(_end_of, fresh)).items():
            kind.count.ended[phase] += number
            kind.count.closed[cause or BY_DROP] += number
            if phase is not RELEASED or cause is None or cause is BY_DROP or kind.count.shut:
                self._look_closer([record for record in fresh if _end_of(record) == (kind, phase, cause)])
        self._tell_ends([record for record in fresh if record.phase is not RELEASED])
        for kind in set(map(_kind_of, fresh)):
            begun = [record for record in fresh if record.kind is kind and record.begun]
            kind.count.wait.add_all([record.begun - record.shut for record in begun if record.shut])
            kind.count.duration.add_all([record.ended - record.begun for record in begun])
            kind.count.compact()
        self.leaks.ended(fresh)
        profiler = self.profiler
        if profiler is not None:
            profiler.ended(fresh)
        # Those that are stuck stay, with all they hold.
        self._expiring.extend([record for record in fresh if record.phase is not STUCK])
        if self._telling or self.registry.config.log_finalizers:
            for record in fresh:
                if record.phase is RELEASED:
                    self._tell("released", record, **self._ending(record))

    def _look_closer(self, records: list[Record]) -> None:
        """Ends that are not a plain release after a plain close."""
        for record in records:
            count = record.kind.count
            if record.id in count.shut:
                count.invalid -= count.shut.pop(record.id)
                count.closed[record.cause or BY_DROP] -= 1  # that was counted when the door was shut
            elif record.cause is None or record.cause is BY_DROP:
                self.leaks.leaked(record)
            if record.phase is STUCK:
                count.failures["timeout"] += 1
            elif record.phase is FAILED:
                count.failures[record.more().failure] += 1

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
        if record.extra is not None:
            fields["reason"] = record.extra.reason
        return fields

    def _note_shut(self, record: Record) -> None:
        """A door was shut and the object has not ended yet."""
        count = record.kind.count
        if not record.counted:
            if record.id not in self.registry.records:
                return  # a component that was closed while its manager was
            self._count_entered([record])
        if record.counted == ENDED_TOO or record.id in count.shut:
            return
        cause = record.cause or BY_DROP
        poisoned = cause in POISONED
        count.shut[record.id] = poisoned
        count.invalid += poisoned
        count.closed[cause] += 1
        if cause is BY_DROP:
            self.leaks.leaked(record)
        if self.registry.config.log_state_changes or self.observer.hooks:
            self._tell("closed", record, cause=str(cause))

    # Events that are tuples: the name after `_on_` is their first item.

    def _on_shut(self, record: Record) -> None:
        self._note_shut(record)

    def _on_refused(self, kind: Kind, state: ObjectState) -> None:
        kind.count.refused[state] += 1

    def _on_panic(self, kind: Kind, record: Record | None, reason: str, trace: str) -> None:
        kind.count.panics += 1
        self._tell_with("panic", record, {"reason": reason, "traceback": trace}, kind)

    def _on_error(self, kind: Kind, record: Record | None, reason: str) -> None:
        kind.count.errors += 1
        if self.registry.config.log_state_changes or self.observer.hooks:
            self._tell_with("error", record, {"reason": reason}, kind)

    def _on_retry(self, record: Record, reason: str) -> None:
        record.kind.count.retries += 1
        if self.registry.config.log_finalizers or self.observer.hooks:
            self._tell("retry", record, reason=reason)

    def _on_cleanup_failed(self, record: Record, reason: str) -> None:
        self.other_failures += 1
        self._tell("failed", record, reason=f"a cleanup raised {reason}")

    def _on_finalizer_failed(self, type_name: str, reason: str) -> None:
        self.other_failures += 1
        self._tell_with("failed", None, {"reason": f"a safe finalizer raised {reason}"}, None, type_name)

    def _on_late(self, record: Record, reason: str) -> None:
        self.late += 1
        if not reason:
            self._expiring.append(record)
        self._tell("late", record, reason=reason)

    def _on_told(self, kind: str, fields: dict[str, Any]) -> None:
        self._tell_with(kind, None, fields)

    def _tell(self, event: str, record: Record | None, /, **fields: Any) -> None:
        self._tell_with(event, record, fields)

    def _tell_with(
        self,
        event: str,
        record: Record | None,
        fields: dict[str, Any],
        kind: Kind | None = None,
        type_name: str = "",
    ) -> None:
        """Tell observers and the log. The names of `fields` are the program's own business."""
        if not self.observer.hooks and not self.observer.logs(event):
            return
        kind = record.kind if record is not None else kind
        self.observer.tell(
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

    # -- retention -------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Forget ended objects whose retention is over."""
        expiring = self._expiring
        config = self.registry.config
        old = runtime.monotonic() - config.state_retention
        records = self.registry.records
        while expiring and (len(expiring) > config.max_retained or expiring[0].ended < old):
            records.pop(expiring.popleft().id, None)
