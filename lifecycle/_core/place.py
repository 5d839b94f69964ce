"""Places: where releases run, and what the native names are valid in.

A place has a mailbox, and `put`, the C method that is the death callback of its records: a ticket arrives
there without any Python code in between. What is done with a ticket is the same for every place
(`release.py`). The places differ in the thread that does it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from lifecycle._core import runtime
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.ends import let_die, wait_for_end
from lifecycle._core.fence import FenceMode
from lifecycle._core.idioms import taking
from lifecycle._core.record import Record, arm
from lifecycle._core.release import NEST_LIMIT, forget, nesting, process
from lifecycle._core.runtime import BRIEF_WAIT, STEPS, Tally, collecting, cramped, free_threaded, near_limit
from lifecycle._core.timelines import Timelines
from lifecycle.states import ENDED, ORPHANED, RELEASED

DRAIN_STEPS = 32
"""How many waiting tickets one `register` or `close` runs at most on behalf of others."""


class Place:
    """What all places share. `put` is set once and is a C method: it is the death callback of every record of
    the place."""

    name: str
    inline: bool = True  # whoever closes may run the release; False: `will_shut` is called before
    at_once: bool = False  # True: whoever closes as the last runs the release, on any thread (`Handle.close`)
    anywhere: bool = False  # True: whoever lets go as the last runs the release, a worker where that is C
    lost_reason: str | None = None
    world: int = 0  # where a native name that is no address is one native: 0 is the process
    put: Callable[[Record], None]
    requeue: Callable[[Record], None]
    """As `put`, by whoever is running tickets here."""
    timelines: Timelines
    fence_mode: FenceMode = "poll"

    def settle(self, record: Record, timeout: float | Default | None) -> bool:
        """Called by the thread that just closed `record`: run or await its release as the place allows. True
        means released."""
        raise NotImplementedError

    def run_one(self, record: Record) -> None:
        """Run the ticket of `record` if this thread may."""
        raise NotImplementedError

    def will_shut(self, record: Record) -> None:
        """Called before the door of `record` is shut, where `inline` is False."""
        raise NotImplementedError

    def will_not_settle(self) -> None:
        """Called after `will_shut` in place of `settle`, where an exception came between."""
        raise NotImplementedError

    def tickets(self) -> set[int] | None:
        """The ids of the objects whose tickets wait here now; None where that cannot be told at this
        moment."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __bool__(self) -> bool:
        return True


class DequePlace(Place):
    """A place on whose mailbox no thread blocks: every thread that may drain it does."""

    handed: Tally | None = None  # counts what ran out of the mailbox, where that is of interest

    def __init__(self, name: str) -> None:
        self.name = name
        # Every close asks for these three, which CPython finds in the instance several times quicker than in
        # the class.
        self.at_once: bool = type(self).at_once
        self.inline: bool = True
        self.lost_reason: str | None = None
        self.last_drain: float = 0.0
        self.orphaned: int = 0
        self._make_mailbox()

    def _make_mailbox(self) -> None:
        self.mailbox: deque[Record | None] = deque()
        self.put: Callable[[Record], None] = self.mailbox.append
        self.requeue: Callable[[Record], None] = self.mailbox.append
        self.timelines: Timelines = Timelines()
        self.takes: Iterator[Record | None] = taking(self.mailbox.popleft)

    def __len__(self) -> int:
        return len(self.mailbox)

    def tickets(self) -> set[int] | None:
        """As `Place.tickets`."""
        return {record.id for record in runtime.snapshot(self.mailbox) if record is not None}

    def run_some(self, limit: int | None, patience: float = runtime.COLLECTION_WAIT) -> int:
        """Run up to `limit` waiting tickets (None: until none waits) on this thread; how many releases ran.
        Stops where another thread has been collecting for `patience` seconds. Not to be called where
        `near_limit` is true."""
        mailbox = self.mailbox
        if not mailbox:
            return 0
        done = taken = 0
        record = None
        try:
            for record in self.takes:
                if record is not None:
                    if record.phase not in ENDED:
                        ran = process(record, None, patience)
                        if ran:
                            done += 1
                            if self.handed is not None and record.phase is not ORPHANED:
                                self.handed.add()
                        elif ran is None:
                            mailbox.appendleft(record)
                            break
                    else:  # it was run by another, who may have been interrupted before it was forgotten
                        forget(record.kind.registry, record)
                record = None
                taken += 1
                if not mailbox or (limit is not None and taken >= limit):
                    break
        except IndexError:
            if record is not None:
                raise
        except BaseException:
            mailbox.appendleft(record)
            raise
        return done

    def after_fork(self) -> None:
        """In the child: forget the parent's tickets."""
        self._make_mailbox()


