"""What the core does, written down: functions, and the class of records, exchanged while a recorder runs.

**The idea.** The core knows of no recorder and asks for none, so off it costs nothing at all. `exchanges`
puts a property in the place of ``Handle._token``, which a registration stores when the object is in the
tables and its handle is not given out yet. There the object is written down, and its record gets another
class, whose slots are stored exactly where something is to be written:

================  ==================================================================================
stored            is written as
================  ==================================================================================
``Record.begun``  release begins, and in the same record shut, if that was not written yet: before
                  ``phase = RELEASING``, so before the act (R2)
``Record.ended``  release ends: the outcome is there, and the native has been let go
================  ==================================================================================

An interrupt in one of them strikes where the core has just called something (a clock), which it is made for.
Between the stores that shut a door nothing may be called (K4). So a door that is shut and held is written
down behind the functions that shut it, and any other with the begin of its release, with its own time.
(Not in `Record` itself: a registration fills a record in, and nothing may be called there, K4. Without the
GIL a change of class stops the world: there another class is made from the beginning.) It is written
before the store, and the store is the last that is done.

Leases, accesses and views are functions and classes of the same names that write as well.

**Guaranteed.** An `Exception` in here is dropped, and counted (R1): the program goes on as it would without a
recorder. A frame in here keeps no handle and no pin (K3).
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections import deque
from collections.abc import Callable
from ctypes import addressof
from types import FrameType
from typing import Any

from lifecycle._core import access, detach, exclusive, facts, handle, release, runtime, shares
from lifecycle._core import record as record_module
from lifecycle._core import register as register_module
from lifecycle._core.access import checked
from lifecycle._core.exclusive import ExclusiveLease, pin_or_refuse
from lifecycle._core.handle import Handle
from lifecycle._core.idioms import taking
from lifecycle._core.leases import Lease
from lifecycle._core.place import AnyThread
from lifecycle._core.record import Pin, Record
from lifecycle._core.shares import FIRST_SHARE
from lifecycle.distribution import crossing
from lifecycle.manager import manager as manager_module
from lifecycle.manager import shutdown
from lifecycle.manager.access import AccessBlock
from lifecycle.manager.manager import SafetyManager
from lifecycle.observe import ledger
from lifecycle.pools import guarding
from lifecycle.recorder import layout
from lifecycle.recorder.writer import HALF, WORD, Writer
from lifecycle.states import STUCK, Cause, ObjectState

get_ident: Callable[[], int] = runtime.get_ident
monotonic: Callable[[], float] = runtime.monotonic
_getframe = sys._getframe

REGISTERS, SHUTS, BEGINS, ENDS = (
    operation << 16 for operation in (layout.REGISTER, layout.SHUT, layout.BEGINS, layout.ENDS)
)
CAUSES = {cause: layout.CAUSES.index(str(cause)) << 24 for cause in Cause}
OUTCOMES = {ObjectState(name): at << 24 | ENDS for at, name in enumerate(layout.OUTCOMES) if name}
"""Operation and flag, as they stand in one number with the type."""
SHUTTING = (access, detach, handle, ledger, release, shares, shutdown)
"""The modules that shut a door by `record.shut`."""
SEEN = -1.0
"""Instead of the moment of a claim: the release has begun, and leaves it to whoever made the claim."""

Exchange = tuple[Any, str, Any]
"""Of what, which attribute, and what it is while a recorder runs."""


Turns = tuple[Callable[[], None], Callable[[], None]]
"""What is to be called behind `install` at the start, for what is registered already, and at the end."""


def exchanges(writer: Writer, *, leases: bool) -> tuple[list[Exchange], Turns]:
    """What `install` exchanges, and what is called behind it."""
    found, turns = _of_records(writer)
    found += _of_views(writer)
    found.append((guarding, "note", _of_guards(writer)))
    found.append((crossing, "note", _of_topics(writer)))
    return found + (_of_leases(writer) if leases else []), turns


def install(found: list[Exchange]) -> list[Exchange]:
    """Exchange everything; returns what `install` puts back."""
    before = []
    for owner, name, new in found:
        before.append((owner, name, vars(owner)[name]))
        setattr(owner, name, new)
    return before


# -- records -------------------------------------------------------------------------------------------------


def _of_records(writer: Writer) -> tuple[list[Exchange], Turns]:  # noqa: C901 - it is its inner functions
    write, text, site = writer.write, writer.text, writer.site
    texts: Any = writer.texts
    sites = writer.sites
    changes_class = not runtime.free_threaded
    causes: Any = CAUSES
    outcomes: Any = OUTCOMES
    ours, users = runtime.OURS, runtime.users_files
    token_slot, begun_slot, ended_slot = (
        Handle.__dict__["_token"],
        Record.__dict__["begun"],
        Record.__dict__["ended"],
    )
    store_token, store_ended = token_slot.__set__, ended_slot.__set__
    store_begun, load_begun, load_ended = begun_slot.__set__, begun_slot.__get__, ended_slot.__get__
    again, give_back, shut_door = release._retry_later, Handle._give_back, record_module.shut
    settle = AnyThread.settle

    claim, target, ring, mask, local = writer.claim, writer.map, writer.ring, writer.slots - 1, writer.local
    pack_registered, pack_shut, pack_begun, pack_ended = (
        layout.REGISTER_RECORD.pack_into,
        layout.SHUT_RECORD.pack_into,
        layout.BEGINS_RECORD.pack_into,
        layout.ENDS_RECORD.pack_into,
    )

    # What follows is `write` and `site` once more, each with what it needs: some calls and zeros less.

    def register(made: Any, token: int) -> None:
        record: Any = None
        frame: FrameType | None = None
        try:
            store_token(made, token)
            if token is not FIRST_SHARE or type(made) is not Handle:
                return
            record = made._record
            try:
                frame = _getframe(2)
                place = frame.f_code
                while place.co_filename not in users and place.co_filename.startswith(ours):
                    frame = frame.f_back
                    if frame is None:
                        break
                    place = frame.f_code
                where = 0
                if frame is not None:
                    at = frame.f_lasti
                    known = sites.get((id(place), at))
                    where = known[0] if known is not None else site(place, at)
                kind = record.kind.type_name
                native, size, extra, name = record.native, record.size, record.extra, record.name
                code = (texts.get(kind) or text(kind)) | REGISTERS | (record.owning & 0xFF) << 24
                thread, n = local.native, claim()
                pack_registered(
                    target,
                    ring + ((n - 1 & mask) << 6),
                    n,
                    record.born,
                    record.id,
                    thread,
                    code,
                    native & WORD if type(native) is int else 0,
                    size & WORD if type(size) is int else 0,
                    0 if name is None else text(name, True),
                    where,
                    0 if extra is None else extra.parent_id & HALF,
                    n & HALF,
                )
                if changes_class and type(record) is Record:
                    record.__class__ = watched
            except Exception:
                writer.dropped += 1
        finally:  # K3
            made = record = frame = None

    noted: dict[int, float] = {}
    """By object, until its end: which thread records that it is closed, the closing one or the one that
    begins its release."""

    def shut(record: Record) -> None:
        """Record the close, once. Not of what a forked child has from its parent. Its release may begin on
        another thread meanwhile, so this may stand behind that; its time is before it."""
        if type(record) is not watched or not record.shut or load_begun(record) or load_ended(record):
            return
        try:
            note_shut(record, monotonic())
        except Exception:
            writer.dropped += 1

    def note_shut(record: Record, me: float) -> None:
        """Write it down where `me`, a clock reading of the caller's own, is the first to ask (K1). What is
        raised in here leaves it to whoever begins the release. (An interrupt between the write and the
        return has it written twice.)"""
        id = record.id
        try:
            if noted.setdefault(id, me) is not me:
                return
            if (load_begun(record) or load_ended(record)) and noted.get(id) is me:
                # It has been written, and forgotten perhaps, between the caller's look and the claim.
                noted.pop(id, None)
                return
            name = record.kind.type_name
            code = (texts.get(name) or text(name)) | SHUTS | causes.get(record.cause, 0)
            # Without the GIL the release may begin between the stores of the cause and of the time.
            when = record.shut or me
            native, n = local.native, claim()
            pack_shut(target, ring + ((n - 1 & mask) << 6), n, when, id, native, code, n & HALF)
        except BaseException:
            if noted.get(id) is me:
                noted.pop(id, None)
            raise

    def begun(record: Record, when: float) -> None:
        if when:
            number = record.id
            mine = None
            try:
                name = record.kind.type_name
                cause = record.cause
                why = (texts.get(name) or text(name)) | causes.get(cause, 0)
                code = record.shut_code
                place = 0
                if code is not None:
                    known = sites.get((id(code), record.shut_at))
                    place = known[0] if known is not None else site(code, record.shut_at)
                native = local.native
                # As `note_shut`. A release that is tried again finds its own claim.
                since = 0.0
                if cause is not None:
                    if noted.setdefault(number, when) is when:
                        mine, since = when, record.shut or when
                    else:
                        noted[number] = SEEN
                n = claim()
                at = ring + ((n - 1 & mask) << 6)
                pack_begun(target, at, n, when, number, native, why | BEGINS, since, place, n & HALF)
            except BaseException as error:
                if mine is not None and noted.get(number) is mine:
                    noted.pop(number, None)
                if not isinstance(error, Exception):
                    raise
                writer.dropped += 1
        store_begun(record, when)

    def ended(record: Record, when: float) -> None:
        if when:
            try:
                name = record.kind.type_name
                outcome, extra = record.outcome, record.extra
                if type(outcome) is not ObjectState:
                    # A release that is declared stuck has none yet. An error is not asked for its hash.
                    outcome = STUCK
                code = (texts.get(name) or text(name)) | outcomes.get(outcome, ENDS)
                why = 0 if extra is None or not extra.reason else text(extra.reason[:200], True)
                native, n = local.native, claim()
                at = ring + ((n - 1 & mask) << 6)
                pack_ended(target, at, n, when, record.id, native, code, why, n & HALF)
            except Exception:
                writer.dropped += 1
        store_ended(record, when)
        if when:
            # Behind the store, which a late closer sees.
            noted.pop(record.id, None)

    class WatchedRecord(Record):
        """A record whose changes are written down."""

        __slots__ = ()

    WatchedRecord.__name__ = WatchedRecord.__qualname__ = "Record"
    WatchedRecord.__module__ = Record.__module__
    watched: Any = WatchedRecord
    plain: Any = Record
    watched.begun = property(load_begun, begun)
    watched.ended = property(load_ended, ended)

    def given_back(self: Any, frame: Any) -> bool:
        try:
            last = give_back(self, frame)
            if last:
                shut(self._record)
            return last
        finally:  # K3
            self = frame = None

    def door_shut(record: Record, cell: Any, cause: Cause, place: Any) -> bool:
        try:
            done = shut_door(record, cell, cause, place)
            shut(record)
            return done
        finally:  # K3
            cell = None

    def settled(self: Any, record: Record, timeout: Any) -> bool:
        # `Handle.close` shuts the door of a plain object by its own stores, and waits in here for who holds
        # it.
        shut(record)
        return settle(self, record, timeout)

    def retry_later(record: Record) -> None:
        try:
            write(monotonic(), record.id, text(record.kind.type_name), layout.AGAIN, 0, 0, 0, 0, 0, 0)
        except Exception:
            writer.dropped += 1
        again(record)

    def carry() -> None:
        """Write down what is registered already."""
        for record in gc.get_objects():
            if type(record) is not Record:
                continue
            try:
                # One that is being filled in has no door yet.
                if record.door is None or record.ended:
                    continue
                native, size, extra = record.native, record.size, record.extra
                place = record.site
                write(
                    record.born + 0.0,  # a float of its own, behind which calls follow: see `doors.py`
                    record.id,
                    text(record.kind.type_name),
                    layout.REGISTER,
                    record.owning & 0xFF,
                    native & WORD if type(native) is int else 0,
                    size & WORD if type(size) is int else 0,
                    text(record.name or "", True),
                    0 if place is None else site(*place),
                    0 if extra is None else extra.parent_id & HALF,
                )
                record.__class__ = watched
            except Exception:
                writer.dropped += 1

    def let_go() -> None:
        """Give all records the class back that they had."""
        for record in gc.get_objects():
            if type(record) is WatchedRecord:
                record.__class__ = plain

    def make(core: Any, put: Any) -> Any:
        made = None
        try:
            made = WatchedRecord(core, put)
            # What is stored behind the slots that are watched: an interrupt in there finds them filled.
            made.site = made.name = made.native = made.extra = None
            made.size = made.counted = 0
            made.owning = 1
            return made
        finally:  # K3
            core = made = None

    found: list[Exchange] = [
        (Handle, "_token", property(token_slot.__get__, register)),
        (Handle, "_give_back", given_back),
        (AnyThread, "settle", settled),
        (release, "_retry_later", retry_later),
        *((module, "shut", door_shut) for module in SHUTTING),
    ]
    if not changes_class:
        # There a change of class stops the world, and a child forked meanwhile would wait for ever.
        found += [(register_module, "Record", make), (manager_module, "Record", make)]
    return found, (carry, let_go)


# -- uses ----------------------------------------------------------------------------------------------------


class Seat:
    """A place in the table of uses. The access that writes there has the one reference to it, so an access
    that is dropped without an end drops it."""

    __slots__ = ("__weakref__", "at", "ends_at")
    at: int
    ends_at: int


class Drop(weakref.ref[Seat]):
    """What tells of a seat that was dropped."""

    __slots__ = ("at",)
    at: int


Use = list[Seat]
"""An access's own: whoever takes the seat out ends the use, once."""


