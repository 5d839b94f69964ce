"""Running one release: the claim, the call, what failed, and the tidying up, in steps that can be taken up
again.

**What may interrupt.** Signal handlers run on the main thread after any call. `process` therefore is
resumable: whatever it did is written on the record before the next call, and on any exception the claim is
given up and the ticket put back, in an order that leaves no gap. A release that had begun is never begun
again (I3): it ends as `FAILED`, "interrupted". An interrupt is raised to the caller that it struck and to no
other: a ticket that is taken up again does not report what cut it short before.

**What may nest.** A release may close other handles, and those releases run inside it on the same thread.
What falls free meanwhile (parents) goes through its own place's mailbox, so nothing recurses however deep the
family (I5).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.checks import DEFERRED, refuse_deferred
from lifecycle._core.doors import cell_of
from lifecycle._core.dropped import FIRST_LOOK, LAST_LOOK, Dropping, collect, dies, may_go, watch
from lifecycle._core.fence import PENDING, SIGNALLED, ask
from lifecycle._core.idioms import struck_on_entry
from lifecycle._core.kept import let_go
from lifecycle._core.numbers import NO_IDENTITY
from lifecycle._core.record import ENDED_TOO, Extra, Pin, Pins, Record, shut
from lifecycle._core.runtime import collecting, free_threaded, monotonic
from lifecycle._core.tables import Lives, Registry, keys_of, owners, owners_under
from lifecycle._core.timelines import last_user, users
from lifecycle._core.waiting import poll
from lifecycle.errors import (
    NotReleased,
    is_of,
    text_of,
    trace_of,
)
from lifecycle.states import ENDED, FAILED, ORPHANED, RELEASED, RELEASING, STUCK, Cause, ObjectState

getrefcount = sys.getrefcount

RETRY_FIRST, RETRY_LAST = 0.01, 1.0
"""Seconds before the first retry of a release that said `NotReleased`; doubled each time, up to the
second."""


NEST_LIMIT = 20
"""How deep releases that close other handles may nest before closing only posts."""

FENCE_POLL = 0.001
"""Seconds between two looks at a fence that has not signalled."""


def process(  # noqa: C901 - in one piece: a call more is paid for by every release
    record: Record, timed: Timed | None = None, patience: float = runtime.COLLECTION_WAIT
) -> bool | None:
    """Claim a ticket and run its release on this thread; True when that ended the object, False when it was
    not ours to run or is to be tried again. None: another thread has been collecting for `patience` seconds,
    and the ticket has still to be run. Raises `KeyboardInterrupt` only, and what another thread raises in
    this one."""
    if (
        record() is not None and not (free_threaded and record.extra is not None and record.extra.let_go)
    ) or (record.phase is not None and record.phase in ENDED):
        return False
    if collecting and not runtime.await_collection(patience):
        return None
    extra = record.extra
    if extra is not None and extra.not_before > monotonic():
        return False  # it waits for its retry, which posts it again
    id = record.id
    claims = record.kind.registry.claims
    me: list[object] | None = []
    try:
        if claims.setdefault(id, me) is not me:
            return False
        phase = record.phase
        if (
            phase is None
            and record.extra is None
            and timed is None
            and record.outcome is None
            and record.place.lost_reason is None
        ):
            # The common case of `_perform`, without its calls.
            record.begun = monotonic()
            record.phase = RELEASING
            try:
                release = record.release
                if release is not None:
                    result = release(record.obj)
                    if result is not None and type(result) in DEFERRED:
                        refuse_deferred(result, "the release")
                record.outcome = RELEASED
            except BaseException as error:
                record.outcome = error  # noted before anything is called: an interrupt decides nothing
            if record.outcome is not RELEASED and not _call_failed(record):
                _retry_later(record)
                return False
            finish(record)
        elif phase in ENDED:  # it ended between our look and our claim, which came too late to mean anything
            claims.pop(id, None)
            return False
        else:
            _perform(record, timed)
            return record.phase in ENDED
        return True
    except BaseException as error:
        # Up to `put` nothing is called, so no second interrupt falls in here.
        release = None  # it may be a method of the object's own, which a kept traceback must not keep
        # Up to 3.10 `error` can strike on the way to noting what the release raised, which it then has as its
        # context. Without an `if`, behind whose jump 3.10 would look for signals again.
        unnoted = (record.outcome is None) & (record.phase is RELEASING) & (record.extra is None)
        record.outcome = (record.outcome, error.__context__)[unnoted]
        try:
            if claims[id] is me:
                del claims[id]
        except KeyError:
            me = None
        record.place.put(record)
        if timed is not None:
            timed.broke_off(record)
        if record.phase in ENDED:
            forget(record.kind.registry, record)
        raise


def failed(record: Record) -> None:
    """What the caller has claimed and called raised, as `Record.outcome` says: end the object or call it
    again later."""
    if _call_failed(record):
        finish(record)
    else:
        _retry_later(record)


class Timed:
    """Who watches a release with a deadline (`workers.py`): told before it begins, and decides whether it
    came back in time."""

    __slots__ = ()

    def begins(self, record: Record) -> None:
        """The release starts now."""
        raise NotImplementedError

    def came_back(self, record: Record) -> bool:
        """True when it came back before it was declared stuck; decided once."""
        raise NotImplementedError

    def broke_off(self, record: Record) -> None:
        """An exception from another thread ended `process` in the middle; its ticket was put back."""
        raise NotImplementedError


def _perform(record: Record, timed: Timed | None) -> None:
    """The release, from the claim to the end; called again after an interrupt it goes on where it was."""
    extra = record.extra
    if extra is not None and extra.dropped is not None and extra.dropped.let_go:
        if record.outcome is None and not _run(record, timed):
            return
    elif record.phase is RELEASING and not _taken_back(record):
        if record.outcome is None:
            record.more().reason = "interrupted while its release ran"
            record.outcome = FAILED
        elif isinstance(record.outcome, BaseException) and not _call_failed(record, again=True):
            _retry_later(record)
            return
    elif record.place.lost_reason is not None:
        record.more().reason = record.place.lost_reason
        record.outcome = ORPHANED
    elif extra is None or not extra.fences or _fences_signalled(record):
        if record.outcome is None and not _run(record, timed):
            return
    else:
        return
    finish(record)


def _run(record: Record, timed: Timed | None) -> bool:
    """Call the release, watched where the place is timed; False when there is nothing to finish (yet)."""
    record.begun = monotonic()
    if timed is not None:
        timed.begins(record)
    _run_cleanups(record)
    if record.extra is not None and record.extra.dropped is not None:
        return _drop(record, record.extra.dropped, timed)
    try:
        try:
            release = record.release
            if record.phase is None:  # not stuck in a cleanup
                record.phase = RELEASING
            if release is not None:
                result = release(record.obj)
                if result is not None and type(result) in DEFERRED:
                    refuse_deferred(result, "the release")
            record.outcome = RELEASED
        except BaseException as error:
            record.outcome = error  # noted before anything is called: an interrupt decides nothing
    except BaseException as error:
        record.outcome = error.__context__  # as in `process`
        raise
    release = None
    if timed is not None and not timed.came_back(
        record
    ):  # asked first: what was declared stuck is not to be touched any more
        _came_back_late(record)
        return False
    called = record.outcome is RELEASED or _call_failed(record)
    if not called:
        _retry_later(record)
    return called


def _drop(record: Record, dropped: Dropping, timed: Timed | None) -> bool:
    """As `_run`, of an object whose own deallocation is its release: let go of it, unless others refer to it.
    Called again after an interrupt it goes on where it was. Within a timed place deallocations have the
    deadline of releases."""
    extra = record.more()
    if not dropped.let_go:
        alone = may_go(record, dropped)
        if not alone and not (record.place.anywhere and watch(record, dropped, ring=True)):
            return _is_kept(record, dropped, timed)
        if alone:
            watch(record, dropped, ring=False)
        if dropped.keys is None:
            dropped.keys = keys_of(record)
        if alone and record.phase is None:  # not stuck in a cleanup
            record.phase = RELEASING
            dropped.kept = False
        elif not alone:
            _note_kept(record, dropped)
        dropped.let_go = True  # K4
        record.obj = None
    if dropped.witness is None:
        if dropped.inside:
            collect()
            extra.reason = (
                "it refers to itself and cannot be referred to weakly, so it cannot be told whether its "
                'deallocation has run: register a method that frees it, as release="close"'
            )
            record.outcome = FAILED
        else:
            record.outcome = RELEASED
    elif dies(dropped):
        record.outcome = RELEASED
    else:
        watch(record, dropped, ring=True)
        return _is_kept(record, dropped, timed)
    if timed is not None and not timed.came_back(record):
        _came_back_late(record)
        return False
    if record.outcome is RELEASED:
        extra.reason = ""
    return True


def _note_kept(record: Record, dropped: Dropping) -> None:
    if not dropped.kept:
        dropped.since = monotonic()
        record.kind.registry.still[record.id] = record
        record.more().reason = "its object is still referred to: holders() says by whom"
        dropped.kept = True


def _is_kept(record: Record, dropped: Dropping, timed: Timed | None) -> bool:
    """Others refer to the object: look again later, or when the weak reference tells that it is gone."""
    if timed is not None and not timed.came_back(record):
        _came_back_late(record)
        return False
    if record.phase is RELEASING:
        record.phase = None  # its own deallocation has handed it on
    _note_kept(record, dropped)
    if not dropped.let_go:
        delay = min(LAST_LOOK, FIRST_LOOK * 2.0 ** min(dropped.looks, 10))
        dropped.looks += 1
        _again(record, delay)
        return False
    registry = record.kind.registry
    record.phase = None
    registry.claims.pop(record.id, None)
    if dropped.gone():  # who told of it may have found the claim taken
        record.place.put(record)
    return False


def _run_cleanups(record: Record) -> None:
    """Each once, the last added first. Ctrl-C in one goes on to the user; the rest and the release follow
    when the ticket is taken up again."""
    extra = record.extra
    if extra is None:
        return
    if extra.struck is not None:
        _cleanup_failed(record, extra)
    cleanups = extra.cleanups
    while cleanups:
        cleanup = cleanups[-1]
        del cleanups[-1]
        try:
            result = cleanup()
            if result is not None and type(result) in DEFERRED:
                refuse_deferred(result, "the cleanup")
        except BaseException as error:
            extra.struck = cleanup, error  # noted before anything is called, as with the release
            if _cleanup_failed(record, extra):
                raise


def _cleanup_failed(record: Record, extra: Extra) -> bool:
    """Decide what the exception in `Extra.struck` means, and forget it. True: it is the caller's, who was
    struck here. One failing cleanup changes nothing for the next, nor for the release (I6)."""
    cleanup, error = extra.struck  # type: ignore[misc]
    if struck_on_entry(error, cleanup, None):
        cleanups = extra.cleanups
        end = len(cleanups)
        cleanups[end:] = [cleanup]  # K4
        extra.struck = None
        return True
    if isinstance(error, KeyboardInterrupt) and runtime.on_main_thread():
        extra.struck = None
        return True
    tell = record.kind.registry.events.append
    told = ("cleanup_failed", record, text_of(error), trace_of(error))
    extra.struck = None  # K4: told once
    tell(told)
    return False


def _taken_back(record: Record) -> bool:
    """True where what cut the release short struck before anything of it ran: it is as if it had not been
    called."""
    error = record.outcome
    if not isinstance(error, BaseException) or not struck_on_entry(error, record.release, record.obj):
        return False
    record.phase = None  # K4
    record.outcome = None
    return True


def _call_failed(record: Record, again: bool = False) -> bool:
    """Decide what the exception in `Record.outcome` means; False: nothing was released, and it may be called
    again. Ctrl-C is raised again, unless the ticket is taken up `again`: the interrupted call already has the
    exception that cut this short."""
    error = record.outcome
    if _taken_back(record):
        raise error  # the caller has the ticket taken up again
    interrupt = not again and isinstance(error, KeyboardInterrupt) and runtime.on_main_thread()
    extra = record.more()
    extra.reason = text_of(error)
    if is_of(error, (NotReleased, *extra.retry_on)) and _may_retry(record, extra):
        extra.attempts += 1
        extra.reason += f" (tried {'once' if extra.attempts == 1 else f'{extra.attempts} times'})"
        record.phase = None
        record.outcome = None
        return False
    extra.failure = "not_released" if is_of(error, (NotReleased,)) else "error"
    if extra.attempts:
        extra.reason += f" (tried {extra.attempts + 1} times)"
    else:
        extra.reason += _on_which_thread(record, extra.reason)
    extra.trace = trace_of(error)
    record.outcome = FAILED
    if interrupt:
        finish(record)
        raise error  # Ctrl-C, or a handler of the user's: it struck here, but it was not meant for us
    return True


def _on_which_thread(record: Record, reason: str) -> str:
    """What to say of the thread that a release failed on, where that may be the cause."""
    thread = runtime.thread_name(runtime.get_ident())
    if not (record.place.anywhere and thread.startswith('"lifecycle-')) and "thread" not in reason.lower():
        return ""
    return (
        f" (released on thread {thread}: what is bound to the thread that made it belongs to "
        'release_on=ReleaseQueue(name, thread="current"))'
    )


def _may_retry(record: Record, extra: Extra) -> bool:
    """Return True if a release that released nothing is called again: not more often than the configuration
    says, nor later than its `retry_for`. Decided again after an interrupt, it is decided alike."""
    most = record.kind.registry.config.max_finalizer_retries
    if most is not None and extra.attempts >= most:
        return False
    if extra.retry_for is None:
        return True
    if not extra.attempts:
        extra.retry_until = monotonic() + extra.retry_for
    return monotonic() < extra.retry_until


def _retry_later(record: Record) -> None:
    extra = record.more()
    registry = record.kind.registry
    registry.events.append(("retry", record, extra.reason))
    delay = min(RETRY_LAST, RETRY_FIRST * 2.0 ** min(extra.attempts - 1, 10))
    if extra.retry_for is not None:  # the last attempt comes when its time is over, and not a second later
        delay = max(0.0, min(delay, extra.retry_until - monotonic()))
    _again(record, delay)


def _again(record: Record, delay: float) -> None:
    """Put the ticket aside: the keeper posts it again after `delay` seconds. The claim ends before that can
    be, and tickets are passed over only when one is sure to come."""
    registry = record.kind.registry
    extra = record.more()
    when = runtime.monotonic() + delay
    record.phase = None
    registry.claims.pop(record.id, None)
    registry.delayed.append((when, record))
    extra.not_before = when
    registry.wake()


def _fences_signalled(record: Record) -> bool:
    """Ask the fences, each in its turn; False also puts the ticket aside. One that is lost orphans the
    object."""
    extra = record.more()
    place = record.place
    registry = record.kind.registry
    while extra.fences:
        fence = extra.fences[-1]
        if place.timelines.behind(record, fence):
            registry.claims.pop(record.id, None)  # before others can see the ticket again
            if not place.timelines.join(record, fence):
                place.requeue(record)  # who stood before it has left meanwhile
            return False
        answer = ask(fence, place.fence_mode, registry.config.finalizer_timeout)
        if answer is PENDING:
            place.timelines.join(record, fence)
            extra.fence_polls += 1
            _again(record, min(FENCE_POLL * 2 ** min(extra.fence_polls, 5), 0.02))
            return False
        if extra.line is not None:
            _post_next(record, place.requeue)
        if answer is not SIGNALLED:
            extra.line = None
            extra.reason = f"its fence is lost: {answer.why}"
            record.outcome = ORPHANED
            return True
        if users and last_user(record, fence):
            if fence.delete not in extra.cleanups:
                record.made("cleanups", list).append(fence.delete)
            users.pop(id(fence), None)
        extra.line = None
        extra.fences.pop()
    return True


def _post_next(record: Record, post: Callable[[Record], object]) -> None:
    """Leave the line, and have the next entry of the timeline asked."""
    following = record.place.timelines.leave(record)
    if following is not None:
        post(following)


def _drop_fences(record: Record, extra: Extra) -> None:
    """The object has ended without them: whoever stands behind it goes on, and nothing is deleted that may
    still be in use."""
    if extra.line is not None:
        _post_next(record, record.place.put)
        extra.line = None
    for fence in extra.fences:
        if last_user(record, fence):
            users.pop(id(fence), None)


def finish(record: Record) -> None:
    """Tidy up after a release and announce its end. Every step may be repeated, so an interrupted one is
    simply done again."""
    kind = record.kind
    registry = kind.registry
    id = record.id
    if record.owning >= 2:
        disown(record)  # before the object may go and its identity be used again
    record.release = None
    if record.outcome is ORPHANED:
        _keep_orphan(record)
    else:
        record.obj = None  # the last reference goes here, at the place, before the end is announced (I4)
    if record.outcome is not ORPHANED or record() is None:
        # An orphan that is still used, used through a view perhaps, keeps its parent.
        let_parent_go(record)
    if kind.alive is not None:
        kind.gone.append(id)
    extra = record.extra
    if extra is not None:
        _end_extra(record, extra)
    record.ended = monotonic()
    record.phase = record.outcome
    registry.ended.append(record)
    if kind.alive is not None:  # from here as `forget`
        kind.gone.append(id)  # again: the limit may have been set since, by one who saw no end yet
    registry.shared.pop(id, None)
    if registry.kept:
        registry.kept.pop(id, None)
    if registry.waiters:
        notify(registry, id)
    registry.claims.pop(id, None)


def let_parent_go(record: Record) -> None:
    """The object has ended: its parent need not wait for it any more. May be repeated."""
    if free_threaded and record.parent is not None:
        _post_parent(record)
    record.parent = None


def _end_extra(record: Record, extra: Extra) -> None:
    """Of `finish`: what few objects have."""
    if extra.slot is not None:
        extra.slot[0].pop(extra.slot[1], None)
    if extra.fences or extra.line is not None:
        _drop_fences(record, extra)
    if extra.dropped is not None:
        record.kind.registry.still.pop(record.id, None)
    extra.struck = None
    if extra.keep_alive:
        let_go(record, extra)


def _count_sole() -> int:
    """What `getrefcount` says, in a function like `_post_parent`, of a pin that only one record holds."""
    pin = kept = Pin()
    count = getrefcount(pin)
    del kept
    return count


SOLE = _count_sole()


def _post_parent(record: Record) -> None:
    """Without the GIL: let the parent go, and post its ticket at once if this was the last reference to its
    pin.

    An object dies on the thread that made it, when that next runs Python: each link of a long chain of
    parents would wait for that, or for a collection. But its count says at once, on any thread, that nobody
    else holds the pin: doors and holders refer to it, and there is no other way to come by it. The ticket
    that comes with its death means nothing.
    """
    pin = record.parent
    if type(pin) is Pins:
        left = list(pin)
        record.parent = pin = None
        while left:
            record.parent = left.pop()
            _post_parent(record)
        record.parent = None
        return
    try:
        parent = pin.record  # type: ignore[union-attr]
        # Asked twice: what it says may be torn while a reference goes from one thread to another.
        if parent.phase not in ENDED and getrefcount(pin) <= SOLE and getrefcount(pin) <= SOLE:
            parent.more().let_go = True
            record.parent = pin = None
            parent.place.put(parent)
    finally:
        pin = None


def disown(record: Record) -> None:
    """Take a record out of `owners`. May be repeated until `Record.owning` says that it is done."""
    for key in keys_of(record):
        leave_owners(key, record)
    record.owning = 1


ownership = runtime.process_lock()
"""Held by whoever takes over an entry of `owners`, or changes one of `Lives`."""


def leave_owners(key: object, record: Record) -> None:
    """Take `record` out of `owners` under `key`, if that entry is its own: the native may have been handed on
    while its release ran. May be repeated."""
    try:
        # One step with the GIL, since nothing is called. It has never to be put back.
        if owners[key] is record:
            del owners[key]
            return
    except KeyError:
        return
    if any(record is one for one in owners_under(key)):
        with ownership:
            left = [one for one in owners_under(key) if one is not record]
            if len(left) > 1:
                owners[key] = Lives(left)
            elif left:
                owners[key] = left[0]
            elif owners.get(key) is not None:
                owners.pop(key, None)


def forget(registry: Registry, record: Record) -> None:
    """Take an ended object out of the tables, and wake the threads that wait for it. May be repeated."""
    id = record.id
    kind = record.kind
    if kind.alive is not None:
        kind.gone.append(id)
    registry.shared.pop(id, None)
    if registry.kept:
        registry.kept.pop(id, None)
    if registry.waiters:
        notify(registry, id)
    registry.claims.pop(id, None)


orphans: list[Any] = []
"""The Python objects of orphaned natives, kept for ever."""


def _keep_orphan(record: Record) -> None:
    """Keep the object: its place is gone, and not even its own deallocation may touch the native."""
    if type(record.obj) not in NO_IDENTITY:
        orphans.append(record.obj)


def notify(registry: Registry, id: int) -> None:
    """Wake the threads that wait for the end of object `id`. May be repeated."""
    registry.waiters.end(id)


def _came_back_late(record: Record) -> None:
    """The release returned after it was declared stuck. A success ends in `RELEASED`; a failure changes
    nothing."""
    # The keeper that declared it stuck has yet to count that.
    poll(lambda: record.counted == ENDED_TOO, 1.0, first=0.001)
    registry = record.kind.registry
    outcome = record.outcome
    if outcome is RELEASED:
        registry.events.append(("late", record, ""))
        finish(record)
    else:
        record.outcome = STUCK
        # Declared stuck between its last cleanup and its release, it would say «releasing» for ever.
        record.phase = STUCK
        orphans.append(record.obj)  # quarantined for good: what it holds is unknown
        registry.events.append(
            ("late", record, text_of(outcome) if isinstance(outcome, BaseException) else "")
        )


def end_without_release(record: Record, outcome: ObjectState, cause: Cause, reason: str) -> bool:
    """End an object without touching its native; False when its end has begun already."""
    claims = record.kind.registry.claims
    id = record.id
    me: list[object] = []
    cell = None
    try:
        if record.phase in ENDED or claims.setdefault(id, me) is not me:
            return False
        if record.phase in ENDED:
            claims.pop(id, None)
            return False
        cell = cell_of(record)
        shut(record, cell, cause, None)
        cell = None
        if reason:
            record.more().reason = reason
        record.outcome = outcome
        finish(record)
    except BaseException:
        cell = None  # a kept traceback must keep nothing alive
        if claims.get(id) is me:
            claims.pop(id, None)
        if record() is None:
            record.place.put(record)
        if record.cause is not None and record.phase not in ENDED:
            # It may be shut, and goes on as what is closed.
            record.kind.registry.events.append(("shut", record))
        raise
    return True


def releases_here() -> tuple[Record, ...]:
    """The records whose releases or cleanups this thread is inside of, the innermost first. Walks the
    stack."""
    found = []
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if _releases(frame):
            found.append(frame.f_locals["record"])
        frame = frame.f_back
    return tuple(found)


def nesting() -> int:
    """How many releases this thread is inside of. Walks the stack, so ask `Registry.claims` first whether any
    runs at all."""
    depth = 0
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        depth += _releases(frame)
        frame = frame.f_back
    return depth


def _releases(frame: FrameType) -> bool:
    code = frame.f_code
    return code is process.__code__ or (code in also_release and frame.f_locals.get("me") is not None)


also_release: set[CodeType] = set()
"""Functions that release as `process` does, without calling it: they do while their local ``me``, the claim,
is set, and ``record`` is what they release."""