class AnyThread(DequePlace):
    """`ANY_THREAD`: quick releases that are safe anywhere. They run inline, by the closer or by whoever lets
    go as the last, and on a worker where that was an array or a view."""

    at_once = True
    anywhere = True

    def settle(self, record: Record, timeout: float | Default | None) -> bool:
        """As `Place.settle`. What is not released here a worker releases as soon as it has no holder."""
        try:
            if (
                timeout is DEFAULT
                and record.cause is not None
                and not self.mailbox
                and not free_threaded
                and arm(record)
            ):
                return False  # somebody holds it, and nothing waits
        except RecursionError:
            return self._settle(record, timeout)
        released = self._settle(record, timeout)
        try:
            if not released and record.cause is not None and record.phase is None and not arm(record):
                record.kind.registry.ring(record)
        except RecursionError:
            return released  # its ticket waits in the mailbox
        return released

    def _settle(self, record: Record, timeout: float | Default | None) -> bool:
        if collecting and runtime.in_collector():
            return False
        claims = record.kind.registry.claims
        if claims and nesting() >= NEST_LIMIT:
            return False
        if record() is None:
            # Builtins are no exception: those of extension modules may call anything.
            try:
                no_room = cramped(STEPS) and near_limit()
            except RecursionError:
                no_room = True
            if no_room:
                # Its ticket waits in the mailbox, for the keeper to hand over to a worker.
                return self._without_room(record, timeout)
            process(record, None, BRIEF_WAIT)
        if self.mailbox and not (claims and nesting()):
            # The ticket of what was just released, and a bounded number of others that wait.
            ticket = None
            try:
                for ticket in self.takes:  # noqa: B007 - FOR_ITER takes and stores in one step, next() would not
                    break
                if ticket is not None and (ticket is not record or record.phase not in ENDED):
                    # Another's, or its last holder has let go only a moment ago.
                    self.mailbox.appendleft(ticket)
            except IndexError:  # another thread was quicker
                ticket = None
            except BaseException:
                # 3.10 looks for signals at each jump, also between the taking and the giving back.
                self.mailbox.appendleft(ticket)
                raise
            if self.mailbox and not near_limit():
                self.run_some(DRAIN_STEPS, BRIEF_WAIT)
        phase = record.phase
        if phase is RELEASED:
            return True
        if phase in ENDED:
            return False
        if timeout is DEFAULT:
            return self._settle_quickly(record)
        return self._await(record, timeout, 0.001)

    def _settle_quickly(self, record: Record) -> bool:
        """As `settle`, by a close that waits for what has begun only."""
        if free_threaded and record() is not None and let_die(record):
            return self.settle(record, DEFAULT)
        if record() is not None or record.id not in record.kind.registry.claims or nesting():
            # Somebody holds it, it waits for its retry, or waiting here could be waiting for ourselves.
            return False
        return self._await(record, record.kind.registry.config.finalizer_timeout, 0.001)

    @staticmethod
    def _await(record: Record, timeout: float | None, step: float | None) -> bool:
        if timeout == 0 or runtime.must_not_wait():
            return False
        return wait_for_end(record, None if timeout is None else runtime.monotonic() + timeout, step)

    def _without_room(self, record: Record, timeout: float | Default | None) -> bool:
        """As `settle`, where so little recursion is left that the release could fail for that alone: another
        thread runs it."""
        if timeout is DEFAULT or record.phase in ENDED:
            return record.phase is RELEASED
        return self._await(record, timeout, None)

    def run_one(self, record: Record) -> None:
        """As `Place.serve`."""
        if near_limit():
            return
        process(record, None, BRIEF_WAIT)
        claims = record.kind.registry.claims
        if not (claims and nesting()):
            self.run_some(DRAIN_STEPS, BRIEF_WAIT)


class NamedPlace:
    """A place that each manager has one of; the constant names it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


BACKGROUND = NamedPlace("BACKGROUND")
"""The default place: worker threads of the manager, each release with a deadline."""
ANY_THREAD = NamedPlace("ANY_THREAD")
"""For quick releases that are safe on every thread, such as an unmap: they run at once, where the last user
lets go, or on a worker where that was an array or a view."""
