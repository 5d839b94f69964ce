"""Submissions: what a device uses is leased to it until its fence has signalled.

**The problem.** A device is a user that holds no Python reference. The code that closes an object does not
know which work on which queue still reads it; and a fence that must be passed by hand is forgotten.

**The idea.** A *submission* is work given to a device in one go. It takes the pin of each object that it
uses; the end of its block makes a fence, and the fence, once signalled, gives the pins back. So closing is
right at any moment, and the release follows where it belongs.

**Nothing to unbalance.** The timeline knows a submission from the start of its block, and refers only weakly
to the call that ends it, which the ``with`` statement alone holds. A block that died without its end, or
whose fence could not be made, gets its fence from the next poll: a later one, which covers what was given to
the device before. So an interrupt delays, and never frees. Every step of a poll may be repeated; the steps of
an end are taken out and called in one step of C.

**Waiting threads poll.** Polling does not block and needs no thread of its own. One thread polls at a time,
by a turn that is over as soon as only the table refers to it: so none stays taken, whatever cuts a poll short
(a lock would, by an interrupt between its `acquire` and the block).
"""

from __future__ import annotations

import operator
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import repeat, starmap
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from weakref import ref

from lifecycle._core import runtime
from lifecycle._core.checks import check_callback, check_timeout
from lifecycle._core.fence import PENDING, SIGNALLED, ask
from lifecycle._core.keeping import Uncopied
from lifecycle._core.place import DRAIN_STEPS, AnyThread
from lifecycle._core.record import Record, arm, silence
from lifecycle._core.release import end_without_release, nesting
from lifecycle._core.runtime import BRIEF_WAIT, Tally, near_limit
from lifecycle._core.timelines import Order, busy
from lifecycle._core.uses import Uses
from lifecycle.errors import LifecycleError, RegistrationError, SubmittedError, text_of
from lifecycle.states import ORPHANED, Cause
from lifecycle.stats import TimelineStats

if TYPE_CHECKING:
    from threading import Thread

    from lifecycle._core.handle import Handle
    from lifecycle.manager.manager import SafetyManager
    from lifecycle.places.queues import Generation, ReleaseQueue

T = TypeVar("T")

getrefcount = sys.getrefcount
_getframe = sys._getframe
_record_of = attrgetter("record")
_cause_of = attrgetter("cause")
_call: Callable[[Callable[[], Any]], Any] = operator.methodcaller("__call__")
_ONCE: tuple[tuple[()], ...] = ((),)
_each: Callable[[Any], Any] = runtime.snapshot if runtime.free_threaded else iter
"""Of what a submission used that takes nothing more: without the GIL a use may be in the middle of its store.
"""

FIRST_PAUSE = 0.00005
LONGEST_PAUSE = 0.002
"""Seconds between two polls of `Timeline.wait`; doubled from the first to the longest."""

_fences_of_parents: list[Any] = []
"""In a forked child: never let go of, for some delete themselves."""

WAITER_SLICE = 0.05
"""Seconds for which a timeline's own thread waits for a fence at most, before it looks again."""


class _Exit:
    """`Submission.__exit__`: what a ``with`` statement takes is taken *out* of the submission, so that the
    statement alone holds it. A block that dies without calling it is known by its death, whatever a kept
    traceback keeps of the block."""

    __slots__ = ()

    def __get__(self, submission: Submission | None, owner: object = None) -> Callable[..., None]:
        if submission is None:
            return _exit_of  # for `contextlib.ExitStack`, which keeps the submission itself
        end = submission._end
        submission._end = None
        return partial(_exit_of, submission) if end is None else end


def _exit_of(submission: Submission, *_: object) -> None:
    """The end of a block that has its submission only."""
    _end_block(submission._timeline, submission._uses)


def _end_block(timeline: Timeline, uses: Uses, *_: object) -> None:
    """The end of a block, called with what it was made for: its frame holds neither block nor handle."""
    if uses.block is not None:
        uses.taking = None
        uses.block = None  # from here on whoever polls may make its fence
        timeline._submit(uses)


