"""`BACKGROUND`: releases on worker threads, each with a deadline.

Workers share one mailbox. A release that passes its deadline is `STUCK`: its worker is written off, another
takes its place, and the object is quarantined – never run again, its parent kept. One pop from `running`
decides between the worker that comes back and `watch`, which the keeper calls. Up to ``max_stuck_finalizers``
workers are replaced; when the last healthy one is gone, releases are not started any more (quarantined) until
a stuck one comes back.

A spare worker exists from the start, since 3.12 starts no thread once the interpreter shuts down. More are
started while all are busy and tickets wait.

A release that closes further timed objects runs them on its own worker, nested, each with its own deadline:
handed to another worker the two could wait for each other.

An exception that another thread raises in a worker (`PyThreadState_SetAsyncExc`, as timeout libraries do) may
strike between any two lines here. A ticket is taken and stored in one step and put back on any exception, and
the worker goes on. A worker that ends all the same, by a second one, is replaced, by itself or by `watch`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.dropped import is_kept
from lifecycle._core.ends import wait_for_end
from lifecycle._core.place import Place
from lifecycle._core.record import Bell, Record
from lifecycle._core.release import NEST_LIMIT, Timed, notify, process
from lifecycle._core.tables import Registry
from lifecycle._core.timelines import Timelines
from lifecycle._core.waiting import Flag, Reply, await_thread, ending_with
from lifecycle.errors import LifecycleError, shown, text_of
from lifecycle.states import ENDED, RELEASED, STUCK

INITIAL_WORKERS = 2
BUSY_BEFORE_GROWTH = 0.1
"""Seconds for which all workers must have been busy, with tickets waiting, before another is started."""
SLACK = 0.5
"""Seconds that a closer waits past the deadline for the verdict of the watch."""
TRIES = 5
"""How often in a row a worker puts back a ticket that was struck. `process` puts it back as well, so one that
failed each time would be there twice as often each time."""
RECOVERY = (0.001, 1.0)
"""Seconds that a worker pauses after it was struck, doubled from the first to the longest while no ticket
comes through."""
HELD_UP_LOOK = 0.02
"""Seconds between two looks of a closer whether a collection on another thread keeps the release from
beginning."""


def held_up(record: Record) -> bool:
    """Return True if a collection on another thread keeps the release from beginning: `close` does not wait
    for that."""
    return (
        bool(runtime.collecting)
        and record.id not in record.kind.registry.claims
        and not runtime.await_collection(runtime.BRIEF_WAIT)
    )


def _need_not_wait(record: Record) -> bool:
    """What `close` without `timeout=` does not wait for: others, who refer to an object that is released by
    its own deallocation, and a collection."""
    return is_kept(record) or held_up(record)


class Batch:
    """Releases to run one after the other on one worker, newest first: the exit pass. Taken over by the next
    worker when the one that runs it is written off."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records
        self.done: Reply[None] = Reply()


class Job:
    """A function to be called on a worker, whose caller cannot wait for it for ever: callbacks at exit, which
    may hang."""

    def __init__(self, fn: Callable[[], object]) -> None:
        self.todo: list[Callable[[], object]] = [
            fn
        ]  # whoever pops it decides: the worker that calls it, or the sender that gives up
        self.done: Reply[BaseException | None] = Reply()
        self.worker: Worker | None = None
        self._error: BaseException | None = None

    def run(self, worker: Worker) -> None:
        """On the worker. The answer is what it raised, or None. May be called again after an interrupt."""
        self.worker = worker
        fn = None
        if self.todo:
            try:
                # Taken and called with nothing between the two that could be interrupted.
                for fn in iter(self.todo.pop, None):
                    fn()
                    break
            except BaseException as error:
                if self.todo:
                    raise
                self._error = error
        fn = None
        self.done.offer(self._error)


