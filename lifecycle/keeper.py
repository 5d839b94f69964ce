"""The keeper: one thread per manager that counts, watches deadlines, retries, sweeps and answers.

**One writer.** Everything that is to be counted goes as an event into one mailbox (`Registry.events`, a deque that any thread,
callback or handler can append to), and the keeper alone counts. Registrations and ends have a mailbox each (`entered`, `ended`),
into which the record itself goes: the keeper marks it as counted, so a lost or doubled event changes no figure (I7). A scrape
is an event too: it is answered in its turn, after everything that was counted before it.

**Nothing slow in here.** Releases that nobody ran go to the timed workers, logging and hooks to the `Observer` thread behind a
bounded queue that drops and counts. So an observer that blocks for ever stops neither counts, nor sweeps, nor deadlines.

**Back-pressure.** `HIGH_WATER` events wake the keeper early; above `FULL` a registering thread yields to it, for a bounded time.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from lifecycle import _world
from lifecycle.cell import ENDED_TOO, LISTED, REGISTERED, DoorRef, Kind, Record, Registry
from lifecycle.events import Event
from lifecycle.observer import Observer
from lifecycle.queues import AnyThread, ReleaseQueue
from lifecycle.states import BY_DROP, ENDED, FAILED, POISONED, RELEASED, RELEASING, STUCK, ObjectState
from lifecycle.stats import QueueStats, SafetyStats, TypeStats
from lifecycle.workers import Workers

TICK = 0.05
"""Seconds between two passes while there is work."""
IDLE_TICK = 0.25
"""Seconds between two passes once nothing has happened for a while."""
FULL = 100_000
HAND_OVER_AFTER = 0.2
"""Seconds for which a ticket that any thread may run has waited before a timed worker is given it. A busy loop runs its own."""
SHUT_FOR_LONG = 1.0
"""Seconds between two collections asked for without the GIL while doors are shut and objects not released."""
ANSWER_WAIT = 30.0
"""Seconds a scrape waits for the keeper before it takes the last known figures."""
LEAK_REPORT_EVERY = 1.0
"""Seconds between two reports of leaks from the same place."""


_kind_of = attrgetter("kind")
_end_of = attrgetter("kind", "phase", "cause")


def _take_all(mailbox: deque[Record]) -> list[Record]:
    """What is in `mailbox` now. Others go on appending; only the one who counts takes."""
    take = mailbox.popleft
    return [take() for _ in range(len(mailbox))]


_EMPTY = object()


class Question:
    """A scrape waiting for its answer."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer: _world.SimpleQueue[SafetyStats] = _world.SimpleQueue()