def _of_leases(writer: Writer) -> list[Exchange]:  # noqa: C901 - it is its inner functions and classes
    target, local, text = writer.map, writer.local, writer.text
    pack, end_at = layout.BEGUN_USE.pack_into, layout.USE_ENDED_AT
    texts = writer.texts
    inner_access = SafetyManager.safe_access

    unused = writer.free
    free: deque[Seat] = deque()
    drops: dict[int, Drop] = {}
    dropped: deque[Drop] = deque()
    tell_drop = dropped.append
    nowhere: Use = []
    """Of an access for which there was no room."""

    def seated() -> Seat:
        """The seat at a place that nobody has; where another thread was quicker, one that is free. K5: that
        it is dropped is told without a bytecode, and is noted by the next use."""
        at = -1
        drop: Drop | None = None
        try:
            for at in taking(unused.popleft):
                seat = Seat()
                seat.at, seat.ends_at = at, at + end_at
                drop = Drop(seat, tell_drop)
                drop.at = at
                # From here on the place comes back when the seat is dropped.
                drops[at] = drop
                return seat
        except IndexError:
            return free.popleft()
        except BaseException:
            if at >= 0 and (drop is None or drops.get(at) is not drop):
                unused.append(at)
            raise
        raise IndexError  # not reached: `taking` ends by one

    # Without the GIL what another thread has made dies when that thread runs Python again, which may be
    # never. There each access makes its own seat, and drops it at its end.
    take: Callable[[], Seat] = seated if runtime.free_threaded else free.popleft
    give: Callable[[Seat], object] = id if runtime.free_threaded else free.append

    def begin(record: Record, kind: int) -> Use:
        """Note that the calling thread uses the object from now on. Returns where that stands, an empty list
        where there is no room."""
        seat: Seat | None = None
        try:
            if dropped:
                clear()
            native = local.native
            seat = seated() if unused else take()
            now = monotonic()
            name = record.kind.type_name
            code = (texts.get(name) or text(name)) | kind << 16
            pack(target, seat.at, now, record.id, native, code, now)
            return [seat]
        except IndexError:
            writer.lost_use()
        except Exception:
            writer.dropped += 1
        finally:  # K3
            seat = None
        return nowhere

    def end(use: Use) -> None:
        """Note the end of a use. Ending twice is ending once."""
        try:
            seat = use.pop()
        except IndexError:
            return
        target[seat.ends_at] = 1
        give(seat)

    def clear() -> None:
        """Note the ends of what was dropped."""
        drop: Drop | None = None
        try:
            for drop in taking(dropped.popleft):
                at = drop.at
                target[at + end_at] = 1
                # K4: marked, so that it is given back once.
                drop.at = -1
                unused.append(at)
        except IndexError:
            return
        except BaseException:
            if drop is not None and drop.at >= 0:
                dropped.append(drop)
            raise

    class RecordedLease(Lease[Any]):
        """A lease whose begin and end are written down."""

        __slots__ = ("_use",)
        _use: Use

        def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
            if self._record.cause is not None:
                self._leave()
            else:
                self._pin = None
            # As `end`, without its call.
            try:
                seat = self._use.pop()
            except IndexError:
                return
            target[seat.ends_at] = 1
            give(seat)

    RecordedLease.__name__ = RecordedLease.__qualname__ = "Lease"
    RecordedLease.__module__ = Lease.__module__

    def lease(self: Any, *, timeout: float | None = 0) -> Any:
        pin: Any = None
        made: Any = None
        seat: Seat | None = None
        try:
            pin = self._cell.pin
            if pin is None:
                pin = pin_or_refuse(self._record, self._cell, self, timeout)
            record = pin.record
            if record.cause is not None or record.kind.validate is not None:
                if record.cause is not None:
                    pin = None
                    pin = pin_or_refuse(record, self._cell, self, timeout)
                checked(pin)
                timer = record.kind.timer
                if timer is not None:
                    return timer.lease(pin)
            made = RecordedLease()
            made._thread = get_ident()
            made._record = record
            # As `begin`, without its call.
            try:
                if dropped:
                    clear()
                native = local.native
                seat = seated() if unused else take()
                now = monotonic()
                name = record.kind.type_name
                pack(target, seat.at, now, record.id, native, texts.get(name) or text(name), now)
                made._use = [seat]
            except IndexError:
                made._use = nowhere
                writer.lost_use()
            except Exception:
                made._use = nowhere
                writer.dropped += 1
            # Behind what is written: an interrupt up to here leaves no holder without a use.
            made._pin = pin
            return made
        except BaseException:
            __tracebackhide__ = True
            self = made = None
            raise
        finally:  # K3
            pin = made = seat = None

    lease.__doc__ = Handle.lease.__doc__
    lease.__qualname__, lease.__module__ = Handle.lease.__qualname__, Handle.lease.__module__

    class RecordedBlock(AccessBlock[Any]):
        """A block of `safe_access` that is written down."""

        __slots__ = ("_use",)
        _use: Use

        def __init__(self, registry: Any, given: Any, errors: Any) -> None:
            try:
                self._use = nowhere
                super().__init__(registry, given, errors)
                self._use = begin(self._record, 1)
            finally:
                self = given = None  # type: ignore[assignment]  # K3

        def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
            try:
                super().__exit__(kind, error, trace)
            finally:
                end(self._use)
                self = kind = error = trace = None  # type: ignore[assignment]  # K3

    RecordedBlock.__name__ = RecordedBlock.__qualname__ = "AccessBlock"
    RecordedBlock.__module__ = AccessBlock.__module__

    def safe_access(self: Any, given: Any, fn: Any = None, /, *args: Any, errors: Any = ()) -> Any:
        if fn is None:
            return RecordedBlock(self._registry, given, errors)
        use = nowhere
        try:
            record = self._registry.records.get(given) if type(given) is int else given._record
            if record is not None:
                use = begin(record, 1)
        except Exception:
            # What is no handle is refused below, with its own message.
            use = nowhere
        try:
            return inner_access(self, given, fn, *args, errors=errors)
        finally:
            __tracebackhide__ = True
            end(use)
            self = given = fn = args = use = None  # type: ignore[assignment]  # K3

    safe_access.__doc__ = inner_access.__doc__
    safe_access.__qualname__, safe_access.__module__ = inner_access.__qualname__, inner_access.__module__

    class RecordedExclusive(ExclusiveLease[Any]):
        """An exclusive access that is written down, from the moment it begins to wait."""

        __slots__ = ("_use",)
        _use: Use

        def __enter__(self) -> Any:
            self._use = begin(self._record, 2)
            try:
                return super().__enter__()
            except BaseException:
                end(self._use)
                self = None  # type: ignore[assignment]  # K3
                raise

        def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
            super().__exit__()
            end(getattr(self, "_use", nowhere))

    RecordedExclusive.__name__ = RecordedExclusive.__qualname__ = "ExclusiveLease"
    RecordedExclusive.__module__ = ExclusiveLease.__module__

    return [
        (Handle, "lease", lease),
        (SafetyManager, "safe_access", safe_access),
        (handle, "ExclusiveLease", RecordedExclusive),
        (exclusive, "ExclusiveLease", RecordedExclusive),
    ]