class Worker(Timed):
    """One worker thread. `stack` holds the releases it is in, the innermost last, as (record, deadline)."""

    __slots__ = (
        "batch",
        "busy_since",
        "closing",
        "ident",
        "inherited",
        "left",
        "over",
        "stack",
        "struck",
        "struck_with",
        "thread",
        "waits",
        "workers",
        "written_off",
    )

    def __init__(self, workers: Workers) -> None:
        self.workers: Workers = workers
        self.stack: list[tuple[Record, float]] = []
        self.batch: Batch | None = None
        self.busy_since: float = 0.0
        self.ident: int = 0
        self.written_off: bool = False
        self.inherited: bool = False  # this is a forked child, and the thread belongs to the parent
        self.waits: bool = False
        self.closing: Record | None = None
        # Tickets that others left to it, since a release on it closes them.
        self.left: deque[Record] = deque()
        self.struck: int = 0
        """How often it was struck since a ticket came through."""
        self.struck_with: object = None
        """The ticket that it had in hand the last time."""
        self.thread: threading.Thread | None = None
        # Set by the thread's last act.
        self.over: Flag = Flag()

    def begins(self, record: Record) -> None:
        """As `Timed.begins`."""
        workers = self.workers
        self.stack.append((record, runtime.monotonic() + workers.timeout))
        workers.running[record.id] = self

    def came_back(self, record: Record) -> bool:
        """As `Timed.came_back`."""
        workers = self.workers
        entry = self.stack.pop()
        while entry[0] is not record and self.stack:  # of releases in this one that an exception broke off
            entry = self.stack.pop()
        deadline = entry[1]
        if workers.running.pop(record.id, None) is None:
            return False
        now = runtime.monotonic()
        if now >= deadline and record.outcome is not RELEASED:
            # Nobody had come to see it; a failure past its deadline is no retry.
            workers.declare_stuck(record, now)
            return False
        return True

    def broke_off(self, record: Record) -> None:
        """As `Timed.broke_off`."""
        self.stack[:] = [entry for entry in self.stack if entry[0] is not record]
        if self.workers.running.get(record.id) is self:
            self.workers.running.pop(record.id, None)

    def run(self) -> None:
        """The thread: take a ticket, run it, until told to stop or written off."""
        workers = self.workers
        tickets: Iterator[Any] = iter(workers.mailbox.get, None)
        try:
            while True:
                try:
                    self.ident = runtime.get_ident()
                    workers.by_ident[self.ident] = self
                    if self not in workers.healthy and not self.written_off:
                        workers.healthy.append(self)
                    self._work(tickets)
                    break
                except BaseException as error:
                    self._recover(error)
        finally:
            workers.by_ident.pop(self.ident, None)
            workers.ended(self)

    def _work(self, tickets: Iterator[Any]) -> None:
        workers = self.workers
        ticket = None
        try:
            while not self.written_off:
                for ticket in tickets:  # noqa: B007 - FOR_ITER takes and stores in one step
                    break
                if ticket is None:  # told to stop
                    break
                self.busy_since = runtime.monotonic()
                if isinstance(ticket, Batch):
                    self._run_batch(ticket)
                elif isinstance(ticket, Job):
                    ticket.run(self)
                elif type(ticket) is Bell:
                    self._answer(ticket)
                elif self._left_to_another(ticket):
                    ticket = None
                elif workers.hold_back:
                    workers.held_back.append(ticket)
                else:
                    process(ticket, self)
                    if ticket.place is not workers:
                        self._go_on_with_any()
                ticket = None
                self.closing = None
                if self.left:
                    self.go_on_with_left()
                self.busy_since = 0.0
                self.struck = 0
        except BaseException:
            if ticket is not None and (ticket is not self.struck_with or self.struck < TRIES):
                workers.mailbox.put(ticket)
            self.struck_with = ticket
            raise

    def _recover(self, error: BaseException) -> None:
        """Another thread raised `error` in this one, outside a release. What was in hand has been put
        back."""
        workers = self.workers
        workers.registry.events.append(
            ("told", "thread_interrupted", {"thread": _name_of(self.thread), "error": text_of(error)})
        )
        workers.clear_stack(self)
        self.closing = None
        self.batch = None
        self.busy_since = 0.0
        self.go_on_with_left()
        first, longest = RECOVERY
        self.struck += 1
        runtime.sleep(min(first * 2 ** min(self.struck, 20), longest))

    def _left_to_another(self, ticket: Record) -> bool:
        """Leave `ticket` to the worker on which a release is closing it just now, since that will run it
        itself."""
        workers = self.workers
        for other in [*workers.healthy, *workers.stuck]:
            if other.closing is ticket and other is not self:
                other.left.append(ticket)
                if other.closing is not ticket:  # it may have looked before that
                    workers.put(ticket)
                return True
        return False

    def go_on_with_left(self) -> None:
        """Post what others left to this worker: most of it has ended, and means nothing."""
        left = self.left
        record = None
        try:
            for record in iter(left.popleft, None):
                if record.phase not in ENDED:
                    self.workers.mailbox.put(record)
                record = None
        except IndexError:
            record = None
        except BaseException:
            if record is not None:
                left.append(record)
            raise

    def _answer(self, bell: Bell) -> None:
        """An object that any thread may release has no holder any more: do so, unless who let it go does."""
        workers = self.workers
        registry = workers.registry
        registry.bells.pop(bell.id, None)
        record = registry.records.get(bell.id)
        if workers.hold_back:
            if record is not None:
                workers.held_back.append(record)
            return
        if record is not None and (record.phase is None or record.phase not in ENDED):
            if record.place.anywhere or record.place is workers:
                process(record, self)
            else:
                record.place.put(record)  # of its own deallocation, which was to be at its place
        self._go_on_with_any()  # its ticket is there, or will be in a moment

    def _go_on_with_any(self) -> None:
        """A ticket that any thread may run was handed over. Its release may have freed a whole family, one by
        one."""
        waiting = self.workers.registry.waiting
        record = None
        try:
            while waiting and not self.written_off:
                for record in iter(waiting.popleft, self):  # noqa: B007 - as above
                    break
                if record is not None:
                    process(record, self)
                record = None
        except IndexError:
            if record is not None:
                raise
        except BaseException:
            if record is not None:
                waiting.appendleft(record)
            raise

    def _run_batch(self, batch: Batch) -> None:
        self.batch = batch
        record = None
        try:
            while batch.records and not self.written_off:
                for record in iter(batch.records.pop, None):  # noqa: B007 - as above
                    break
                if record is not None:
                    process(record, self)
                record = None
        except IndexError:  # the sender gave up, and cleared it
            if record is not None:
                raise
        except BaseException:
            if record is not None:
                batch.records.append(record)
            raise
        if not self.written_off:
            self.batch = None
            batch.done.offer(None)


