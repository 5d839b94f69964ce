"""Release queues: places that their owner drains, and that can be lost.

A queue lives through generations: each loss ends one, so that a native name of a lost one can never reach an
object of the next.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from operator import attrgetter, is_
from threading import Thread
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.checks import check_callback
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.ends import wait_for_end
from lifecycle._core.fence import MODES, FenceMode
from lifecycle._core.idioms import taking
from lifecycle._core.keeping import Uncopied
from lifecycle._core.place import DRAIN_STEPS, DequePlace, NamedPlace
from lifecycle._core.record import Record
from lifecycle._core.release import NEST_LIMIT, end_without_release, nesting, process
from lifecycle._core.runtime import BRIEF_WAIT, Tally, near_limit
from lifecycle._core.tables import Registry
from lifecycle._core.timelines import busy, poll_busy
from lifecycle._core.waiting import poll
from lifecycle.errors import (
    LifecycleError,
    RegistrationError,
    WrongContextError,
    WrongThreadError,
)
from lifecycle.places.loops import LoopNotifier
from lifecycle.states import ENDED, ORPHANED, RELEASED, Cause

_place_of = attrgetter("place")


HANDS_FULL = 0.05
"""Seconds that the loss of a queue waits for those of its objects that another thread has just claimed."""


def _all_let_go(registry: Registry, records: list[Record]) -> bool:
    return all(record.phase in ENDED or record.id not in registry.claims for record in records)


class Generation(DequePlace):
    """One life of a `ReleaseQueue`: from its start, or its last loss, to its next. Records refer to the
    generation, so a native name of a lost one can never reach an object of the next."""

    orphaned: int

    def __init__(
        self,
        name: str,
        thread: int | None,
        owner: Thread | None,
        queue: ReleaseQueue,
        notifier: LoopNotifier | None,
    ) -> None:
        super().__init__(name)
        self.thread: int | None = thread
        # An identity is given again once its thread has ended: this one is not.
        self.owner: Thread | None = owner
        # Lives as long as a record refers to this: it must be possible to drain it.
        self.queue: ReleaseQueue = queue
        self.world: int = id(self)
        self.notifier: LoopNotifier | None = notifier
        if notifier is not None:
            self.mailbox: deque[Record | None] = notifier.mailbox
            self.put: Callable[[Record], None] = notifier.put
            self.requeue: Callable[[Record], None] = notifier.mailbox.append
            self.takes: Iterator[Record | None] = taking(self.mailbox.popleft)
        self.here: Callable[[], bool] | None = queue.here
        self.fence_mode: FenceMode = queue.fences
        self.handed: Tally | None = queue.handed
        self.registries: weakref.WeakSet[Registry] = weakref.WeakSet()
        self.swept: bool = False
        self.held: list[
            Record
        ] = []  # orphans that were in use when the queue was lost, and that have a parent

    def __len__(self) -> int:
        return len(self.mailbox) + (len(self.notifier) if self.notifier is not None else 0)

    def tickets(self) -> set[int] | None:
        """As `Place.tickets`. What has not reached the mailbox yet cannot be looked at."""
        return None if self.notifier is not None and len(self.notifier) else super().tickets()

    def run_some(self, limit: int | None, patience: float = runtime.COLLECTION_WAIT) -> int:
        """As `DequePlace.run_some`."""
        notifier = self.notifier
        if notifier is None:
            return super().run_some(limit, patience)
        try:
            notifier.hand_over()
            return super().run_some(limit, patience)
        finally:
            if self.mailbox and not notifier.ringing:
                notifier.put(None)

    def may_run_here(self) -> bool:
        """Return True if this thread may run the tickets: the owner's, or any once nothing native is touched
        any more."""
        if self.lost_reason is not None:
            return True
        if self.here is not None:
            return is_here(self.here)
        return self.thread is not None and self.thread == runtime.get_ident() and not self.abandoned()

    def abandoned(self) -> bool:
        """Return True if the thread that owns the queue is known to have ended: its releases can no longer be
        run."""
        return self.owner is not None and runtime.has_ended(self.owner)

    def settle(self, record: Record, timeout: float | Default | None) -> bool:
        """As `Place.settle`."""
        if runtime.collecting and runtime.in_collector():
            return False
        here = self.may_run_here()
        if here:
            self._serve_here(record)
        if record.phase in ENDED or timeout is DEFAULT or timeout == 0 or runtime.must_not_wait():
            return record.phase is RELEASED
        return wait_for_end(
            record, None if timeout is None else runtime.monotonic() + timeout, 0.001 if here else None
        )

    def run_one(self, record: Record) -> None:
        """As `Place.serve`."""
        if self.may_run_here():
            self._serve_here(record)

    def _serve_here(self, record: Record) -> None:
        """As `serve`, where `may_run_here` has said so."""
        if not near_limit():
            depth = nesting() if record.kind.registry.claims else 0
            if (
                record() is None
                and depth < NEST_LIMIT
                and process(record, None, BRIEF_WAIT)
                and record.phase is not ORPHANED
            ):
                self.queue.at_once.add()
            if not depth:
                self.run_some(DRAIN_STEPS, BRIEF_WAIT)

    def lose(self) -> int:
        """Orphan everything registered here and not ended. Callable on any thread, and again after an
        interrupt."""
        count = 0
        for registry in runtime.snapshot(self.registries):
            records = runtime.snapshot(registry.records.values())
            ours = list(
                itertools.compress(records, map(is_, map(_place_of, records), itertools.repeat(self)))
            )
            for record in ours:
                if end_without_release(
                    record, ORPHANED, Cause.INVALIDATE, f"queue {self.name!r} was lost: {self.lost_reason}"
                ):
                    count += 1
            # The keeper sweeps as well, and may have one of them in its hand.
            unfinished = [record for record in ours if record.phase not in ENDED]
            if unfinished:
                poll(partial(_all_let_go, registry, unfinished), HANDS_FULL)
            self.held += [record for record in ours if record.parent is not None]
        self.orphaned += count
        self.swept = True
        return count

    def settled(self) -> bool:
        """Finish a loss that an interrupt cut short, let go what orphans held while they were held; True when
        nothing is left."""
        if not self.swept:
            self.lose()
        for record in self.held:
            if record() is None:
                record.parent = None
        self.held = [record for record in self.held if record.parent is not None]
        return not self.held


def is_here(here: Callable[[], object]) -> bool:
    """What a queue's condition says: only True is True, and neither another answer nor an exception is.
    Ctrl-C passes."""
    try:
        return here() is True
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and runtime.on_main_thread():
            raise
        return False


losses: dict[ReleaseQueue, None] = {}
"""The queues with lost generations of which something is left: the keepers look after those alone."""


belled: weakref.WeakSet[ReleaseQueue] = weakref.WeakSet()
"""The queues that an event loop drains: the keepers see that the thread which tells the loop runs."""


class ReleaseQueue(Uncopied):
    """A place that its owner drains: a GL thread, a main loop, anything that alone may touch the native
    objects.

    Parameters
    ----------
    name:
        Shown in metrics, messages and reports.
    thread:
        The thread that owns the queue (a `threading.Thread`, an identity as of `threading.get_ident()`, or
        ``"current"``). `close` on this thread releases at once, and `drain` on any other thread raises
        `WrongThreadError`. None: `close` only puts the release into the queue, and any thread may drain it.
    post:
        If given, an event loop drains the queue: ``post(fn)`` must make the loop call ``fn()`` soon, on the
        thread that owns the queue, and be callable on any thread (``loop.call_soon_threadsafe`` of asyncio,
        `GLib.idle_add`). It is called when a release falls due, on a thread of the queue's own. Without it
        the owner calls `drain`.
    here:
        If given, the queue belongs to a context instead of a thread: ``here()`` returns True if the native
        names are valid on this thread at this moment (a GL context that is current). Then `close` releases at
        once, and `drain` is allowed. With any other result, or an exception, `close` only puts the release
        into the queue, and `drain` raises `WrongContextError`. It is called once for each close and drain.
        Not together with `thread`.
    fences:
        ``"poll"``: an entry whose fence is pending stays in the queue, and the next one runs. For comparison:
        ``"wait"`` blocks until the fence has signalled, up to ``finalizer_timeout``; ``"ignore"`` does not
        ask the fence, which corrupts memory that is still in use.

    ``register(..., release_on=queue)`` chooses it. All methods may be called on any thread, `drain` where the
    owner allows.
    """

    _remedy = "pass the queue itself, or make another for another owner"

    def __init__(
        self,
        name: str,
        *,
        thread: Any = None,
        post: Callable[[Callable[[], None]], object] | None = None,
        fences: FenceMode = "poll",
        here: Callable[[], bool] | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise RegistrationError(f"a ReleaseQueue needs a name, not {name!r}")
        if post is not None:
            check_callback(post, f"post= of queue {name!r}")
        if here is not None:
            check_callback(here, f"here= of queue {name!r}")
            if thread is not None:
                raise RegistrationError(
                    f"ReleaseQueue {name!r} takes thread= or here=, not both: a world that is current on one "
                    "thread alone can say so in here()"
                )
        if fences not in MODES:
            raise RegistrationError(
                f"ReleaseQueue(fences=) takes one of {', '.join(map(repr, MODES))}, not {fences!r}"
            )
        self.name = name
        self.fences = fences
        self.here = here
        self.at_once: Tally = Tally()  # releases that ran where they were closed
        self.handed: Tally = Tally()  # and those that came here from elsewhere
        self._thread, self._owner = _owner_of(thread)
        self._lost: deque[Generation] = deque()
        self._orphaned = 0
        self._notifier = None if post is None else LoopNotifier(self, post)
        self.generation: Generation = self._new_generation()
        runtime.at_fork_in_child(self._after_fork)
        if self._notifier is not None:
            self._notifier.start()
            belled.add(self)

    def _new_generation(self) -> Generation:
        return Generation(self.name, self._thread, self._owner, self, self._notifier)

    @property
    def backlog(self) -> int:
        """Tickets that wait for a drain."""
        return len(self.generation)

    @property
    def last_drain(self) -> float:
        """Unix time of the last drain, 0.0 before the first."""
        return self.generation.last_drain

    @property
    def orphaned(self) -> int:
        """The number of objects that are never released because the queue was lost."""
        return self._orphaned + sum(generation.orphaned for generation in runtime.snapshot(self._lost))

    @property
    def problem(self) -> str:
        """The reason why the waiting releases will not run, if it is known; else an empty text."""
        waiting = self.backlog
        if not waiting:
            return ""
        what = f"queue {self.name!r}: {waiting} release(s) wait"
        if self.generation.abandoned():
            return f"{what}, but the thread that owns it has ended; give them up with lost()"
        if self._notifier is not None and self._notifier.problem:
            problem = self._notifier.problem
            return f"{what}, but its event loop takes no turn: {problem}; call drain() on its thread"
        return ""

    def oldest(self) -> float:
        """Unix time at which the object of the oldest waiting ticket was closed, 0.0 when none waits."""
        notifier = self._notifier
        if notifier is not None:
            notifier.hand_over()
            if notifier.mailbox and not notifier.ringing:
                notifier.put(None)
        for record in runtime.snapshot(self.generation.mailbox):
            if record is not None and record.phase not in ENDED:
                return runtime.wall_time() - (runtime.monotonic() - (record.shut or runtime.monotonic()))
        return 0.0

    def drain(self, limit: int | None = None) -> int:
        """Run up to `limit` waiting releases on this thread (None: all), and return how many ran. A release
        that fails is counted and reported, and the next one runs. Raises `WrongThreadError` on a thread that
        does not own the queue (`WrongContextError` where ``here()`` is not true), and `RecursionError` where
        so little recursion is left that releases could fail for that alone; none is begun then. While another
        thread collects garbage it waits for that, ten seconds at most."""
        return self._drain(limit)

    def _turn(self, limit: int) -> bool:
        """As `drain`, for a loop, which has other work: return False at once where another thread collects
        garbage, so that nothing can be released now."""
        before = self.backlog
        return self._drain(limit, BRIEF_WAIT) > 0 or self.backlog < before or not runtime.collecting

    def _drain(
        self,
        limit: int | None = None,
        patience: float = runtime.COLLECTION_WAIT,
        asked: bool = False,
        polled: bool = False,
    ) -> int:
        """As `drain`. The caller has `asked` whether it is here, and `polled` what is in flight."""
        if self._thread is not None and (self._thread != runtime.get_ident() or self.generation.abandoned()):
            if self.generation.abandoned():
                raise WrongThreadError(
                    f"queue {self.name!r} belongs to a thread that has ended: its native names are valid "
                    "nowhere any more; give its objects up with lost(), and make a new queue"
                )
            raise WrongThreadError(
                f'queue "{self.name}" belongs to thread {runtime.thread_name(self._thread)}; drain() came '
                f"from {runtime.thread_name(runtime.get_ident())}. Call it there, or give the queue "
                "post=loop.call_soon_threadsafe."
            )
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise LifecycleError(
                f"drain(limit) of queue {self.name!r} takes a whole number above 0 or None, not {limit!r}"
            )
        generation = self.generation
        if self.here is not None and not asked and not is_here(self.here):
            raise WrongContextError(
                f"queue {self.name!r} cannot be drained here: its native names mean nothing on this thread "
                "now; make its context current and drain it again"
            )
        if busy and not polled:
            poll_busy(generation)
        if len(generation):
            runtime.refuse_near_limit(f"drain() of queue {self.name!r}")
        generation.last_drain = runtime.wall_time()
        return generation.run_some(limit, patience)

    def lost(self, reason: str) -> int:
        """Tell the queue that its context is gone. Every object of the queue is orphaned: closed, counted,
        and never released. New registrations start a new generation. Return the number of orphaned objects.
        Callable on any thread."""
        self.sweep_lost()
        reason = str(reason)
        old = self.generation
        old.lost_reason = reason
        losses[self] = None  # nothing is called since, so no interrupt leaves a loss that nobody looks after
        self._lost.append(old)
        self.generation = new = self._new_generation()
        new.last_drain = old.last_drain
        count = old.lose()
        self.sweep_lost()
        return count

    def sweep_lost(self) -> None:
        """Forget lost generations of which nothing is left. Touches no native object, so any thread may."""
        for generation in runtime.snapshot(self._lost):
            if generation.settled():
                try:
                    self._lost.remove(generation)
                except ValueError:  # another thread was quicker
                    continue
                self._orphaned += generation.orphaned
        if not self._losing():
            losses.pop(self, None)
            if self._losing():  # meanwhile
                losses[self] = None

    def _losing(self) -> bool:
        return bool(self._lost) or self.generation.lost_reason is not None

    def look_after_bell(self) -> None:
        """See that the thread which tells the event loop runs. Called by the keeper."""
        notifier = self._notifier
        if notifier is not None:
            notifier.start()

    def _after_fork(self) -> None:
        self._notifier = None  # its thread is not here, and the loop is the parent's
        old, self.generation = self.generation, self._new_generation()
        old.after_fork()

    def __repr__(self) -> str:
        return f"<ReleaseQueue {self.name!r}: {self.backlog} waiting>"


def _owner_of(thread: Any) -> tuple[int | None, Thread | None]:
    """The identity of the owner, and the thread itself where Python knows it."""
    if thread is None:
        return None, None
    if thread == "current":
        thread = runtime.get_ident()
    if isinstance(thread, int):
        return thread, runtime.thread_of(thread)
    ident = getattr(thread, "ident", None)
    if isinstance(ident, int):
        return ident, thread if callable(getattr(thread, "is_alive", None)) else None
    raise RegistrationError(f"thread= takes a started Thread, an identity or 'current', not {thread!r}")


PlaceLike = ReleaseQueue | NamedPlace