# -- views ---------------------------------------------------------------------------------------------------


def _of_views(writer: Writer) -> list[Exchange]:
    write, text, site = writer.write, writer.text, writer.site
    ours = runtime.OURS

    def note(pin: Pin, address: int, size: int, writable: bool) -> None:
        try:
            record = pin.record
            frame: FrameType | None = _getframe(3)
            while frame is not None and frame.f_code.co_filename.startswith(ours):
                frame = frame.f_back
            write(
                monotonic(),
                record.id,
                text(record.kind.type_name),
                layout.VIEW,
                int(writable),
                address & WORD,
                size & WORD,
                0,
                0 if frame is None else site(frame.f_code, frame.f_lasti),
                0,
            )
        except Exception:
            writer.dropped += 1
        finally:  # K3
            pin = frame = None  # type: ignore[assignment]

    def recorded(inner: Callable[..., Any], where: Callable[[Any], tuple[int, int, bool]]) -> Any:
        def make(pin: Any, *args: Any) -> Any:
            made = None
            try:
                made = inner(pin, *args)
                try:
                    place = where(made)
                except Exception:
                    # An array whose memory has no address that can be told.
                    place = (0, 0, False)
                if place[0]:
                    note(pin, *place)
                return made
            finally:  # K3
                pin = args = made = None  # type: ignore[assignment]

        return make

    exchanged: list[Exchange] = []
    for owner in (handle, facts):
        exchanged.append((owner, "make_view", recorded(owner.make_view, _memory)))
        exchanged.append((owner, "make_buffer_view", recorded(owner.make_buffer_view, _memory)))
        exchanged.append((owner, "make_array", recorded(owner.make_array, _array)))
    return exchanged


