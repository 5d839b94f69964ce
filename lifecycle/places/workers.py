"""`BACKGROUND`: releases on worker threads, each with a deadline.

Workers share one mailbox. A release that passes its deadline is `STUCK`: its worker is written off, another takes its place, and
the object is quarantined – never run again, its parent kept. Who decides is one pop from `running`: the worker that comes back,
or `watch`, which the keeper calls. Up to ``max_stuck_finalizers`` workers are replaced; when the last healthy one is gone,
releases are not started any more (quarantined) until a stuck one comes back.

A spare worker exists from the start, since 3.12 starts no thread once the interpreter shuts down. More are started while all
are busy and tickets wait.

A release that closes further timed objects runs them on its own worker, nested, each with its own deadline: handed to another
worker the two could wait for each other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from lifecycle import _world
from lifecycle.cell.cell import Record
from lifecycle.cell.registry import Registry
from lifecycle.errors import LifecycleError
from lifecycle.places.place import Place, WhenDue
from lifecycle.places.releases import NEST_LIMIT, Timed, notify, process
from lifecycle.places.timelines import Timelines
from lifecycle.places.waiting import wait_for_end
from lifecycle.states import ENDED, RELEASED, STUCK

INITIAL_WORKERS = 2
BUSY_BEFORE_GROWTH = 0.1
"""Seconds for which all workers must have been busy, with tickets waiting, before another is started."""
SLACK = 0.5
"""Seconds that a closer waits past the deadline for the verdict of the watch."""


class Batch:
    """Releases to run one after the other on one worker, newest first: the exit pass. Taken over by the next worker when the
    one that runs it is written off."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        self.done: _world.TimedQueue[None] = _world.TimedQueue()


class Errand:
    """A function to be called on a worker by who cannot wait for it for ever: callbacks at exit, which may hang."""

    def __init__(self, fn: Callable[[], object]) -> None:
        self.todo = [fn]  # whoever pops it decides: the worker that calls it, or the sender that gives up
        self.done: _world.TimedQueue[BaseException | None] = _world.TimedQueue()
        self.worker: Worker | None = None

    def run(self, worker: Worker) -> None:
        """On the worker. The answer is what it raised, or None."""
        self.worker = worker
        try:
            self.todo.pop()()
        except BaseException as error:
            self.done.put(error)
        else:
            self.done.put(None)


class Worker(Timed):
    """One worker thread. `stack` holds the releases it is in, the innermost last, as (record, deadline)."""

    __slots__ = (
        "batch",
        "busy_since",
        "closing",
        "ident",
        "inherited",
        "stack",
        "thread",
        "waits",
        "workers",
        "written_off",
    )

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.stack: list[tuple[Record, float]] = []
        self.batch: Batch | None = None
        self.busy_since = 0.0
        self.ident = 0
        self.written_off = False
        self.inherited = False  # this is a forked child, and the thread belongs to the parent
        self.waits = False
        self.closing: Record | None = None
        self.thread: threading.Thread | None = None

    def begins(self, record: Record) -> None:
        """As `Timed.begins`."""
        workers = self.workers
        self.stack.append((record, _world.monotonic() + workers.timeout))
        workers.running[record.id] = self

    def came_back(self, record: Record) -> bool:
        """As `Timed.came_back`."""
        workers = self.workers
        deadline = self.stack.pop()[1]
        if workers.running.pop(record.id, None) is None:
            return False
        now = _world.monotonic()
        if now >= deadline and record.outcome is not RELEASED:
            workers.declare_stuck(
                record, now
            )  # nobody had come to see it; a failure past its deadline is no retry
            return False
        return True

    def run(self) -> None:
        """The thread: take a ticket, run it, until told to stop or written off."""
        self.ident = _world.get_ident()
        workers = self.workers
        workers.by_ident[self.ident] = self
        if self not in workers.healthy:
            workers.healthy.append(self)
        try:
            while not self.written_off:
                ticket = workers.mailbox.get()
                if ticket is None:
                    break
                self.busy_since = _world.monotonic()
                if isinstance(ticket, Batch):
                    self._run_batch(ticket)
                elif isinstance(ticket, Errand):
                    ticket.run(self)
                elif any(other.closing is ticket for other in [*workers.healthy, *workers.stuck]):
                    ticket = None  # a release on that worker closes it, and will run it itself
                elif workers.hold_back:
                    workers.held_back.append(ticket)
                else:
                    process(ticket, self)
                    if ticket.place is not workers:
                        self._go_on_with_any()
                ticket = None
                self.busy_since = 0.0
        finally:
            workers.by_ident.pop(self.ident, None)
            workers.ended(self)

    def _go_on_with_any(self) -> None:
        """The keeper handed over a ticket that any thread may run. Its release may have freed a whole family, one by one."""
        waiting = self.workers.registry.waiting
        while waiting and not self.written_off:
            try:
                record = waiting.popleft()
            except IndexError:
                break
            if record is not None:
                process(record, self)

    def _run_batch(self, batch: Batch) -> None:
        self.batch = batch
        while batch.records and not self.written_off:
            process(batch.records.pop(), self)
        if not self.written_off:
            self.batch = None
            batch.done.put(None)