def _take_out(worker: Worker, group: list[Worker]) -> None:
    try:
        group.remove(worker)
    except ValueError:  # it is not there, or another thread was quicker
        return


def _died(worker: Worker) -> bool:
    thread = worker.thread
    return thread is not None and thread.ident is not None and runtime.has_ended(thread)


def _stands(record: Record, worker: Worker | None) -> str:
    """Where a release is that does not come back, as text."""
    ident = None if worker is None else worker.ident
    frame = None if ident is None else sys._current_frames().get(ident)
    try:
        if ident is None or frame is None:
            return ""
        # The line of a library, not that of the standard library's it waits in.
        while frame is not None and frame.f_code.co_filename.startswith(STANDARD):
            frame = frame.f_back
        ours = frame is None or frame.f_code.co_filename.startswith(runtime.OURS)
        at = shown(record.release) if ours else runtime.describe_site(runtime.site_of(frame))
        return f": thread {runtime.thread_name(ident)} is in {at}"
    finally:
        frame = None


STANDARD = tuple(
    os.path.join(os.path.dirname(threading.__file__), part)
    for part in (
        "threading.py",
        "queue.py",
        "subprocess.py",
        "socket.py",
        "selectors.py",
        "concurrent",
        "asyncio",
    )
)
"""Files of the standard library in which threads wait."""


def _name_of(thread: threading.Thread | None) -> str:
    return "" if thread is None else thread.name


