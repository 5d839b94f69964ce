"""Exclusive access: one user at a time, and no lease beside it.

**The problem.** Leases take no lock, so there is nothing to lock them out with; and a door that was shut must
never open again (I1).

**The idea.** The first exclusive access gives the object's cell another class, whose ``pin`` is a property:
it shows no pin while a thread has the *turn*. The door itself stays as it is; only objects that are used
exclusively pay for the property. A thread takes the turn by ``turns.setdefault(None, turn)``, and then waits
until the reference count of the pin says that the leases, views, children and fences that were there before
are gone. A lease takes its pin first and looks at the turn after; the turn is taken first and the pin counted
after: one of the two sees the other. (Without the GIL a lock that both pass through makes that order hold.)

**Nothing to unbalance.** A turn is a fresh object that the block refers to and the table of turns; if the
table's is the only reference left, the block died without its end (an interrupt at the entry of
``__exit__``), and the next thread clears it away.

**No self-deadlock.** A thread that has the turn, or a lease, and asks for the turn is told so instead of
waiting for itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar

from lifecycle._core import runtime
from lifecycle._core.access import checked, refuse
from lifecycle._core.checks import check_timeout
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.describe import about, describe
from lifecycle._core.doors import stand_ins
from lifecycle._core.holders import SOLE_REFERENCES, held, held_error, holders_of, lease_of_thread
from lifecycle._core.keeping import Uncopied
from lifecycle._core.leases import leave
from lifecycle._core.record import SHUT_CELL, Cell, Extra, Pin, Record, raw_pin, set_raw_pin, silence
from lifecycle._core.timelines import busy, poll_busy
from lifecycle._core.waiting import Line, poll
from lifecycle.errors import ExclusiveError, LeaseEndedError

T = TypeVar("T")

getrefcount = sys.getrefcount
get_ident = runtime.get_ident
free_threaded = runtime.free_threaded

FIRST_PAUSE = 0.00005
LONGEST_PAUSE = 0.002
"""Seconds between two counts of the references to a pin, whose changes wake no thread; doubled from the first
to the longest."""

FIRST_LOOK = 0.002
LONGEST_LOOK = 0.1
"""Seconds between two looks for a turn that died without its end; doubled from the first to the longest."""

LONGER = "Nothing was changed: end that first, or give exclusive() a longer timeout."
"""The remedy where the time to wait was over."""

LOOK_FOR_OWN_LEASES_AFTER = 0.01
"""Seconds of waiting after which the heap is searched for leases of the waiting thread itself."""


class ExclusiveCell(Cell):
    """The door of an object that has been used exclusively: shows no pin while somebody has the turn."""

    __slots__ = ()

    @property
    def pin(self) -> Pin | None:
        """The pin, if the door is open and nobody has the turn."""
        pin = self.behind
        try:
            if pin is not None:
                extra = pin.record.extra
                if runtime.free_threaded:
                    with extra.turn_order:  # type: ignore[union-attr]
                        pass
                if extra.turns:  # type: ignore[union-attr]
                    pin = None
            return pin
        finally:
            pin = None

    @pin.setter
    def pin(self, pin: Pin | None) -> None:
        set_raw_pin(self, pin)


class ExclusiveLease(Uncopied, Generic[T]):
    """The right to use an object alone until the block ends. Made by `Handle.exclusive`; usable in one
    ``with`` block."""

    _remedy = "wait for another turn with handle.exclusive()"

    __slots__ = ("_cell", "_pin", "_record", "_timeout", "_turn")
    _cell: Cell
    _pin: Pin | None
    _record: Record
    _timeout: float | Default | None
    _turn: list[int] | None

    def __enter__(self) -> T:
        record = self._record
        cell = self._cell
        try:
            if self._turn is not None:
                raise about(
                    record,
                    LeaseEndedError(
                        f"this exclusive access to {describe(record)} was used already: it is for one block. "
                        "Take another with handle.exclusive()."
                    ),
                )
            self._turn = turn = [get_ident()]
            extra: Any = record.extra
            if extra.turns.setdefault(None, turn) is not turn:
                _await_turn(record, turn, self._timeout)
            if record.cause is not None:
                refuse(record)
            if free_threaded:
                with extra.turn_order:
                    pass
            # As `held`. An open door that has just been shut counts as held, and is not waited for.
            if getrefcount(cell.behind) > SOLE_REFERENCES or (extra.stand_ins and stand_ins(record)):
                _await_holders(record, cell, self._timeout)
            pin = cell.behind
            if pin is None or record.cause is not None:
                refuse(record)
            if record.kind.validate is not None:
                checked(pin)
            self._cell = SHUT_CELL  # the door is not ours to keep from falling shut
            self._pin = pin
            del pin, cell, turn  # K3
            return record.obj  # type: ignore[no-any-return]
        except LeaseEndedError:
            cell = None  # type: ignore[assignment]
            raise
        except BaseException:
            pin = cell = turn = None  # type: ignore[assignment]  # noqa: F841 - K3
            self._end()
            self = None  # type: ignore[assignment]  # a kept error keeps nothing alive
            raise

    def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        record = self._record
        if record.cause is not None:
            self._leave()
            return
        self._pin = None
        extra: Extra = record.extra  # type: ignore[assignment]
        turns = extra.turns
        try:
            if turns[None] is self._turn:
                # No interrupt falls between the two. Who waits has hung its bell before it asks (W1).
                del turns[None]
                if extra.turn_line.first.hung:
                    extra.turn_line.wake()
        except KeyError:
            turns = None  # type: ignore[assignment]  # it was ended early

    def _leave(self) -> None:
        """As `Lease._leave`."""
        try:
            silence(self._record)
        finally:
            self._end()
        leave(self._record)

    def _end(self) -> None:
        self._pin = None
        turn = self._turn
        extra: Extra = self._record.extra  # type: ignore[assignment]
        if turn is not None and extra.turns.get(None) is turn:
            _clear(extra)

    def close(self) -> None:
        """End it early. Ending twice is ending once."""
        self._cell = SHUT_CELL
        self._turn = self._turn or []
        self._end()

    def __repr__(self) -> str:
        active = "active" if self._pin is not None else "not active"
        return f"<Exclusive access to {describe(self._record)}: {active}>"


def make_exclusive(record: Record, cell: Cell, timeout: float | Default | None) -> ExclusiveLease[T]:
    """What `Handle.exclusive` returns."""
    if timeout is not DEFAULT:
        check_timeout(timeout)
    exclusive: ExclusiveLease[T] = ExclusiveLease()
    try:
        if type(cell) is not ExclusiveCell:
            if raw_pin(cell) is None or record.cause is not None:
                refuse(record)
            _prepare(record, cell)
        exclusive._cell = cell
        exclusive._record = record
        exclusive._timeout = timeout
        exclusive._pin = exclusive._turn = None
        try:
            return exclusive
        finally:  # K3
            del cell, exclusive
    except BaseException:
        cell = exclusive = None  # type: ignore[assignment]  # noqa: F841 - K3
        raise


def _prepare(record: Record, cell: Cell) -> None:
    extra = record.more()
    if extra.turn_order is None:
        record.made("turns", dict)
        extra.turn_line = Line()
        extra.turn_order = runtime.RLock()
    cell.__class__ = ExclusiveCell
    cell = None  # type: ignore[assignment]


def pin_or_refuse(record: Record, cell: Cell | None, share: object = None, timeout: float | None = 0) -> Pin:
    """The slow path of every access, once `cell.pin` showed none: the pin after all, if only a turn hid it
    and the turn ends within `timeout` seconds (None: whenever it does). Raises `ExclusiveError` when it does
    not, and refuses otherwise."""
    __tracebackhide__ = True
    pin = None
    try:
        until = None if timeout is None else runtime.monotonic() + timeout
        while cell is not None and raw_pin(cell) is not None and record.cause is None:
            pin = cell.pin
            if pin is not None:
                return pin
            user = turn_of(record)
            if user is None:
                continue
            mine = user == runtime.get_ident()
            if mine or (until is not None and runtime.monotonic() >= until) or runtime.must_not_wait():
                _refuse_beside(record, mine, user)
            record.extra.turn_line.first.wait(  # type: ignore[union-attr]
                partial(_may_go_on, record),
                None if until is None else until - runtime.monotonic(),
                look=_look_for_dead(record),
                every=FIRST_LOOK,
            )
        refuse(record, share)
    finally:
        pin = cell = share = None


def _may_go_on(record: Record) -> bool:
    """Return True if a lease need not wait for the end of a turn any more."""
    return not record.extra.turns or record.cause is not None  # type: ignore[union-attr]


def _refuse_beside(record: Record, mine: bool, user: int) -> NoReturn:
    registry = record.kind.registry
    registry.events.append(("refused", record.kind, "valid"))
    who = "this thread itself" if mine else f"thread {runtime.thread_name(user)}"
    remedy = (
        "Use the object that the `with handle.exclusive()` block was given."
        if mine
        else "Wait for its end with lease(timeout=), or try again."
    )
    raise about(
        record,
        ExclusiveError(
            f"{describe(record)} is in exclusive use by {who}: no lease is granted beside it. {remedy}"
        ),
    )


def turn_of(record: Record) -> int | None:
    """The thread that uses the object exclusively; None if none does. The turn of a block that died without
    its end is cleared away: only the caller, which holds the sole other reference to it, does so, hence no
    thread loses its turn to another."""
    turns = record.extra.turns  # type: ignore[union-attr]
    box = [turns.get(None)]
    if box[0] is None:
        return None
    if getrefcount(box[0]) > SOLE_TURN:  # never a local variable, see `pin_references`
        return box[0][0]
    if turns.get(None) is box[0]:
        _clear(record.extra)  # type: ignore[arg-type]
    return None


def _clear(extra: Extra) -> None:
    try:
        extra.turns.pop(None, None)
    finally:
        extra.turn_line.wake()


def _look_for_dead(record: Record) -> Callable[[], float]:
    """What clears away the turn of a block that died without its end, for a thread that waits for that end;
    returns the seconds until it is to be called again."""
    every = FIRST_LOOK

    def look() -> float:
        nonlocal every
        turn_of(record)
        every = min(2 * every, LONGEST_LOOK)
        return every

    return look


def _sole_turn() -> int:
    """What `getrefcount` says in there of a turn that only the table and the box refer to."""
    turns = {None: [0]}
    box = [turns.get(None)]
    return getrefcount(box[0])


SOLE_TURN = _sole_turn()


def _await_turn(record: Record, mine: list[int], timeout: float | Default | None) -> None:
    """Wait for the turn of another thread, and take it."""
    until = _until(record, timeout)
    extra: Extra = record.extra  # type: ignore[assignment]
    turns = extra.turns

    def is_mine() -> bool:
        # Taken where `_end` finds it; another's that died is cleared away, and one of this thread is told.
        return turns.setdefault(None, mine) is mine or turn_of(record) == mine[0]

    while True:
        extra.turn_line.wait(
            is_mine,
            None if until is None else until - runtime.monotonic(),
            look=_look_for_dead(record),
            every=FIRST_LOOK,
        )
        if turns.setdefault(None, mine) is mine:
            return
        user = turn_of(record)
        if user is None:
            continue
        if user == mine[0]:
            raise about(
                record,
                ExclusiveError(
                    f"this thread is inside an exclusive access to {describe(record)} already and would wait "
                    "for itself. Use the object that the outer block was given."
                ),
            )
        if (until is not None and runtime.monotonic() >= until) or runtime.must_not_wait():
            who = f"an exclusive access of thread {runtime.thread_name(user)}"
            raise held_error(record, (who,), LONGER)


def _await_holders(record: Record, cell: Cell, timeout: float | Default | None) -> None:
    """Having the turn, wait until all earlier holders have let go."""
    until = _until(record, timeout)
    looks_at = runtime.monotonic() + LOOK_FOR_OWN_LEASES_AFTER
    try:
        if poll(
            partial(_is_free, record, cell),
            _left(until, looks_at),
            first=FIRST_PAUSE,
            longest=LONGEST_PAUSE,
        ):
            return
        _refuse_own_lease(record, cell)
        if poll(partial(_is_free, record, cell), _left(until), first=FIRST_PAUSE, longest=LONGEST_PAUSE):
            return
        _refuse_own_lease(record, cell)
        _refuse_held(record, cell)
    finally:
        cell = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive


def _is_free(record: Record, cell: Cell) -> bool:
    """Return True if nobody else holds the object, or it was shut. Polls what devices have."""
    if busy:
        poll_busy()
    return raw_pin(cell) is None or not held(record, cell)


def _refuse_own_lease(record: Record, cell: Cell) -> None:
    pin = raw_pin(cell)
    try:
        if pin is not None and lease_of_thread(pin, runtime.get_ident()):
            raise about(
                record,
                ExclusiveError(
                    f"this thread holds a lease of {describe(record)} and would wait for itself. End the "
                    "lease before exclusive()."
                ),
            )
    finally:
        pin = cell = None  # type: ignore[assignment]


def _refuse_held(record: Record, cell: Cell) -> None:
    pin = raw_pin(cell)
    try:
        if pin is not None:
            raise held_error(record, holders_of(pin), LONGER)
    finally:
        pin = cell = None  # type: ignore[assignment]


def _left(*ends: float | None) -> float | None:
    """Seconds until the first of `ends`, None if there is none."""
    known = [end for end in ends if end is not None]
    return min(known) - runtime.monotonic() if known else None


def _until(record: Record, timeout: float | Default | None) -> float | None:
    if timeout is DEFAULT:
        timeout = record.kind.registry.config.finalizer_timeout
    return None if timeout is None else runtime.monotonic() + timeout