def _of_guards(writer: Writer) -> guarding.Note:
    operations = {"guarded": layout.GUARDED, "accessible": layout.ACCESSIBLE}

    def note(what: str, type_name: str, id: int, address: int, size: int) -> None:
        try:
            kind = writer.text(type_name)
            writer.write(monotonic(), id, kind, operations[what], 0, address & WORD, size & WORD, 0, 0, 0)
        except Exception:
            writer.dropped += 1

    return note


def _of_topics(writer: Writer) -> crossing.Note:
    operations = {"loan": layout.LOAN, "published": layout.PUBLISHED, "received": layout.RECEIVED}

    def note(what: str, type_name: str, id: int, topic: str, number: int, size: int) -> None:
        try:
            kind, name = writer.text(type_name), writer.text(topic, True)
            writer.write(monotonic(), id, kind, operations[what], 0, number & WORD, size & WORD, name, 0, 0)
        except Exception:
            writer.dropped += 1

    return note


def _memory(view: memoryview) -> tuple[int, int, bool]:
    if not view.nbytes:
        return 0, 0, False
    # Of the ctypes array that every view is made of: to ask the view itself takes an export of it, which an
    # interrupt would leave behind.
    return addressof(view.obj), view.nbytes, not view.readonly  # type: ignore[arg-type]


def _array(array: Any) -> tuple[int, int, bool]:
    address, readonly = array.__array_interface__["data"]
    return address, array.nbytes, not readonly