class Submission(Uncopied):
    """Work given to a device in one go, with what it uses. Made by `Timeline.submission`; one ``with`` block,
    on any thread, also inside the block of another."""

    _remedy = "make another submission"

    __slots__ = ("__weakref__", "_end", "_timeline", "_uses")
    _end: Callable[..., None] | None
    _timeline: Timeline
    _uses: Uses

    def __enter__(self) -> Submission:
        uses = self._uses
        if uses.begun:
            raise SubmittedError(f"{self!r} was entered already: make another with submission()")
        uses.begun = True
        uses.taking = uses
        uses.since = runtime.monotonic()
        begun_in = _getframe(1)
        uses.site = (begun_in.f_code, begun_in.f_lasti)
        uses.thread = runtime.get_ident()
        uses.state = "open"
        timeline = self._timeline
        busy[id(timeline)] = timeline
        timeline._open[uses.number] = uses
        return self

    if TYPE_CHECKING:

        def __exit__(self, *_: object) -> None: ...

    else:
        __exit__ = _Exit()

    def use(self, handle: Handle[T]) -> T:
        """The raw object, held until the device has done this submission's work. The same handle again costs
        nothing more.

        Raises what `Handle.lease` raises, and `SubmittedError` outside the block.
        """
        pin: Any
        try:
            try:
                pin = handle._cell.pin
                record = pin.record
                if record.cause is None and record.kind.validate is None:
                    self._uses.taking[pin] = record.place  # type: ignore[index]
                    return record.obj  # type: ignore[no-any-return]
            except (AttributeError, TypeError):  # no pin, no handle, or it takes nothing more: told below
                pin = None
        except BaseException:
            pin = None  # a kept traceback must keep nothing alive
            raise
        pin = None
        return self._use_slowly(handle)

    def _use_in_worlds(self, handle: Handle[T]) -> T:
        """As `use`, for a subclass: the objects of its `Uses.worlds` are taken unasked, and each other one is
        checked."""
        pin: Any
        try:
            try:
                pin = handle._cell.pin
                record = pin.record
                place = record.place
                uses: Any = self._uses
                if record.cause is None and record.kind.validate is None and place.world in uses.worlds:
                    uses.taking[pin] = place
                    return record.obj  # type: ignore[no-any-return]
            except (AttributeError, TypeError):  # as there
                pin = None
        except BaseException:
            pin = None
            raise
        pin = None
        return self._use_slowly(handle)

    def _use_slowly(self, handle: Handle[T]) -> T:
        """As `use`, where something is in the way or there is more to ask."""
        uses = self._uses
        if uses.taking is None:
            raise SubmittedError(
                f"{self!r} takes nothing more: "
                + (f"it is lost ({uses.lost})" if uses.lost else "use() belongs inside its block")
            )
        lease: Any = None
        pin = None
        try:
            if not callable(getattr(handle, "lease", None)):
                raise LifecycleError(f"use() takes a Handle, not {handle!r}")
            self._check(handle)
            lease = handle.lease()
            pin = getattr(lease, "_pin", None)
            if pin is None:
                raise LifecycleError(
                    f"{handle!r} is only observed: its owner may end it at any moment, so no device can "
                    "hold it"
                )
            uses[pin] = pin.record.place
            return pin.record.obj  # type: ignore[no-any-return]
        finally:
            pin = None  # K3
            if lease is not None:
                lease.close()
            lease = None

    def _check(self, handle: Handle[Any]) -> None:
        """Raise for an object that this submission cannot use. Not asked for what `use` takes quickly."""

    @property
    def done(self) -> bool:
        """True if the device is done with it: its fence has signalled, or it is lost. Never polls."""
        return not self._uses.todo

    def __repr__(self) -> str:
        uses = self._uses
        return f"<Submission: {uses if uses.begun else f'to timeline {uses.timeline!r}, not begun'}>"


