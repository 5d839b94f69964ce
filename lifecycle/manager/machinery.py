"""The machinery of one manager: its places and its threads, from the first object to the last.

No thread runs before the first registration; they are started with it, since 3.12 starts none once the
interpreter shuts down. What they do not get to in time the registering threads do on their way, in bounded
shares.
"""

from __future__ import annotations

from typing import Any, NoReturn

from lifecycle._core import runtime
from lifecycle._core.describe import about, describe
from lifecycle._core.place import ANY_THREAD, BACKGROUND, DRAIN_STEPS, AnyThread, Place
from lifecycle._core.record import Record
from lifecycle._core.release import nesting, process
from lifecycle._core.tables import HIGH_WATER, Registry
from lifecycle.errors import ClosedError, RegistrationError, shown
from lifecycle.observe.maintenance import Maintenance
from lifecycle.places.queues import ReleaseQueue
from lifecycle.places.workers import Workers
from lifecycle.states import RELEASED


class Machinery:
    """What releases and counts for one manager. All methods may be called on any thread and at any moment."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.any_thread: AnyThread = AnyThread("ANY_THREAD")
        self.workers: Workers = Workers(registry)
        self.maintenance: Maintenance = Maintenance(registry, self.any_thread, self.workers)
        self._background: Place = self.workers if registry.config.enable_finalizer_safety else self.any_thread
        self._starters: dict[None, object] = {}  # who starts the threads
        self._over: bool = False  # the manager has been closed
        registry.waiting = self.any_thread.mailbox
        registry.ring = self.workers.put
        registry.tend = self.tend
        registry.count_here = self.maintenance.count_here
        registry.refuse_closed = self.refuse_closed

    def place_of(self, release_on: Any) -> Any:
        """The place that ``release_on=`` names. Raises `RegistrationError` for what is none, or can no longer
        release."""
        if release_on is BACKGROUND:
            return self._background
        if release_on is ANY_THREAD:
            return self.any_thread
        if isinstance(release_on, ReleaseQueue):
            generation = release_on.generation
            if generation.abandoned():
                raise RegistrationError(
                    f"queue {release_on.name!r} belongs to a thread that has ended, so nothing can be "
                    "released there; make a new queue"
                )
            if release_on not in self.maintenance.queues:
                self.maintenance.queues.add(release_on)
            generation.registries.add(self._registry)
            return generation
        raise RegistrationError(
            f"release_on= takes BACKGROUND, ANY_THREAD or a ReleaseQueue, not {shown(release_on)}"
        )

    def tend(self) -> None:
        """Called by a registration that sees work waiting: a bounded share of it is done here, but none
        inside the collector."""
        if runtime.collecting and runtime.in_collector():
            return
        if self.any_thread.mailbox and not runtime.near_limit() and not (self._registry.claims and nesting()):
            self.any_thread.run_some(DRAIN_STEPS, runtime.BRIEF_WAIT)
        if not self._registry.started:
            self._start()
        if len(self._registry.entered) > HIGH_WATER:
            self._registry.relieve()

    def _start(self) -> None:
        """Start the threads, before the first object. One thread at a time does it; interrupted, it is done
        again by the next registration."""
        me: object = []
        try:
            if self._registry.closed or self._starters.setdefault(None, me) is not me:
                return
            self.workers.start()
            self.maintenance.start()
            runtime.arm_exit()  # in a forked child once more
            self._registry.started = True
            self._end_if_over()
        except RuntimeError:
            self._registry.started = False
        finally:  # nothing is called here: an interrupt finds it undone or done
            try:
                if self._starters[None] is me:
                    del self._starters[None]
            except KeyError:
                me = None

    def _end_if_over(self) -> None:
        """The threads have just been started. A thread that closed the manager meanwhile saw none to end. One
        who still closes it needs them, and will see them."""
        if self._over:
            self.wind_down(lingering=True)

    def refuse_closed(self, record: Record) -> NoReturn:
        """A registration found the manager closed. The object is the manager's, and no thread serves its
        places any more: it goes here."""
        if record.place is self.workers or record.place is self.any_thread:
            process(record)
        else:
            record.place.settle(record, 0)
        ended = "has been released"
        if record.owning <= 0:
            ended = "is its owner's, as before"
        elif record.phase is not RELEASED:
            ended = "has been shut; its release waits for its queue or failed"
        raise about(
            record,
            ClosedError(
                f"manager {self._registry.name!r} is closed: {describe(record)} came too late and {ended}. "
                "Register before close(), or make a new manager."
            ),
        )

    def wind_down(self, lingering: bool) -> None:
        """The manager has been closed: end the threads, or, while somebody still holds something, let them
        end after it."""
        self._over = True  # before the question: see `_end_if_over`
        if not self._registry.started:
            return
        if lingering:
            self.maintenance.linger()
        else:
            self.maintenance.stop(1.0)
            self.workers.stop(1.0)

    def after_fork(self) -> None:
        """In the child: no thread runs, and what waited is the parent's."""
        registry = self._registry
        self._starters = {}
        registry.waiters = registry.waiters.after_fork()
        registry.delayed.clear()
        registry.later = []
        self.any_thread.after_fork()
        registry.waiting = self.any_thread.mailbox
        self.workers.after_fork()
        registry.bells = {}
        registry.ring = self.workers.put
        self.maintenance.after_fork()
        registry.started = False
