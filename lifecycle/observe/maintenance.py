"""The keeper: one thread per manager that has things counted (`ledger.py`), watches deadlines, retries and
sweeps.

**The role.** One thread counts at a time, by holding a lock; whoever needs figures takes it and counts. No
other thread has to run for an answer.

**Nothing slow in here.** Releases that did not run go to the timed workers, logging and hooks to the
`Observer` thread behind a bounded queue that drops and counts. So an observer that blocks for ever stops
neither counts, nor sweeps, nor deadlines.

**Back-pressure.** `HIGH_WATER` events wake the keeper early; above `FULL` a registering thread yields to it,
for a bounded time.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial

from lifecycle._core import kept, runtime
from lifecycle._core.describe import describe
from lifecycle._core.dropped import is_kept
from lifecycle._core.exports import exported
from lifecycle._core.exports import sweep as sweep_exports
from lifecycle._core.place import AnyThread
from lifecycle._core.record import Record
from lifecycle._core.release import notify
from lifecycle._core.tables import Registry
from lifecycle._core.timelines import busy
from lifecycle._core.waiting import Flag, Inbox, await_thread, ending_with, poll
from lifecycle.errors import text_of
from lifecycle.observe.ledger import Ledger
from lifecycle.observe.lost import LostTickets
from lifecycle.observe.observers import Observer
from lifecycle.observe.snapshot import figures, queue_figures
from lifecycle.places.queues import ReleaseQueue, belled, losses
from lifecycle.places.workers import Workers
from lifecycle.states import ENDED
from lifecycle.stats import Health, QueueStats, SafetyStats

TICK = 0.05
"""Seconds between two passes while there is work."""
IDLE_TICK = 0.25
"""Seconds between two passes once little has happened for a while."""
LITTLE = 64
"""Registrations and ends in one pass that are little where nothing else has happened: a stream of frames."""
FULL = 100_000
HAND_OVER_AFTER = 0.2
"""Seconds for which a ticket that any thread may run has waited before a timed worker is given it. A busy
loop runs its own."""
SHUT_FOR_LONG = 1.0
"""Seconds between two collections asked for without the GIL while doors are shut and objects not released."""
RECOVERY = (0.001, 1.0)
"""Seconds between two beginnings of the keeper's loop after an exception, doubled from the first to the
longest: what fails each time must neither keep a core busy nor fill the log."""
ROLE_WAIT = 10.0
"""Seconds a scrape waits for another thread to be done with counting before it takes the last known
figures."""
_EMPTY = object()


def _ask(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:
        return f"a check failed: {text_of(error)}"


class Maintenance:
    """Counts for one manager. What stands under «from any thread» is called there; the rest runs on the
    keeper's thread."""

    def __init__(self, registry: Registry, any_thread: AnyThread, workers: Workers) -> None:
        self.registry = registry
        self.any_thread = any_thread
        self.workers = workers
        self.observer: Observer = Observer(registry.name, registry.config)
        self.ledger: Ledger = Ledger(registry, self.observer)
        self.queues: weakref.WeakSet[ReleaseQueue] = weakref.WeakSet()
        self.checks: dict[int, Callable[[], str]] = {}
        """What `health` asks besides."""
        self.lost: LostTickets = LostTickets(registry, workers)
        self.sweeps: list[Callable[[], None]] = []
        self.last_run: float = 0.0
        self._bell: Inbox[None] = Inbox()
        self._thread: threading.Thread | None = None
        self._over = Flag()  # set by the thread's last act
        self._role = runtime.Lock()  # held by who counts
        self._counts: dict[int, bool] = {}  # by thread that takes the role: whether it has it
        self._halted: dict[int, bool] = {}  # threads that fork: whether they hold it
        self._stop = False
        self._lingering = False
        self._next_sweep = runtime.monotonic() + registry.config.cleanup_interval
        self._idle = 0
        self._shut_since = 0.0
        # Of the ANY_THREAD mailbox, at the last pass; None is a ticket that means nothing.
        self._head: object = _EMPTY
        self._head_since = 0.0
        self._last: SafetyStats | None = None

    # -- from any thread -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; callable again after `after_fork`."""
        self.registry.wake = self.wake
        self.registry.relieve = self.relieve
        thread = self._thread
        if (
            thread is not None
            and thread.ident is not None
            and thread is not threading.current_thread()
            and not runtime.has_ended(thread)
        ):
            return
        self._stop = False
        self._over = over = Flag()
        self._thread = runtime.new_thread(
            ending_with(over, self._run), f"lifecycle-keeper-{self.registry.name}"
        )
        runtime.begin(self._thread)

    @property
    def alive(self) -> bool:
        """True if the thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def wake(self) -> None:
        """Have the next pass at once."""
        self._bell.put(None)

    def relieve(self) -> None:
        """Called by a registering thread that sees `HIGH_WATER` events waiting: wake the keeper, and yield
        when it is `FULL`. Not where this thread counts, which the keeper waits for: a ``__del__`` that
        registers, run in the middle of it."""
        events = self.registry.entered
        if not len(self._bell):
            self._bell.put(None)
        if (
            len(events) >= FULL
            and not runtime.must_not_wait()
            and not self._counts.get(runtime.get_ident())
            and self.alive
        ):
            poll(lambda: len(events) < FULL // 2, 0.05, first=0.001)

    def ask(self) -> SafetyStats:
        """Exact figures: everything that happened before this call is in them, and is counted here. Callable
        on any thread. Inside a collection, and where another thread has been counting for `ROLE_WAIT`
        seconds, it answers with the last figures taken. In the middle of counting on this thread (a signal
        handler, a ``__del__``) it answers with what was counted so far."""
        me = runtime.get_ident()
        if runtime.collecting and runtime.in_collector():
            return self._last or self._figures()
        if self._counts.get(me):
            return self._figures()
        if not self.registry.started and self._thread is not None:  # it has died: see `_run`
            self.registry.tend()
        answers: list[SafetyStats] = []
        self._count(partial(self._answer, answers), 0.0 if runtime.must_not_wait() else ROLE_WAIT)
        return answers[0] if answers else self._last or self._figures()

    def _answer(self, answers: list[SafetyStats]) -> None:
        self.ledger.count_all()
        self.ledger.trim()
        answers.append(self._figures())
        self.ledger.expire()

    def count_here(self) -> None:
        """Called by a registering thread now and then: count the plain ends, unless a thread counts
        already."""
        if not self._counts.get(runtime.get_ident()):
            self._count(self.ledger.count_here, 0.0)

    def _count(self, work: Callable[[], object], timeout: float) -> None:
        """Call ``work()`` with the role, or not at all where it cannot be had within `timeout` seconds (below
        0: however long it takes). Not to be called by who has it."""
        me = runtime.get_ident()
        role, counts = self._role, self._counts  # a fork in ``work()`` makes others
        try:
            for counts[me] in map(role.acquire, (timeout != 0.0,), (timeout or -1,)):  # K2
                pass
            if counts[me]:
                work()
        finally:  # no call up to the last one that matters
            if me in counts and counts[me]:  # noqa: RUF019 - `get` would be a call
                counts[me] = False
                role.release()
            counts.pop(me, None)

    def stop(self, timeout: float) -> None:
        """End the thread; who asks from now on counts."""
        self._stop = True
        self._bell.put(None)
        thread = self._thread
        if thread is not None and thread.ident not in (None, runtime.get_ident()):
            await_thread(thread, self._over, timeout)
        self.tell_all(timeout)
        self.observer.stop(timeout)

    def tell_all(self, timeout: float = ROLE_WAIT) -> None:
        """Count what has happened, and have observers told what was held back: the end may be near. Waits up
        to `timeout` seconds for another thread that counts. Callable on any thread but inside a
        collection."""
        if not self._counts.get(runtime.get_ident()):
            self._count(self._tell_all, timeout)

    def _tell_all(self) -> None:
        self.ledger.count_all()
        self.ledger.leaks.tell_held_back()

    def linger(self) -> None:
        """End the threads when the last object that is still held has ended. What there is to tell is told
        now: the process may end before that."""
        self._lingering = True
        self.wake()
        self.tell_all(1.0)
        self.observer.stop(1.0)

    def before_fork(self) -> None:
        """Have the counting stand still, so that the child inherits no half-counted batch. For a bounded
        time."""
        me = runtime.get_ident()
        if not self._counts.get(me) and not self._halted.get(me):
            # K2: an interrupt between the two would leave it taken for good.
            halted, acquire = self._halted, self._role.acquire
            for halted[me] in map(acquire, (True,), (1.0,)):
                pass

    def after_fork_in_parent(self) -> None:
        """Go on."""
        me = runtime.get_ident()
        if self._halted.get(me):
            self._halted[me] = False  # no call between the two
            self._role.release()
        self._halted.pop(me, None)

    def after_fork(self) -> None:
        """In the child: no thread, fresh locks; what the parent had not counted stays to be counted by the
        child's keeper."""
        self._thread = None
        self._bell = Inbox()
        self._role = runtime.Lock()
        self._counts = {}
        self._halted = {}
        # Should the fork have been a hook's, in which case its thread goes on here.
        self.observer.queue.put(None)
        hooks, leak_hooks = self.observer.hooks, self.observer.leak_hooks
        self.observer = Observer(self.registry.name, self.registry.config)
        self.observer.hooks, self.observer.leak_hooks = hooks, leak_hooks
        self.ledger.observer = self.observer
        self.ledger.after_fork()
        self.registry.wake = self.wake
        self.registry.relieve = self.relieve

    # -- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Go on whatever another thread raises in this one. Where a second exception ends it all the same,
        another thread is started, at the latest by the next registration, close or scrape, which find
        `Registry.started` false."""
        me = threading.current_thread()
        pause, longest = RECOVERY
        try:
            while True:
                try:
                    self._keep(me)
                    break
                except BaseException as error:
                    self.registry.events.append(
                        ("told", "thread_interrupted", {"thread": me.name, "error": text_of(error)})
                    )
                    if self._stop and pause >= longest:
                        # What is left cannot be counted: whoever asks tries again, and is told why.
                        break
                    runtime.sleep(pause)
                    pause = min(2 * pause, longest)
        finally:
            if not self._stop and self._thread is me:
                self.registry.started = False
                with contextlib.suppress(RuntimeError):  # the interpreter shuts down: the exit pass counts
                    self.start()
                    self.registry.started = True

    def _keep(self, me: threading.Thread) -> None:
        fine = min(TICK, self.registry.config.finalizer_timeout / 4)
        while not self._stop and self._thread is me:
            pause = fine if self._idle < 20 or self.workers.running else max(fine, IDLE_TICK)
            delayed = self.registry.delayed
            if delayed:
                pause = min(
                    pause,
                    max(
                        0.0005,
                        min((when for when, _ in runtime.snapshot(delayed)), default=0.0)
                        - runtime.monotonic(),
                    ),
                )
            try:
                self._bell.get(pause)
                while len(self._bell):
                    self._bell.get(0)
            except runtime.Empty:
                pass
            try:
                self._pass()
            except Exception as error:  # a bug of ours: what was being counted is lost, nothing else is
                self.observer.tell_failure(error)
            if self._lingering and not self._live():
                self._stop = True
                self.workers.stop(0)
                self.tell_all()
                self.observer.stop(0)
        if self._thread is me or self._stop:
            self._pass()

    def _live(self) -> int:
        return sum(kind.count.live for kind in runtime.snapshot(self.registry.kinds.values()))

    def _pass(self) -> None:
        self.last_run = runtime.wall_time()
        self._count(self._count_all, -1.0)
        runtime.watch_collections()
        self.lost.make_up()
        self.lost.look()
        if exported:
            sweep_exports()
        self._post_delayed()
        self._forget_waiters()
        self._hand_over()
        if runtime.free_threaded:
            self._let_die()
        self.workers.watch()
        if runtime.monotonic() >= self._next_sweep:
            self._next_sweep = runtime.monotonic() + self.registry.config.cleanup_interval
            for sweep in self.sweeps:
                sweep()

    def _count_all(self) -> None:
        told = bool(self.registry.events)
        if self.ledger.count_all() > LITTLE or told:
            self._idle = 0
        else:
            self._idle += 1
        self.ledger.leaks.look()
        self.ledger.expire()
        self.ledger.sweep()
        if kept.later:
            kept.sweep()

    def _forget_waiters(self) -> None:
        """Wake the threads that wait for the end of what has ended: one that came late, or whose leaving was
        interrupted."""
        for id in runtime.snapshot(self.registry.waiters):
            record = self.registry.records.get(id)
            if record is None or record.phase in ENDED:
                notify(self.registry, id)

    def _let_die(self) -> None:
        """Without the GIL an object dies on the thread that made it, when that next runs Python; a collection
        does it for one that sleeps. Asked for when doors have been shut for long."""
        now = runtime.monotonic()
        waiting = any(kind.count.shut for kind in runtime.snapshot(self.registry.kinds.values()))
        self._shut_since = (self._shut_since or now) if waiting else 0.0
        if waiting and now - self._shut_since > SHUT_FOR_LONG:
            self._shut_since = now
            runtime.collect()

    def _post_delayed(self) -> None:
        delayed = self.registry.delayed
        now = runtime.monotonic()
        number = len(delayed)
        entry = None
        try:
            for entry in itertools.islice(iter(delayed.popleft, None), number):
                if entry[0] <= now:
                    self._post(entry[1])
                else:
                    delayed.append(entry)
                entry = None
        except BaseException:  # taken and stored in one step, so nothing is lost; twice means nothing
            if entry is not None:
                delayed.append(entry)
            raise

    def _post(self, record: Record) -> None:
        """To its place. A worker looks whether others still refer to what any thread may release: nobody else
        may come by."""
        anywhere = record.place is self.any_thread and is_kept(record) and self.workers.healthy
        (self.workers if anywhere else record.place).put(record)

    def _hand_over(self) -> None:
        """Tickets that did not run go to the timed workers; those of lost queues are orphaned."""
        mailbox = self.any_thread.mailbox
        try:
            head: object = mailbox[0]
        except IndexError:
            head = _EMPTY
        now = runtime.monotonic()
        if head is _EMPTY or head is not self._head:
            self._head, self._head_since = head, now
        elif now - self._head_since >= HAND_OVER_AFTER and mailbox and self.workers.healthy:
            # No register or close comes by to run it.
            self._hand_to_workers(mailbox)
        if losses:
            for queue in runtime.snapshot(losses):
                queue.sweep_lost()
        for queue in runtime.snapshot(belled):
            queue.look_after_bell()

    def _hand_to_workers(self, mailbox: deque[Record | None]) -> None:
        record = None
        try:
            for record in iter(mailbox.popleft, self):
                if record is not None and record.phase not in ENDED:
                    self.workers.put(record)
                record = None
                if not mailbox or not self.workers.healthy:
                    break
        except IndexError:
            record = None
        except BaseException:
            mailbox.appendleft(record)
            raise

    # -- figures ---------------------------------------------------------------------------------------------

    def _figures(self) -> SafetyStats:
        self._last = figures(self.registry, self.ledger, self.workers, self.queue_figures(), self.last_run)
        return self._last

    def queue_figures(self) -> tuple[QueueStats, ...]:
        """The places that releases wait at. Callable on any thread."""
        return queue_figures(self.registry, (self.any_thread, self.workers), self.queues, self.last_run)

    def health(self) -> Health:
        """Return the state of the manager's own threads. Callable on any thread; the call does not depend on
        them."""
        workers = self.workers
        problems = []
        if self._thread is not None and not self._stop and not self.registry.closed and not self.alive:
            problems.append("the keeper thread is gone: nothing is counted, retried or watched")
        if self.alive and self.last_run and runtime.wall_time() - self.last_run > 5:
            problems.append(f"the keeper has not run for {runtime.wall_time() - self.last_run:.0f} s")
        if workers.dead:
            problems.append(f"{workers.dead} release worker(s) have died and are about to be replaced")
        if workers.stuck:
            problems.append(f"{len(workers.stuck)} release worker(s) are stuck")
        if workers.quarantined:
            problems.append(
                f"{workers.quarantined} release(s) are quarantined: every worker that may exist is stuck"
            )
        for record in runtime.snapshot(self.registry.still.values()):
            told = record.more().dropped.told
            if told is not None and record.phase not in ENDED:
                problems.append(
                    f"{describe(record)} is closed and lives on, since others refer to it"
                    f"{': ' if told else ''}{', '.join(told)}"
                )
        problems += [queue.problem for queue in runtime.snapshot(self.queues) if queue.problem]
        problems += [said for said in map(_ask, runtime.snapshot(self.checks.values())) if said]
        if busy:
            after = self.registry.config.finalizer_timeout
            for timeline in runtime.snapshot(busy.values()):
                problems += timeline.stalled(after, self.registry)
        if self.observer.dropped:
            problems.append(
                f"{self.observer.dropped} event(s) were not told to observers, which are too slow"
            )
        return Health(
            ok=not problems,
            closed=self.registry.closed,
            keeper_alive=self.alive,
            keeper_last_run=self.last_run,
            events_pending=self.registry.pending(),
            stuck_workers=len(workers.stuck),
            stuck_workers_limit=self.registry.config.max_stuck_finalizers,
            quarantined=workers.quarantined,
            backlog={queue.queue: queue.entries for queue in self.queue_figures()},
            observer_events_dropped=self.observer.dropped,
            problems=tuple(problems),
        )