class Timeline(Order):
    """A device's queue: fences that signal in the order in which they were made, and what is in flight.

    Parameters
    ----------
    name:
        Shown in messages.
    queue:
        The queue whose context the fences belong to (for GL): they are asked only where that queue may be
        drained. Objects of any other place, and of that queue once it was lost, are refused by
        ``close(after=)`` (`FenceError`). Without it fences may be asked on any thread.
    fence:
        ``fence() -> Fence``: makes a fence that signals after all work that the device was given before. If
        it raises, the next poll makes the fence. Needed for `submission`.
    waiter:
        For fences that may be asked on any thread: a daemon thread waits for them while something is in
        flight, so that objects are released without a poll.
    manager:
        In whose metrics the timeline stands; None: in those of the first manager whose object it uses.

    Give it to fences made by hand as their attribute ``timeline``. All methods may be called on any thread.
    """

    _remedy = "pass the timeline itself: fences of a copy would stand in another line"

    submission_type: ClassVar[type[Submission]] = Submission
    """What `submission` makes, for timelines that check more before a use."""

    kind: ClassVar[str] = "timeline"
    """What it is as a component of a manager, in metrics."""

    __slots__ = (
        "_fence",
        "_line",
        "_losing",
        "_open",
        "_shown",
        "_thread",
        "_turns",
        "_waiter",
        "ended",
        "lost_count",
        "waits",
    )

    def __init__(
        self,
        name: str,
        queue: ReleaseQueue | None = None,
        *,
        fence: Callable[[], Any] | None = None,
        waiter: bool = False,
        manager: SafetyManager | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise RegistrationError(f"a Timeline needs a name, not {name!r}")
        if fence is not None:
            check_callback(fence, f"fence= of timeline {name!r}")
        if waiter and queue is not None:
            raise LifecycleError(
                f"timeline {name!r} has a queue, so its fences may be asked there only: waiter=True is for "
                "fences that may be asked anywhere"
            )
        self.name: str = name
        self.generation: Generation | None = None if queue is None else queue.generation
        self.ended: Tally = Tally()
        self.lost_count: Tally = Tally()
        self.waits: Tally = Tally()
        self._fence = fence
        self._waiter = waiter
        self._thread: Thread | None = None
        self._open: dict[int, Uses] = {}
        self._line: deque[Uses] = deque()
        self._losing: bool = False
        self._turns: dict[None, list[int]] = {}
        self._shown: bool = False
        if manager is not None:
            manager.add_component(self)
            self._shown = True
        runtime.at_fork_in_child(self._after_fork)

    # -- submissions -----------------------------------------------------------------------------------------

    def submission(self) -> Submission:
        """Work that will be given to the device in a ``with`` block. Raises `LifecycleError` for a timeline
        that was made without ``fence=``."""
        if self._fence is None:
            raise LifecycleError(
                f"timeline {self.name!r} cannot make fences: give it fence= to have submissions"
            )
        uses = Uses()
        uses.number = runtime.next_id()
        uses.timeline = self.name
        uses.begun = False
        uses.taking = uses.worlds = None
        uses.state = uses.lost = ""
        uses.fences = []
        uses.todo = [self.ended.add]
        submission = self.submission_type()
        submission._timeline = self
        submission._uses = uses
        submission._end = end = partial(_end_block, self, uses)
        uses.block = ref(end)
        return submission

    def _submit(self, uses: Uses) -> None:
        """Make the fence of a block that is over, and let it stand in line. May be repeated, also at the same
        time."""
        fences = uses.fences
        try:
            if not fences:
                fences.extend(starmap(self._fence, _ONCE))  # type: ignore[arg-type]  # made and kept in one step
                if not fences:
                    raise LifecycleError("fence= raised StopIteration")
        except Exception as error:
            uses.state = f"over, and without a fence yet: {text_of(error)}"
            return
        if not self._shown and uses:
            self._show(uses)
        uses.state = "submitted"
        self._line.append(uses)
        self._open.pop(uses.number, None)
        if self._waiter and self._thread is None:
            self._thread = runtime.new_thread(self._wait_apart, f"lifecycle-timeline-{self.name}")
            runtime.begin(self._thread)

    def _show(self, uses: Uses) -> None:
        """Stand in the metrics of the manager of what is used. May be repeated."""
        for record in map(_record_of, runtime.snapshot(uses)):
            record.kind.registry.show(self)
            self._shown = True
            return

    # -- polling ---------------------------------------------------------------------------------------------

    def poll(self) -> int:
        """End the submissions whose fences have signalled, and return their number. Never blocks. Returns 0
        while another thread polls, inside a garbage collection, and where the fences may not be asked."""
        generation = self.generation
        if (
            generation is not None
            and (self._open or self._line)  # else it need not be asked where this is
            and generation.lost_reason is None
            and (generation.thread is not None or generation.here is not None)
            and not generation.may_run_here()
        ):
            return 0
        return self._poll() or 0

    def poll_from(self, generation: Any) -> int:
        """As `Order.poll_from`."""
        mine = self.generation
        if mine is None or mine is generation or mine.may_run_here():
            return self._poll() or 0
        return 0

    def _poll(self, asks: bool = True) -> int | None:
        """As `poll`, where the fences may be asked; without `asks` only what is lost is ended. None: somebody
        else has the turn."""
        if not self._open and not self._line:
            self._rest()
            return 0
        if runtime.collecting and runtime.in_collector():
            return None
        turn: list[int] | None = None
        box: list[Any] | None = None
        turns = self._turns
        places: set[Any] = set()
        shut: list[Record] = []
        try:
            turn = [0]
            if turns.setdefault(None, turn) is not turn:
                box = [turns.get(None)]
                if box[0] is not None:
                    if getrefcount(box[0]) > SOLE_TURN:
                        return None
                    # Only the table refers to it, and another thread that looks now sees this reference.
                    if turns.get(None) is box[0]:
                        turns.pop(None, None)
                if turns.setdefault(None, turn) is not turn:
                    return None
            count = self._end_what_has_signalled(places, shut, asks)
            turns.clear()  # ours, as long as we refer to it; so the next finds none, and need not look
            return count
        finally:
            # A turn ends as its reference is dropped: two stores, before which no interrupt can come.
            turn = None
            box = None
            if places:
                self._run_what_fell_due(places, shut)

    def _end_what_has_signalled(self, places: set[Any], shut: list[Record], asks: bool) -> int:
        generation = self.generation
        if generation is not None and generation.lost_reason is not None:
            self._mark_lost(f"queue {generation.name!r} was lost: {generation.lost_reason}")
        count = 0
        if self._losing:
            count = self._end_what_is_lost()
        elif self._open:
            count = self._end_blocks()
        line = self._line
        while line:
            uses = line[0]
            if uses.todo:
                if uses.fences and not uses.lost:
                    answer = ask(uses.fences[0], "poll", 0.0) if asks else PENDING
                    if answer is PENDING:
                        break
                    if answer is not SIGNALLED:
                        uses.lost = f"its fence is lost: {answer.why}"
                if uses.lost:
                    self._lose(uses)
                else:
                    if uses:
                        places.update(_each(uses.values()))
                        if any(map(_cause_of, map(_record_of, _each(uses)))):
                            _silence(uses, shut)
                    _end(uses)
                    uses.state = "signalled"
                    _delete(uses.fences)
                count += 1
            elif uses.fences and not uses.lost:
                # Two made its fence at the same time, and it stands in line twice.
                _delete(uses.fences)
            line.popleft()
        if not line:
            self._rest()
        return count

    def _end_blocks(self) -> int:
        """Of blocks that are over, or died, make the fences; of lost ones the end. How many ended."""
        count = 0
        for uses in runtime.snapshot(self._open.values()):
            if uses.lost:
                self._lose(uses)
                self._open.pop(uses.number, None)
                count += 1
            elif uses.over():
                uses.taking = None
                self._submit(uses)
        return count

    def _end_what_is_lost(self) -> int:
        """As `_end_blocks`, and end what stands in line and was said to be lost, whatever stands before it.
        How many ended."""
        try:
            # Before anything is looked at: what is said to be lost meanwhile is left to the next poll.
            # And the line last, to which others move what is open.
            self._losing = False
            count = self._end_blocks()
            for uses in runtime.snapshot(self._line):
                if uses.lost and uses.todo:
                    self._lose(uses)
                    count += 1
            return count
        except BaseException:
            self._losing = True  # the next poll goes on
            raise

    def _rest(self) -> None:
        """Nobody needs to poll while nothing is in flight."""
        if not self._open and not self._line:
            busy.pop(id(self), None)
            if self._open or self._line:  # meanwhile
                busy[id(self)] = self

    def _run_what_fell_due(self, places: set[Any], shut: list[Record]) -> None:
        """Run a bounded number of releases that may run on any thread, as `close` does; workers run the rest.
        An object that is `shut` and still held gets its bell back."""
        for place in places:
            if type(place) is AnyThread and place.mailbox and not near_limit() and not nesting():
                place.run_some(DRAIN_STEPS, BRIEF_WAIT)
        for record in shut:
            if record.phase is None and not arm(record):
                record.kind.registry.ring(record)

    # -- waiting ---------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> bool:
        """Poll until nothing is in flight, up to `timeout` seconds (None: for ever); whether that is so. Does
        not wait inside a garbage collection, nor on threads marked with `never_wait`. Raises `LifecycleError`
        inside the block of a submission of this timeline, which could not end meanwhile."""
        if timeout is not None:
            check_timeout(timeout)
        me = runtime.get_ident()
        for uses in runtime.snapshot(self._open.values()):
            if uses.thread == me and not uses.over():
                raise LifecycleError(
                    f"timeline {self.name!r} would wait for {uses}, whose block this thread is inside of: "
                    "wait behind the block"
                )
        until = None if timeout is None else runtime.monotonic() + timeout
        pause = FIRST_PAUSE
        while True:
            self.poll()
            if not self.in_flight:
                return True
            if pause == FIRST_PAUSE:
                self.waits.add()
            left = None if until is None else until - runtime.monotonic()
            if (left is not None and left <= 0.0) or runtime.must_not_wait():
                return False
            runtime.sleep(pause if left is None else min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _wait_apart(self) -> None:
        """The timeline's own thread, while something is in flight."""
        while True:
            line = runtime.snapshot(self._line)
            wait = getattr(line[0].fences[0], "wait", None) if line and line[0].todo else None
            del line
            if wait is None:
                runtime.sleep(LONGEST_PAUSE)
            else:
                try:
                    wait(WAITER_SLICE)
                except Exception:  # noqa: S110 - the poll asks the same fence, and takes what it raises as lost
                    pass
            self.poll()
            if not self.in_flight:
                self._thread = None
                if not self._line:
                    return

    # -- what is in flight -----------------------------------------------------------------------------------

    def _in_flight(self) -> list[Uses]:
        found = {uses.number: uses for uses in runtime.snapshot(self._line) if uses.todo}
        found.update((uses.number, uses) for uses in runtime.snapshot(self._open.values()) if uses.todo)
        return list(found.values())

    @property
    def in_flight(self) -> int:
        """How many submissions have begun and not ended."""
        return len(self._in_flight())

    @property
    def oldest(self) -> float:
        """Unix time at which the oldest submission in flight was begun, 0.0 when there is none."""
        since = [uses.since for uses in self._in_flight()]
        return runtime.wall_time() - (runtime.monotonic() - min(since)) if since else 0.0

    @property
    def signalled(self) -> int:
        """How many submissions ended because their fence had signalled."""
        return int(self.ended) - int(self.lost_count)

    @property
    def lost_submissions(self) -> int:
        """How many ended because they, or their fence, were lost."""
        return int(self.lost_count)

    def stats(self) -> TimelineStats:
        """Its figures at this moment."""
        ends = {"signalled": self.signalled, "lost": self.lost_submissions}
        return TimelineStats(self.name, self.in_flight, self.oldest, ends, int(self.waits))

    def used(self) -> list[Record]:
        """As `Order.used`."""
        return [record for uses in self._in_flight() for record in map(_record_of, runtime.snapshot(uses))]

    def stalled(self, after: float, registry: Any) -> list[str]:
        """As `Order.stalled`."""
        before = runtime.monotonic() - after
        return [
            str(uses)
            for uses in self._in_flight()
            if uses.since < before
            and any(record.kind.registry is registry for record in map(_record_of, runtime.snapshot(uses)))
        ]

    # -- losing ----------------------------------------------------------------------------------------------

    def lost(self, reason: str) -> int:
        """Tell the timeline that its device is gone. Every object of every submission in flight is orphaned
        (closed, counted, never released), also if others hold it. Return their number. New submissions may
        begin. Callable on any thread, also again after an interrupt."""
        self._mark_lost(str(reason))
        count = len(set(map(id, self.used())))
        # The fences of what begins meanwhile may belong to another world than this thread is in.
        while self._poll(asks=False) is None and not runtime.must_not_wait():
            runtime.sleep(FIRST_PAUSE)
        return count

    def _mark_lost(self, reason: str) -> None:
        for uses in self._in_flight():
            uses.taking = None  # it takes nothing more
            uses.lost = uses.lost or reason or "lost"
        self._losing = True  # said after they are marked: a poll that sees it finds them

    def _lose(self, uses: Uses) -> None:
        """Orphan what it used, and end it. May be repeated."""
        why = f"the submission to timeline {self.name!r} that used it is lost: {uses.lost}"
        for record in map(_record_of, runtime.snapshot(uses)):
            end_without_release(record, ORPHANED, Cause.INVALIDATE, why)
        if len(uses.todo) == 1:
            uses.todo[0:0] = [self.lost_count.add]
        _end(uses)
        uses.state = f"lost ({uses.lost})"

    def _after_fork(self) -> None:
        """In the child: what is in flight is the parent's. Nothing native is called: not by a block or a poll
        that goes on, nor by the end of a fence."""
        for uses in (*self._open.values(), *self._line):
            uses.taking = None
            uses.block = None
            uses.lost = "it is the parent's, and this is a forked child"
            _fences_of_parents.extend(uses.fences)
            uses.fences.clear()
            uses.todo = []
        self._open = {}
        self._line = deque()
        self._losing = False
        self._turns = {}
        self._thread = None
        busy.pop(id(self), None)

    def __repr__(self) -> str:
        of = "" if self.generation is None else f" of queue {self.generation.name!r}"
        lost = ", lost" if self.generation is not None and self.generation.lost_reason is not None else ""
        flying = self.in_flight
        return f"<Timeline {self.name!r}{of}{f', {flying} in flight' if flying else ''}{lost}>"


def _silence(uses: Uses, shut: list[Record]) -> None:
    """Take the bells off what is used and was closed meanwhile, and add it to `shut`: who gives it back looks
    after it himself. May be repeated."""
    for record in filter(_cause_of, map(_record_of, runtime.snapshot(uses))):
        if record.place.anywhere:
            shut.append(record)
            silence(record)


def _end(uses: Uses) -> None:
    """Give back what it used, and count it, once: each count is taken out and called in one step of C. May be
    repeated."""
    uses.clear()
    todo = uses.todo
    list(map(_call, map(todo.pop, repeat(-1, len(todo)))))


def _delete(fences: list[Any]) -> None:
    """Each once. One that cannot be deleted is said, and stops none of the others."""
    while fences:
        fence = fences.pop()
        delete = getattr(fence, "delete", None)
        if delete is not None:
            try:
                delete()
            except Exception:
                runtime.complain()


def _sole_turn() -> int:
    """What `getrefcount` says, in `Timeline._poll`, of a turn that only the table and the box refer to."""
    turns = {None: [0]}
    box = [turns.get(None)]
    return getrefcount(box[0])


SOLE_TURN = _sole_turn()