class Keeper:
    """Counts for one manager. Everything but `ask`, `wake` and the counters' readers runs on the keeper's thread."""

    def __init__(self, registry: Registry, any_thread: AnyThread, workers: Workers) -> None:
        self.registry = registry
        self.any_thread = any_thread
        self.workers = workers
        self.observer = Observer(registry.name, registry.config)
        self.queues: set[ReleaseQueue] = set()
        self.sweeps: list[Callable[[], None]] = []
        self.last_run = 0.0
        self.late = 0
        self.other_failures = 0
        self._bell: _world.SimpleQueue[None] = _world.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._role = _world.Lock()  # held by who counts: the thread, and who asks when there is none
        self._inside: set[int] = set()  # threads that hold it or wait for it
        self._halted = False
        self._stop = False
        self._lingering = False
        self._expiring: deque[Record] = deque()
        self._next_sweep = _world.monotonic() + registry.config.cleanup_interval
        self._leak_reports: dict[Any, tuple[float, int]] = {}
        self._idle = 0
        self._shut_since = 0.0
        self._head: object = (
            _EMPTY  # of the ANY_THREAD mailbox, at the last pass; None is a ticket that means nothing
        )
        self._head_since = 0.0
        self._telling = False
        self._last: SafetyStats | None = None

    # -- from any thread ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; callable again after `after_fork`."""
        self.registry.wake = self.wake
        self.registry.relieve = self.relieve
        thread = self._thread
        if thread is not None and thread.ident is not None:
            return
        self._stop = False
        self._thread = _world.new_thread(self._run, f"lifecycle-keeper-{self.registry.name}")
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def wake(self) -> None:
        """Have the next pass at once."""
        self._bell.put(None)

    def relieve(self) -> None:
        """Called by a registering thread that sees `HIGH_WATER` events waiting: wake the keeper, and yield when it is `FULL`."""
        events = self.registry.entered
        if not self._bell.qsize():
            self._bell.put(None)
        if len(events) >= FULL and not _world.must_not_wait() and self.alive:
            until = _world.monotonic() + 0.05
            while len(events) >= FULL // 2 and _world.monotonic() < until:
                _world.sleep(0.001)

    def ask(self) -> SafetyStats:
        """Exact figures: everything that happened before this call is in them. Callable on any thread; inside a collection, on
        the keeper itself and in the middle of another call of it on this thread it answers with the last figures taken."""
        in_collector = bool(_world.collecting) and _world.in_collector()
        thread = self._thread
        me = _world.get_ident()
        if in_collector or me in self._inside:
            return self._last or self._figures()
        if self.alive and not self._stop:
            question = Question()
            self.registry.events.append(question)
            self._bell.put(None)
            until = _world.monotonic() + ANSWER_WAIT
            while thread is not None and thread.is_alive() and _world.monotonic() < until:
                try:
                    return question.answer.get(timeout=0.1)
                except _world.Empty:
                    continue
        try:
            self._inside.add(me)
            with self._role:
                self._count_all()
                return self._figures()
        finally:
            self._inside.discard(me)

    def stop(self, timeout: float) -> None:
        """End the thread; who asks from now on counts."""
        self._stop = True
        self._bell.put(None)
        thread = self._thread
        if thread is not None and thread.ident not in (None, _world.get_ident()):
            thread.join(timeout)
        self.observer.stop(timeout)

    def linger(self) -> None:
        """End the threads when the last object that is still held has ended."""
        self._lingering = True
        self.wake()

    def before_fork(self) -> None:
        """Have the counting stand still, so that the child inherits no half-counted batch. For a bounded time."""
        self._halted = _world.get_ident() not in self._inside and self._role.acquire(timeout=1.0)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._halted:
            self._halted = False
            self._role.release()

    def after_fork(self) -> None:
        """In the child: no thread, fresh locks; what the parent had not counted stays to be counted by the child's keeper."""
        self._thread = None
        self._bell = _world.SimpleQueue()
        self._role = _world.Lock()
        self._inside = set()
        hooks = self.observer.hooks
        self.observer = Observer(self.registry.name, self.registry.config)
        self.observer.hooks = hooks
        self.registry.wake = self.wake
        self.registry.relieve = self.relieve

    # -- the thread ---------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        fine = min(TICK, self.registry.config.finalizer_timeout / 4)
        while not self._stop:
            pause = fine if self._idle < 20 or self.workers.running else max(fine, IDLE_TICK)
            delayed = self.registry.delayed
            if delayed:
                pause = min(
                    pause,
                    max(
                        0.0005,
                        min((when for when, _ in _world.snapshot(delayed)), default=0.0) - _world.monotonic(),
                    ),
                )
            try:
                self._bell.get(timeout=pause)
                while self._bell.qsize():
                    self._bell.get()
            except _world.Empty:
                self._idle += 1
            try:
                self._pass()
            except Exception as error:  # a bug of ours: what was being counted is lost, nothing else is
                self.observer.tell_failure(error)
            if self._lingering and not self._live():
                self._stop = True
                self.workers.stop(0)
                self.observer.stop(0)
        self._pass()

    def _live(self) -> int:
        return sum(kind.count.live for kind in _world.snapshot(self.registry.kinds.values()))

    def _pass(self) -> None:
        self.last_run = _world.wall_time()
        me = _world.get_ident()
        try:
            self._inside.add(me)
            with self._role:
                if self._count_all():
                    self._idle = 0
        finally:
            self._inside.discard(me)
        self._post_delayed()
        self._hand_over()
        if _world.free_threaded:
            self._let_die()
        self.workers.watch()
        if _world.monotonic() >= self._next_sweep:
            self._next_sweep = _world.monotonic() + self.registry.config.cleanup_interval
            for sweep in self.sweeps:
                sweep()
        self._expire()

    def _let_die(self) -> None:
        """Without the GIL an object dies on the thread that made it, when that next runs Python; a collection does it for one
        that sleeps. Asked for when doors have been shut for long."""
        now = _world.monotonic()
        waiting = any(kind.count.shut for kind in _world.snapshot(self.registry.kinds.values()))
        self._shut_since = (self._shut_since or now) if waiting else 0.0
        if waiting and now - self._shut_since > SHUT_FOR_LONG:
            self._shut_since = now
            _world.collect()

    def _post_delayed(self) -> None:
        delayed = self.registry.delayed
        now = _world.monotonic()
        for _ in range(len(delayed)):
            when, record = delayed.popleft()
            if when <= now:
                record.place.put(record)
            else:
                delayed.append((when, record))

    def _hand_over(self) -> None:
        """Tickets that nobody ran go to the timed workers; those of lost queues are orphaned."""
        mailbox = self.any_thread.mailbox
        try:
            head: object = mailbox[0]
        except IndexError:
            head = _EMPTY
        now = _world.monotonic()
        if head is _EMPTY or head is not self._head:
            self._head, self._head_since = head, now
        elif now - self._head_since >= HAND_OVER_AFTER:  # no register or close comes by to run it
            while mailbox and self.workers.healthy:
                try:
                    record = mailbox.popleft()
                except IndexError:
                    break
                if record is not None and record.phase not in ENDED:
                    self.workers.put(record)
        for queue in _world.snapshot(self.queues):
            queue.sweep_lost()

    # -- counting -----------------------------------------------------------------------------------------------------------

    def _count_all(self) -> int:
        """Count everything that had happened when this began; how much that was."""
        registry = self.registry
        self._telling = bool(self.observer.hooks)
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
                event.answer.put(self._figures())
            else:
                self._count_event(event)
        self._count_ended(ended)
        return len(ended) + len(entered) + number

    def _count_event(self, event: Any) -> None:
        if type(event) is not DoorRef:
            getattr(self, f"_on_{event[0]}")(*event[1:])
            return
        record = self.registry.records.get(event.id)
        if record is not None and record.cause is None and record.phase not in ENDED:
            record.shut = record.shut or _world.monotonic()
            record.cause = BY_DROP
            self._note_shut(record)

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
                if len(count.order) > count.compact_at:
                    count.compact()
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
                    record.kind.count.bytes -= record.size
                elif not counted:  # its registration was interrupted before it was told
                    self._count_entered([record])
                record.counted = ENDED_TOO
                fresh.append(record)
        for (kind, phase, cause), number in Counter(map(_end_of, fresh)).items():
            kind.count.ended[phase] += number
            kind.count.closed[cause or BY_DROP] += number
            if phase is not RELEASED or cause is None or cause is BY_DROP or kind.count.shut:
                self._look_closer([record for record in fresh if _end_of(record) == (kind, phase, cause)])
        for kind in set(map(_kind_of, fresh)):
            begun = [record for record in fresh if record.kind is kind and record.begun]
            kind.count.wait.add_all([record.begun - record.shut for record in begun if record.shut])
            kind.count.duration.add_all([record.ended - record.begun for record in begun])
        self._expiring.extend(
            [record for record in fresh if record.phase is not STUCK]
        )  # those stay, with all they hold
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
                self._leaked(record)
            if record.phase is STUCK:
                count.failures["timeout"] += 1
            elif record.phase is FAILED:
                count.failures[record.more().failure] += 1
            if record.phase is not RELEASED:
                self._tell(str(record.phase), record, **self._ending(record))

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
            self._count_entered([record])
        if record.counted == ENDED_TOO or record.id in count.shut:
            return
        cause = record.cause or BY_DROP
        poisoned = cause in POISONED
        count.shut[record.id] = poisoned
        count.invalid += poisoned
        count.closed[cause] += 1
        if cause is BY_DROP:
            self._leaked(record)
        if self.registry.config.log_state_changes or self.observer.hooks:
            self._tell("closed", record, cause=str(cause))

    def _leaked(self, record: Record) -> None:
        if self.registry.config.leak_level == "off" or not record.owning:
            return
        record.kind.count.leaks += 1
        site = record.site
        key = site or record.kind.type_name
        now = _world.monotonic()
        last, missed = self._leak_reports.get(key, (-LEAK_REPORT_EVERY, 0))
        if now - last < LEAK_REPORT_EVERY:
            self._leak_reports[key] = (last, missed + 1)
            return
        self._leak_reports[key] = (now, 0)
        self._tell("leak", record, site=_world.describe_site(site), count=missed + 1)

    # Events that are tuples: the name after `_on_` is their first item.

    def _on_shut(self, record: Record) -> None:
        self._note_shut(record)

    def _on_refused(self, kind: Kind, state: ObjectState) -> None:
        kind.count.refused[state] += 1

    def _on_panic(self, kind: Kind, record: Record | None, reason: str, trace: str) -> None:
        kind.count.panics += 1
        self._tell("panic", record, kind=kind, reason=reason, traceback=trace)

    def _on_error(self, kind: Kind, record: Record | None, reason: str) -> None:
        kind.count.errors += 1
        if self.registry.config.log_state_changes or self.observer.hooks:
            self._tell("error", record, kind=kind, reason=reason)

    def _on_retry(self, record: Record, reason: str) -> None:
        record.kind.count.retries += 1
        if self.registry.config.log_finalizers or self.observer.hooks:
            self._tell("retry", record, reason=reason)

    def _on_cleanup_failed(self, record: Record, reason: str) -> None:
        self.other_failures += 1
        self._tell("failed", record, reason=f"a cleanup raised {reason}")

    def _on_finalizer_failed(self, type_name: str, reason: str) -> None:
        self.other_failures += 1
        self._tell("failed", None, type_name=type_name, reason=f"a safe finalizer raised {reason}")

    def _on_late(self, record: Record, reason: str) -> None:
        self.late += 1
        if not reason:
            self._expiring.append(record)
        self._tell("late", record, reason=reason)

    def _on_told(self, kind: str, fields: dict[str, Any]) -> None:
        self._tell(kind, None, **fields)

    def _tell(
        self,
        event: str,
        record: Record | None,
        *,
        kind: Kind | None = None,
        type_name: str = "",
        **fields: Any,
    ) -> None:
        if not self.observer.hooks and not self.observer.logs(event):
            return
        kind = record.kind if record is not None else kind
        self.observer.tell(
            Event(
                event,
                self.registry.name,
                record.id if record is not None else 0,
                kind.type_name if kind is not None else type_name,
                record.name if record is not None else None,
                _world.wall_time(),
                fields,
            )
        )

    # -- retention and figures ----------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        expiring = self._expiring
        config = self.registry.config
        old = _world.monotonic() - config.state_retention
        records = self.registry.records
        while expiring and (len(expiring) > config.max_retained or expiring[0].ended < old):
            records.pop(expiring.popleft().id, None)

    def _figures(self) -> SafetyStats:
        registry = self.registry
        releasing: dict[Kind, list[Record]] = {}
        for id in _world.snapshot(registry.claims):
            record = registry.records.get(id)
            if record is not None and record.phase is RELEASING and record.counted not in (0, ENDED_TOO):
                releasing.setdefault(record.kind, []).append(record)
        types = {
            kind.type_name: self._type_figures(kind, releasing.get(kind, []))
            for kind in _world.snapshot(registry.kinds.values())
        }
        ends = {
            end: sum(t.ended[end] for t in types.values())
            for end in ("released", "failed", "stuck", "detached", "orphaned")
        }
        total = sum(t.registered for t in types.values())
        self._last = SafetyStats(
            manager=registry.name,
            total_objects=total,
            active_objects=total - sum(ends.values()),
            late=self.late,
            panics=sum(t.panics for t in types.values()),
            errors=sum(t.errors for t in types.values()),
            leaks=sum(t.leaks for t in types.values()),
            refused=sum(sum(t.refused.values()) for t in types.values()),
            finalizer_failures=ends["failed"] + ends["stuck"] + self.other_failures,
            types=types,
            queues=self.queue_figures(),
            stuck_workers=len(self.workers.stuck),
            stuck_workers_limit=registry.config.max_stuck_finalizers,
            quarantined=self.workers.quarantined,
            keeper_last_run=self.last_run,
            events_pending=registry.pending(),
            observer_events_dropped=self.observer.dropped,
            **ends,
        )
        return self._last

    def _type_figures(self, kind: Kind, releasing: list[Record]) -> TypeStats:
        count = kind.count
        live = count.live
        known = [count.shut[record.id] for record in releasing if record.id in count.shut]  # poisoned or not
        invalid = count.invalid - sum(known)
        closing = len(count.shut) - count.invalid - known.count(False)
        oldest = count.oldest()
        return TypeStats(
            type_name=kind.type_name,
            registered=count.registered,
            live=live,
            states={
                "valid": live - closing - invalid - len(releasing),
                "invalid": invalid,
                "closing": closing,
                "releasing": len(releasing),
            },
            bytes=count.bytes,
            bytes_limit=kind.max_bytes,
            objects_limit=kind.max_live,
            oldest=0.0 if oldest is None else _world.wall_time() - (_world.monotonic() - oldest.born),
            ended=dict(count.ended),
            closed=dict(count.closed),
            refused=dict(count.refused),
            panics=count.panics,
            errors=count.errors,
            leaks=count.leaks,
            held_too_long=self._held_too_long(kind),
            release_duration=count.duration.snapshot(),
            release_wait=count.wait.snapshot(),
            release_failures=dict(count.failures),
            retries=count.retries,
        )

    @staticmethod
    def _held_too_long(kind: Kind) -> int:
        if kind.max_age is None:
            return 0
        before = _world.monotonic() - kind.max_age
        aged = itertools.takewhile(lambda record: record.born < before, kind.count.order)
        return sum(record.counted != ENDED_TOO for record in aged)

    def queue_figures(self) -> tuple[QueueStats, ...]:
        """The places that releases wait at. Callable on any thread."""
        places: list[QueueStats] = []
        fences: dict[str, int] = {}
        for _, record in _world.snapshot(self.registry.delayed):
            if record.extra is not None and record.extra.fences:
                fences[record.place.name] = fences.get(record.place.name, 0) + 1
        for place in (self.any_thread, self.workers):
            places.append(
                QueueStats(place.name, len(place), 0.0, self.last_run, 0, fences.get(place.name, 0))
            )
        for queue in _world.snapshot(self.queues):
            places.append(
                QueueStats(
                    queue.name,
                    queue.backlog,
                    queue.oldest(),
                    queue.last_drain,
                    queue.orphaned,
                    fences.get(queue.name, 0),
                )
            )
        return tuple(places)


__all__ = ["Keeper", "Observer"]