class Workers(Place):
    """The timed workers of one manager. Made without threads; `start` makes them."""

    inline = False

    def __init__(self, registry: Registry) -> None:
        self.name = "BACKGROUND"
        self.registry = registry
        self.timeout = registry.config.finalizer_timeout
        self.last_run = 0.0
        self._reset()

    def _reset(self) -> None:
        self.mailbox: _world.SimpleQueue[Record | Batch | Errand | None] = _world.SimpleQueue()
        self.put = self.requeue = self.mailbox.put
        self.timelines = Timelines()
        self.running: dict[int, Worker] = {}
        self.by_ident: dict[int, Worker] = {}
        self.healthy: list[Worker] = []
        self.stuck: list[Worker] = []
        self.stopping = False
        self.unstartable = False
        self.hold_back = False  # while a batch runs in its order, single tickets wait
        self.held_back: deque[Record] = deque()

    def let_go(self) -> None:
        """Post the tickets that were held back; those that ran in a batch mean nothing any more."""
        self.hold_back = False
        while self.held_back:
            self.mailbox.put(self.held_back.popleft())

    def start(self) -> None:
        """Start the initial workers."""
        for _ in range(INITIAL_WORKERS - len(self.healthy)):
            self._start_one()

    def _start_one(self) -> bool:
        worker = Worker(self)
        worker.thread = _world.new_thread(worker.run, f"lifecycle-release-{self.registry.name}")
        try:
            self.healthy.append(worker)
            worker.thread.start()
        except RuntimeError:  # the interpreter shuts down: what is there must do
            self.unstartable = True
            self.healthy.remove(worker)
            return False
        except BaseException:  # interrupted: if the thread runs nevertheless, it enters itself again
            if worker.thread.ident is None and worker in self.healthy:
                self.healthy.remove(worker)
            raise
        return True

    def ended(self, worker: Worker) -> None:
        """Called by a worker thread as its last act."""
        if worker.inherited:  # a release forked, and came back in the child: with this thread the child ends
            return
        for group in (self.healthy, self.stuck):
            if worker in group:
                group.remove(worker)
        if worker.written_off and not self.stopping and not self.healthy:
            self._start_one()

    def __len__(self) -> int:
        return self.mailbox.qsize()

    @property
    def quarantined(self) -> int:
        """Releases that are not started because every worker that may exist is stuck."""
        return len(self) if self.stuck and not self.healthy else 0

    def settle(self, record: Record, timeout: float | WhenDue | None) -> bool:
        """As `Place.settle`."""
        if _world.collecting and _world.in_collector():
            return False
        worker = self.by_ident.get(_world.get_ident())
        if worker is not None:
            if record() is not None:
                worker.closing = None
            if record() is None:
                if len(worker.stack) < NEST_LIMIT:
                    process(record, worker)
                else:
                    self.put(record)  # another worker may have left the ticket to us
            worker.closing = None
            if isinstance(timeout, WhenDue):
                return self._await_another(worker, record)
        if worker is None and self.unstartable and not self.healthy and not self.stuck:
            process(record)  # no thread could be started any more: here, without a deadline, or never
        if record.phase in ENDED or timeout == 0 or _world.must_not_wait():
            return record.phase is RELEASED
        insist = not isinstance(timeout, WhenDue)
        if isinstance(timeout, WhenDue):
            if record() is not None or self.quarantined:
                return False
            timeout = self.timeout + SLACK
        return wait_for_end(
            record, None if timeout is None else _world.monotonic() + timeout, None, insist=insist
        )

    def will_shut(self, record: Record) -> None:
        """As `Place.will_shut`: what a release closes runs on its own worker, so the others are to leave the ticket alone."""
        worker = self.by_ident.get(_world.get_ident())
        if worker is not None:
            worker.closing = record

    def _await_another(self, worker: Worker, record: Record) -> bool:
        """A release closed what another worker was quicker to begin: wait for that, unless it waits itself, perhaps for us."""
        try:
            worker.waits = True
            other = self.running.get(record.id)
            if other is not None and other is not worker and not other.waits and not _world.must_not_wait():
                wait_for_end(record, _world.monotonic() + self.timeout + SLACK, None, insist=False)
        finally:
            worker.waits = False
        return record.phase is RELEASED

    def serve(self, record: Record) -> None:
        """As `Place.serve`."""
        worker = self.by_ident.get(_world.get_ident())
        if worker is not None:
            process(record, worker)

    # -- called by the keeper -----------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Declare stuck what is past its deadline, and see that tickets find a worker."""
        now = _world.monotonic()
        for worker in [*self.healthy, *self.stuck]:
            for record, deadline in list(worker.stack):
                if now >= deadline and self.running.pop(record.id, None) is not None:
                    self.declare_stuck(record, now)
                    self._write_off(worker)
        waiting = self.mailbox.qsize()
        if waiting and not self.stopping and len(self.healthy) + len(self.stuck) < self.limit:
            since = [worker.busy_since for worker in list(self.healthy)]
            if all(busy and now - busy > BUSY_BEFORE_GROWTH for busy in since):
                self._start_one()

    @property
    def limit(self) -> int:
        """How many worker threads there may be at most, stuck ones included."""
        return INITIAL_WORKERS + self.registry.config.max_stuck_finalizers

    def declare_stuck(self, record: Record, now: float) -> None:
        """Its deadline is past: it is never run again."""
        extra = record.more()
        extra.reason = f"its release did not return within {self.timeout:g} s"
        record.ended = now
        record.phase = STUCK
        self.registry.ended.append(record)
        notify(self.registry, record.id)

    def _write_off(self, worker: Worker) -> None:
        """Expect nothing more of a worker, and have another in its place if there may be one."""
        if not worker.written_off:
            worker.written_off = True
            if worker in self.healthy:
                self.healthy.remove(worker)
            self.stuck.append(worker)
            if worker.batch is not None:
                self.mailbox.put(worker.batch)
            if len(self.healthy) + len(self.stuck) < self.limit:
                self._start_one()

    def call(self, fn: Callable[[], object], timeout: float) -> None:
        """Call ``fn()`` on a worker (here, where there is none) and raise what it raises, or `LifecycleError` when it is not back
        after `timeout` seconds; its worker is written off then."""
        if not self.healthy:
            fn()
            return
        errand = Errand(fn)
        self.mailbox.put(errand)
        try:
            error = errand.done.get(timeout=timeout)
        except _world.Empty:
            begun = not errand.todo
            errand.todo.clear()
            if begun and errand.worker is not None:
                self._write_off(errand.worker)
            raise LifecycleError(
                f"{fn!r} did not {'return' if begun else 'begin'} within {timeout:.3g} s and was left behind"
            ) from None
        if error is not None:
            raise error

    def stop(self, timeout: float) -> None:
        """Let the workers run out and join the healthy ones for `timeout` seconds."""
        self.stopping = True
        threads = [worker.thread for worker in list(self.healthy)]
        for _ in threads:
            self.mailbox.put(None)
        until = _world.monotonic() + timeout
        for thread in threads:
            if thread is not None and thread.ident not in (None, _world.get_ident()):
                thread.join(max(0.0, until - _world.monotonic()))

    def after_fork(self) -> None:
        """In the child: no thread of the parent's is here (but the one that forked), and its tickets are not ours."""
        for worker in [*self.healthy, *self.stuck]:
            worker.inherited = worker.written_off = True
        self._reset()