class Workers(Place):
    """The timed workers of one manager. Made without threads; `start` makes them."""

    inline = False

    def __init__(self, registry: Registry) -> None:
        self.name = "BACKGROUND"
        self.registry = registry
        self.timeout: float = registry.config.finalizer_timeout
        self.last_run: float = 0.0
        self._reset()

    def _reset(self) -> None:
        self.mailbox: runtime.SimpleQueue[Record | Batch | Job | None] = runtime.SimpleQueue()
        self.put: Callable[[Record], None] = self.mailbox.put
        self.requeue: Callable[[Record], None] = self.mailbox.put
        self.timelines: Timelines = Timelines()
        self.running: dict[int, Worker] = {}
        self.by_ident: dict[int, Worker] = {}
        self.healthy: list[Worker] = []
        self.stuck: list[Worker] = []
        self.stopping: bool = False
        self.unstartable: bool = False
        self.hold_back: bool = False  # while a batch runs in its order, single tickets wait
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
        worker.thread = runtime.new_thread(
            ending_with(worker.over, worker.run), f"lifecycle-release-{self.registry.name}"
        )
        try:
            self.healthy.append(worker)
            runtime.begin(worker.thread)
        except runtime.NotBegunError:  # should it begin after all, it enters itself again
            _take_out(worker, self.healthy)
            return False
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
            _take_out(worker, group)
        if not self.stopping and not (worker.written_off and self.healthy):
            self._start_one()

    def clear_stack(self, worker: Worker) -> None:
        """Nothing runs on `worker` any more."""
        for record, _ in worker.stack:
            if self.running.get(record.id) is worker:
                self.running.pop(record.id, None)
        worker.stack.clear()

    @property
    def dead(self) -> int:
        """Workers whose thread has ended unexpectedly, and that have not been replaced yet."""
        return sum(map(_died, [*self.healthy, *self.stuck]))

    def _replace_dead(self) -> None:
        """A worker whose thread has ended without a word: by exceptions that struck while others were dealt
        with."""
        for worker in [*self.healthy, *self.stuck]:
            if not _died(worker):
                continue
            for record, _ in worker.stack:
                self.put(record)
            self.clear_stack(worker)
            while worker.left:
                self.put(worker.left.popleft())
            if worker.batch is not None:
                self.mailbox.put(worker.batch)
                worker.batch = None
            if self.by_ident.get(worker.ident) is worker:
                self.by_ident.pop(worker.ident, None)
            self.registry.events.append(
                (
                    "told",
                    "thread_interrupted",
                    {"thread": _name_of(worker.thread), "error": "it has ended, and is replaced"},
                )
            )
            self.ended(worker)

    def __len__(self) -> int:
        return self.mailbox.qsize()

    def tickets(self) -> set[int] | None:
        """As `Place.tickets`. The queue cannot be looked into, only be seen empty."""
        return None if self.mailbox.qsize() or self.held_back or self.hold_back else set()

    @property
    def quarantined(self) -> int:
        """Releases that are not started because every worker that may exist is stuck."""
        return len(self) if self.stuck and not self.healthy else 0

    def settle(self, record: Record, timeout: float | Default | None) -> bool:
        """As `Place.settle`."""
        if runtime.collecting and runtime.in_collector():
            return False
        worker = self.by_ident.get(runtime.get_ident())
        if worker is not None:
            try:
                if record() is None and len(worker.stack) < NEST_LIMIT and not runtime.near_limit():
                    process(record, worker)
            finally:
                worker.closing = None  # before what others left is looked at
                if worker.left:
                    worker.go_on_with_left()
            if timeout is DEFAULT:
                return self._await_another(worker, record)
        if worker is None and self.unstartable and not self.healthy and not self.stuck:
            process(record)  # no thread could be started any more: here, without a deadline, or never
        if record.phase in ENDED or timeout == 0 or runtime.must_not_wait():
            return record.phase is RELEASED
        if not self.registry.started:
            self.registry.tend()
        if timeout is DEFAULT:
            if record() is not None or self.quarantined or _need_not_wait(record):
                return False
            # A worker has just been woken. With the GIL it may be through before a wait here is set up.
            runtime.give_way()
            if record.phase in ENDED:
                return record.phase is RELEASED
            until = runtime.monotonic() + self.timeout + SLACK
            return wait_for_end(record, until, HELD_UP_LOOK, insist=False, unless=_need_not_wait)
        return wait_for_end(record, None if timeout is None else runtime.monotonic() + timeout, None)

    def will_shut(self, record: Record) -> None:
        """As `Place.will_shut`: what a release closes runs on its own worker, so the others are to leave the
        ticket alone."""
        worker = self.by_ident.get(runtime.get_ident())
        if worker is not None and not (runtime.collecting and runtime.in_collector()):
            worker.closing = record

    def will_not_settle(self) -> None:
        """As `Place.will_not_settle`."""
        worker = self.by_ident.get(runtime.get_ident())
        if worker is not None:
            worker.closing = None  # before what others left is looked at
            worker.go_on_with_left()

    def _await_another(self, worker: Worker, record: Record) -> bool:
        """A release closed what another worker was quicker to begin: wait for that, unless it waits itself,
        perhaps for us."""
        try:
            worker.waits = True
            other = self.running.get(record.id)
            if other is not None and other is not worker and not other.waits and not runtime.must_not_wait():
                wait_for_end(record, runtime.monotonic() + self.timeout + SLACK, None, insist=False)
        finally:
            worker.waits = False
        return record.phase is RELEASED

    def run_one(self, record: Record) -> None:
        """As `Place.serve`."""
        worker = self.by_ident.get(runtime.get_ident())
        if worker is not None and not runtime.near_limit():
            process(record, worker)

    # -- called by the keeper --------------------------------------------------------------------------------

    def watch(self) -> None:
        """Declare stuck what is past its deadline, and see that tickets find a worker."""
        now = runtime.monotonic()
        self._replace_dead()
        if len(self.healthy) + len(self.stuck) < INITIAL_WORKERS and not (self.stopping or self.unstartable):
            self._start_one()  # one that has ended was interrupted before it started another
        for worker in [*self.healthy, *self.stuck]:
            for record, deadline in list(worker.stack):
                if (
                    now >= deadline
                    and self.running.get(record.id) is worker
                    and self.running.pop(record.id, None) is not None
                ):
                    self.declare_stuck(record, now, worker)
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

    def declare_stuck(self, record: Record, now: float, worker: Worker | None = None) -> None:
        """Its deadline is past: it is never run again. `worker`: on which it still runs."""
        extra = record.more()
        kept = ". Its parent is kept" if record.parent is not None else ""
        extra.reason = (
            f"its release has not come back for {self.timeout:g} s{_stands(record, worker)}{kept}. If it may "
            "take longer: finalizer_timeout="
        )
        record.ended = now
        record.phase = STUCK
        self.registry.ended.append(record)
        notify(self.registry, record.id)

    def _write_off(self, worker: Worker) -> None:
        """Expect nothing more of a worker, and have another in its place if there may be one."""
        if not worker.written_off:
            worker.written_off = True
            _take_out(worker, self.healthy)
            self.stuck.append(worker)
            batch = worker.batch
            if batch is not None:
                self.mailbox.put(batch)
            worker.go_on_with_left()
            if len(self.healthy) + len(self.stuck) < self.limit:
                self._start_one()

    def call(self, fn: Callable[[], object], timeout: float) -> None:
        """Call ``fn()`` on a worker (here, where there is none) and raise what it raises, or `LifecycleError`
        when it is not back after `timeout` seconds; its worker is written off then."""
        if not self.healthy:
            fn()
            return
        job = Job(fn)
        self.mailbox.put(job)
        try:
            error = job.done.get(timeout=timeout)
        except runtime.Empty:
            begun = not job.todo
            job.todo.clear()
            if begun and job.worker is not None:
                self._write_off(job.worker)
            raise LifecycleError(
                f"{fn!r} did not {'return' if begun else 'begin'} within {timeout:.3g} s and was left behind"
            ) from None
        if error is not None:
            raise error

    def stop(self, timeout: float) -> None:
        """Let the workers run out and join the healthy ones for `timeout` seconds."""
        self.stopping = True
        workers = list(self.healthy)
        for _ in workers:
            self.mailbox.put(None)
        until = runtime.monotonic() + timeout
        for worker in workers:
            thread = worker.thread
            if thread is not None and thread.ident not in (None, runtime.get_ident()):
                await_thread(thread, worker.over, max(0.0, until - runtime.monotonic()))

    def after_fork(self) -> None:
        """In the child: no thread of the parent's is here (but the one that forked), and its tickets are not
        ours."""
        for worker in [*self.healthy, *self.stuck]:
            worker.inherited = worker.written_off = True
        self._reset()
