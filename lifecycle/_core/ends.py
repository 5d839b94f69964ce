"""Waiting for the end of an object, and not for ever: a long wait looks for circles.

A release or cleanup that waits for its own end, also through other threads, would never return. A wait inside
a release publishes, after a moment, what it waits for. If two waits form a circle, the later one sees both. A
short wait pays nothing for this.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Callable
from functools import partial

from lifecycle._core import runtime
from lifecycle._core.budget import Budget
from lifecycle._core.describe import about, describe
from lifecycle._core.record import Core, Pin, Record
from lifecycle._core.release import releases_here
from lifecycle._core.timelines import busy, poll_busy
from lifecycle._core.waiting import WaitList, poll
from lifecycle.errors import CircularCloseError
from lifecycle.states import ENDED, RELEASED

LONGEST_WAIT = 3600.0
"""Seconds in one go: the platform refuses waits that are too long."""

LET_DIE = 0.02
"""Seconds until the first look of a waiting thread without the GIL: an object that it made may be waiting for
it to run Python again, to die."""

LONGEST_LOOK = 0.25
"""Seconds between two looks, at most: each doubles the time to the next. A thread that may run tickets looks
for those of children of the object that it waits for."""

DEVICE_LOOK = 0.001
"""Seconds between two polls of what devices have in flight, by a waiting thread."""

CIRCLE_LOOKS = (0.05, 0.5)
"""Seconds after which a wait is asked whether it is part of a circle, for the first time and again and again.
"""

_waits: dict[int, tuple[Record, tuple[Record, ...]]] = {}
"""By thread: what it waits for, in the middle of which releases. Kept for waits that last, so the others cost
nothing."""


MOMENT = 0.0003
"""Seconds that the thread which made an object has to let it die."""
_collections = Budget()


def let_die(record: Record) -> bool:
    """Have an object that nobody holds any more die, without the GIL: it does on the thread that made it,
    when that next runs Python. For one that sleeps in C a collection does it, within a budget. Returns
    whether it is dead.

    One that is held is not waited for."""
    if not _let_go(record) or runtime.must_not_wait():
        return False
    dead = partial(runtime.is_dead, record)
    if not poll(dead, MOMENT, first=MOMENT / 10) and _collections.allows():
        began = runtime.monotonic()
        runtime.collect(0)
        _collections.spend(began)
    return dead()


def _let_go(record: Record) -> bool:
    """Return True if nobody holds the object of `record` any more, be it dead or not.

    What a thread that is not the maker has let go of last counts on until the maker takes it off. So by their
    counts an object that is held once and one that is not held look the same, and a mark tells them apart."""
    references, mark = _look(record)
    return references <= UNHELD or (references == UNHELD + 1 and (not MARKS or mark == _LET_GO))


def _look(record: Record) -> tuple[int, int]:
    """How many references there are to the pin of `record`, this question's own included, and its mark.
    Zeros once it is dead, and where there are no marks."""
    core = record()
    pin = None
    try:
        pin = core() if core is not None else None
        return (0, 0) if pin is None else (sys.getrefcount(pin), _mark_at(id(pin)) if MARKS else 0)
    finally:
        core = pin = None


_WORD = ctypes.sizeof(ctypes.c_void_p)
_TYPE = object.__basicsize__ - _WORD
_MARK = _TYPE - _WORD
"""Where in an object, without the GIL, its type stands, and the references that other threads than its maker
took (CPython's `ob_type` and `ob_ref_shared`). The lowest bits of the latter are a mark. Both are aligned
words within the head that every object has: to read one of a live object is one load, whatever stands there.
"""
_BITS, _WEAKLY_REFERRED_TO, _LET_GO = 3, 1, 2
"""Those bits, and two of their values, the same in CPython 3.13 and 3.14: a weak reference was made; a
reference that was let go waits for the maker to take it off, and is the only one that still counts and is no
holder's."""


def _mark_at(address: int) -> int:
    """The mark of the object at `address`, which the caller holds: a frame that held it here would hold it as
    long as a kept traceback keeps that (K3)."""
    return ctypes.c_ssize_t.from_address(address + _MARK).value & _BITS


def _has_marks() -> bool:
    """Return True if this Python marks objects as is said above: the type stands where it should, and a weak
    reference changes the mark as it should."""
    pin = Pin()
    if _MARK < 0 or ctypes.c_void_p.from_address(id(pin) + _TYPE).value != id(Pin) or _mark_at(id(pin)):
        return False
    core = Core(pin)
    return core() is pin and _mark_at(id(pin)) == _WEAKLY_REFERRED_TO


MARKS = runtime.free_threaded and _has_marks()
"""Without them, as in a CPython that lays objects out otherwise, one that is held once is waited for, too."""


def _unheld() -> int:
    pin = Pin()
    core = Core(pin)
    return _look(Record(core))[0] - 1


UNHELD = _unheld() if runtime.free_threaded else 0
"""How many references `_look` finds when only itself holds the pin."""


def wait_for_end(
    record: Record,
    until: float | None,
    step: float | None,
    *,
    insist: bool = True,
    unless: Callable[[Record], bool] | None = None,
) -> bool:
    """Block until `record` has ended or `until` (monotonic; None: for ever) is past. With `step`, run its
    ticket, at most every `step` seconds, once it has no holder: for places that no other thread serves. Give
    up once ``unless(record)`` is true. Returns whether it was released.

    A release or cleanup that waits for its own end, in one step or in a circle of several, would wait for
    ever: it is told so by a `CircularCloseError`, or without `insist` by False.
    """
    me = runtime.get_ident()
    before = _waits.get(me)
    look_at = runtime.monotonic() + CIRCLE_LOOKS[0]
    pause = step or (LET_DIE if runtime.free_threaded else float("inf"))
    circle: tuple[Record, ...] = ()
    given_up = False

    def ended() -> bool:
        return given_up or bool(circle) or record.phase in ENDED

    def look() -> float:
        nonlocal circle, look_at, given_up, pause
        now = runtime.monotonic()
        if now >= look_at:
            ours = releases_here()
            if ours:
                # Said before it is asked: of two that close a circle the later one sees both.
                _waits[me] = (record, ours)
                circle = _circle(record, ours, me)
            look_at = now + CIRCLE_LOOKS[1] if ours else float("inf")
        if busy:
            poll_busy()
        if step is not None and not circle:
            record.place.run_one(record)
        if held or (step is None and runtime.free_threaded):
            pause = min(2 * pause, LONGEST_LOOK)
        given_up = unless is not None and unless(record)
        return min(DEVICE_LOOK if busy else pause, pause, look_at - now)

    held = step is not None and not runtime.free_threaded
    try:
        if held:
            if not runtime.is_dead(record):
                # Its death wakes, by a callback in C.
                record.kind.registry.waiters.wait(
                    record.id,
                    lambda: ended() or runtime.is_dead(record),
                    None if until is None else until - runtime.monotonic(),
                    look=look,
                    every=min(pause, CIRCLE_LOOKS[0]),
                    entered=partial(_tied, record),
                )
            held = False
            pause = step or pause
            if not ended():
                record.place.run_one(record)
        record.kind.registry.waiters.wait(
            record.id,
            ended,
            None if until is None else until - runtime.monotonic(),
            look=look,
            every=min(pause, DEVICE_LOOK if busy else CIRCLE_LOOKS[0]),
        )
    finally:
        if before is None:
            _waits.pop(me, None)
        else:
            _waits[me] = before
    if circle and insist and record.phase not in ENDED:
        raise _told_of(circle)
    return record.phase is RELEASED


def _tied(record: Record, waiters: WaitList) -> object:
    """A weak reference that wakes `waiters` when nobody holds the object of `record` any more."""
    core = record()
    try:
        return None if core is None else weakref.ref(core, waiters.wake)
    finally:
        core = None  # K3


def _circle(record: Record, ours: tuple[Record, ...], me: int) -> tuple[Record, ...]:
    """Return the chain of waits from `record` to one of the releases that this thread is inside of, without
    which it does not end; empty if there is none."""
    chain = [record]
    while not any(chain[-1] is one for one in ours):
        waits = runtime.snapshot(_waits.items())
        following = next(
            (
                waited_for
                for ident, (waited_for, inside) in waits
                if ident != me and any(chain[-1] is one for one in inside)
            ),
            None,
        )
        if following is None or any(following is one for one in chain):  # the end, or a circle without us
            return ()
        chain.append(following)
    return tuple(chain)


def _told_of(circle: tuple[Record, ...]) -> CircularCloseError:
    chain = " -> ".join(f"object {one.id}" for one in (*circle, circle[0]))
    return about(
        circle[0],
        CircularCloseError(
            f"{describe(circle[0])} cannot be waited for here: it ends only after this very call ({chain}). "
            "In a release or cleanup close without timeout=, or with timeout=0, which does not wait."
        ),
    )
