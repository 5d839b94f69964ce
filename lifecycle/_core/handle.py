"""Handles: how users touch an object.

A `Handle` is one share of ownership. It knows the cell (the door) and the record (the facts); a `Lease` and a
view know the pin and nothing else, so that what they keep alive is the object and never the door.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from lifecycle._core import record as doors
from lifecycle._core import runtime
from lifecycle._core.access import checked, refuse
from lifecycle._core.checks import DEFERRED, check_timeout, refuse_deferred
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.describe import about, describe, fate, state_of
from lifecycle._core.detach import (
    begin_detach,
    refuse_if_awaited,
    refuse_if_held,
    refuse_if_referred_to,
    undo_detach,
)
from lifecycle._core.doors import cell_of
from lifecycle._core.exclusive import ExclusiveCell, ExclusiveLease, make_exclusive, pin_or_refuse
from lifecycle._core.exports import exported, sweep_of
from lifecycle._core.holders import Holder, HolderKind, all_holders, expect
from lifecycle._core.keeping import Uncopied
from lifecycle._core.leases import Lease
from lifecycle._core.parents import give_parents
from lifecycle._core.place import DRAIN_STEPS
from lifecycle._core.record import PLAIN, SHUT_CELL, Cell, Pin, Pins, Record, raw_pin, shut
from lifecycle._core.release import also_release, disown, failed, finish, forget, let_parent_go
from lifecycle._core.runtime import BRIEF_WAIT, STEPS, collecting, cramped, near_limit
from lifecycle._core.shares import SHUT, add_share, drop_share, give_back, next_share
from lifecycle._core.tables import owners
from lifecycle._core.timelines import add_fence
from lifecycle._core.views import make_array, make_buffer_view, make_view
from lifecycle.errors import (
    HeldError,
    LifecycleError,
)
from lifecycle.states import BY_CLOSE, DETACHED, ENDED, RELEASED, RELEASING, VALID, ObjectState

T = TypeVar("T")

_new_object = object.__new__
_getframe = sys._getframe
get_ident = runtime.get_ident
users_files, users_frame = runtime.users_files, runtime.users_frame
monotonic = runtime.monotonic
getrefcount = sys.getrefcount
identity = id


class Handle(Generic[T]):
    """One share of ownership of a registered object.

    Made by `SafetyManager.register` and `share`. ``with handle:`` closes it at the end. All methods may be
    called on any thread and at any moment, also from ``__del__``, callbacks and signal handlers. A handle
    that is dropped without `close` gives its share back too, and is reported as a leak.

    Handles cannot be copied or pickled: use `share`.
    """

    __slots__ = ("__weakref__", "_cell", "_record", "_token")
    _to_share: ClassVar[str] = "handle.share()"
    """What errors advise to call for another share."""
    _cell: Cell
    _record: Record
    _token: int

    # -- facts -----------------------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """The object's id: a whole number that is never used again in this process."""
        return self._record.id

    @property
    def type_name(self) -> str:
        """The type's name, as registered."""
        return self._record.kind.type_name

    @property
    def name(self) -> str | None:
        """The object's own name, if it was given one."""
        return self._record.name

    @property
    def native(self) -> Any:
        """The native name (address, GL name, file descriptor) given at registration, or None."""
        return self._record.native

    @property
    def size(self) -> int:
        """Native bytes, as given at registration."""
        return self._record.size

    @property
    def state(self) -> ObjectState:
        """The state of the object, not of this share. Never raises."""
        return state_of(self._record)

    @property
    def valid(self) -> bool:
        """True if a lease through this handle would be granted now: this share is open, and the object is
        `VALID`. Another thread may change that at any time: take a lease to be sure. Never raises.

        The type's validator is not called. An object in exclusive use is valid, although `lease` waits or
        raises `ExclusiveError` then.
        """
        return raw_pin(self._cell) is not None and self._record.cause is None

    @property
    def shares(self) -> int:
        """The number of open handles of the object. Never raises."""
        record = self._record
        tokens = record.kind.registry.shared.get(record.id)
        if tokens:
            return sum(token > 0 for token in list(tokens))
        return int(record.cause is None and record.phase is None)

    # -- access ----------------------------------------------------------------------------------------------

    def lease(self, *, timeout: float | None = 0) -> Lease[T]:
        """Return a lease, the right to use the object: ``with handle.lease() as obj``. Exceptions of the
        block pass unchanged.

        Raises `AccessRefusedError` when the object is closed or the type's validator refuses it. While the
        object is in exclusive use it waits `timeout` seconds (None: for ever), and then raises
        `ExclusiveError`.
        """
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
                    return timer.lease(pin)  # type: ignore[no-any-return]
            lease: Lease[T] = Lease()
            lease._thread = get_ident()
            lease._record = record
            lease._pin = pin
            del pin  # K3
            return lease
        except BaseException:
            __tracebackhide__ = True
            self = pin = lease = None  # type: ignore[assignment]  # noqa: F841 - K3
            raise

    def exclusive(self, *, timeout: float | Default | None = DEFAULT) -> ExclusiveLease[T]:
        """Return the right to use the object alone: ``with handle.exclusive() as obj``. For natives that are
        changed in place.

        Entering the block waits up to `timeout` seconds (`finalizer_timeout` unless given; None for ever)
        until nothing else holds the object: no lease, view, child or fence, and no other exclusive access.
        During the block every other access is refused with `ExclusiveError`. The object may be closed; it is
        released after the block. Exceptions of the block pass unchanged.

        Entering raises `HeldError`, which names the holders, when the time is over; `ExclusiveError` when the
        thread would wait for itself (it is in an exclusive access or a lease of the same object already); and
        `AccessRefusedError` when the object is closed. Inside a garbage collection, and on threads marked
        with `never_wait`, it does not wait.
        """
        try:
            cell = self._cell
            if timeout is not DEFAULT or type(cell) is not ExclusiveCell:
                return make_exclusive(self._record, cell, timeout)
            exclusive: ExclusiveLease[T] = ExclusiveLease()
            exclusive._cell = cell
            exclusive._record = self._record
            exclusive._timeout = timeout
            exclusive._pin = exclusive._turn = None
            try:
                return exclusive
            finally:  # K3
                del cell, exclusive
        except BaseException:
            __tracebackhide__ = True
            self = cell = exclusive = None  # type: ignore[assignment]  # noqa: F841 - K3
            raise

    def view(self, address: Any, nbytes: int | None = None, readonly: bool | None = None) -> memoryview:
        """Return the object's native memory as a memoryview, without a copy. The view, and every slice, cast
        and NumPy array made from it, keeps the object from being released, also after this handle's `close`.

        Parameters
        ----------
        address:
            An address, together with `nbytes`, gives a view of unsigned bytes: an int, one of NumPy, or a
            pointer of ctypes or cffi. An object with the buffer protocol (the registered object itself, such
            as an `mmap`, a part of it, a NumPy array over it) gives a view of the same memory, format and
            shape, or of unsigned bytes if the format is a structure.
        nbytes:
            The size in bytes, for an address only.
        readonly:
            None: True for an address, and as the buffer has it otherwise.

        The memory must belong to the object; that cannot be checked. A buffer is kept as long as a view of it
        exists, and dropped before the object is released. Raises `AccessRefusedError` when the object is
        closed, and `LifecycleError` for a NULL address, a negative size, a buffer that is not contiguous (use
        `array`) or has no memory to write. A size of 0 gives an empty view that holds nothing.
        """
        pin = self._cell.pin
        try:
            if pin is None or pin.record.cause is not None:
                pin = None
                pin = pin_or_refuse(self._record, self._cell, self)
            if type(address) is int:
                return make_view(pin, address, nbytes, readonly is not False)
            return make_buffer_view(pin, address, nbytes, readonly)
        except BaseException:
            __tracebackhide__ = True
            self = address = None  # type: ignore[assignment]  # a kept error keeps nothing alive
            raise
        finally:
            pin = None

    def array(self, array: Any) -> Any:
        """Return a NumPy array of the same memory as `array`, which is an ndarray over the object's memory.
        It, and every slice of it, keeps the object from being released, also after this handle's `close`.
        Shape, strides, type, byte order and the read-only flag are those of `array`. Raises
        `AccessRefusedError` when the object is closed, and `LifecycleError` if `array` is no ndarray, or has
        Python objects as elements."""
        pin = self._cell.pin
        try:
            if pin is None or pin.record.cause is not None:
                pin = None
                pin = pin_or_refuse(self._record, self._cell, self)
            return make_array(pin, array)
        except BaseException:
            __tracebackhide__ = True
            self = array = None  # type: ignore[assignment]  # a kept error keeps nothing alive
            raise
        finally:
            pin = None

    # -- sharing ---------------------------------------------------------------------------------------------

    def share(self) -> Handle[T]:
        """Return another share of the same object, which is closed separately. Raises `AccessRefusedError`
        when this share is closed."""
        handle = None
        try:
            handle = _new_share(self._record, self._cell, self._token)
            if handle is None:
                refuse(self._record, self)
            return handle
        finally:
            handle = None  # a kept traceback must keep nothing alive

    def weak(self) -> WeakHandle[T]:
        """Return a weak handle, which keeps nothing alive. Calling it returns a new share, or None once the
        object is closed."""
        cell_of(self._record, self._cell)  # in a garbage cycle: the record knows its door again from here on
        weak: WeakHandle[T] = _new_object(WeakHandle)
        weak._record = self._record
        return weak

    def reparent(self, parent: Any) -> None:
        """Replace the parents of the object: `parent` is a handle, a tuple of handles, or None for no parent.
        From now on the new parents are not released before the object; the old ones no longer wait for it.

        Raises `AccessRefusedError` when this object or a parent is closed, `ForeignHandleError` for a parent
        of another manager, and `RegistrationError` if `parent` is no handle, or is the object itself or one
        of its descendants; nothing is changed then.
        """
        pin = None
        pins = None
        try:
            record = self._record
            pin = raw_pin(self._cell)  # held: the object does not end meanwhile
            if pin is None or record.cause is not None:
                refuse(record, self)
            ids, pins = ((), None) if parent is None else _parents_named(record.kind.registry, parent)
            give_parents(record, ids, pins)
        finally:
            pins = pin = parent = self = None  # type: ignore[assignment]  # a kept error keeps nothing alive

    # -- who holds it ----------------------------------------------------------------------------------------

    def holders(self) -> tuple[Holder, ...]:
        """Return what keeps the object from being released, except for this handle: leases, views, children,
        fences, other handles and other references, each with what keeps it in turn. It searches the whole
        heap: use it for reports. Callable on any thread, also after `close`."""
        return all_holders(self._record, self)

    def expect_holders(
        self,
        *,
        leases: int = 0,
        views: int = 0,
        fences: int = 0,
        submissions: int = 0,
        exports: int = 0,
        shares: int | None = None,
        timeout: float = 0.0,
    ) -> None:
        """Raise `HeldError`, which names the holders, unless exactly these numbers of leases, views, fences,
        submissions and exports hold the object, and this number of shares is open (None: any number). For
        tests and assertions. With `timeout` it waits up to so many seconds until the numbers are right, for
        other threads that are about to let go. Exact also without the GIL, where it runs a garbage
        collection. A view counts once, whatever slices and arrays were made from it."""
        check_timeout(timeout)
        wanted = {"leases": leases, "views": views, "fences": fences, "submissions": submissions}
        wanted["exports"] = exports
        if shares is not None:
            wanted["shares"] = shares
        for what, number in wanted.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise LifecycleError(f"expect_holders({what}=) takes a number, 0 or more, not {number!r}")
        kinds: dict[HolderKind, int] = {
            "lease": leases,
            "view": views,
            "fence": fences,
            "submission": submissions,
            "export": exports,
        }
        if shares is not None:  # this handle is one of them, while it is open
            kinds["share"] = max(0, shares - (raw_pin(self._cell) is not None))
        try:
            expect(self._record, self, kinds, timeout)
        finally:
            self = None  # type: ignore[assignment]  # a kept error keeps nothing alive

    # -- closing ---------------------------------------------------------------------------------------------

    def close(  # noqa: C901 - in one piece: a call more is paid for by every object
        self, *, timeout: float | Default | None = DEFAULT, held: str = "defer", after: Any = None
    ) -> bool:
        """Give this share back, and return True if the object is released. A second call changes nothing; it
        returns True if the object is released by then.

        If this was the last share, the object is closed to new accesses. If nothing else holds it, its
        release has run when this call returns; at `BACKGROUND` the call waits up to ``finalizer_timeout``,
        and if the release takes longer, the object is `STUCK` and the call returns False. If something else
        holds the object, the call returns False, and the object is released when its last holder lets go.

        Parameters
        ----------
        timeout:
            Wait up to so many seconds for other holders too; None: for ever; 0: do not wait at all.
        held:
            ``"refuse"``: if others hold the object, or a fence that was attached before is pending, leave the
            object open and raise `HeldError` with their names.
        after:
            A `Fence`: the release waits until it has signalled. Raises `FenceError` if it is no fence, or
            belongs to another timeline, and `QueueLostError` when the object's queue was lost; nothing is
            changed then.

        Inside a garbage collection, on threads marked with `never_wait`, and where fewer than two dozen
        levels of recursion are left, the call does not wait: it puts the release into its queue and returns
        False. While another thread collects garbage no release begins: without `timeout=` the call may then
        return False, and the release follows.
        """
        # In one piece, since nearly every object ends here: `_give_back`, `AnyThread.settle`, `process` and
        # `finish` for an object whose only share is closed where its release may run. What is not as plain as
        # that goes by those four.
        record = self._record
        me = ticket = None
        try:
            if timeout is not DEFAULT or held != "defer" or after is not None:
                self._prepare(timeout, held, after)
            cell = self._cell
            place = record.place
            if cell is not SHUT_CELL:
                try:
                    frame: FrameType | None = _getframe(1)
                    code = frame.f_code  # type: ignore[union-attr]
                    if code is _EXIT:
                        frame = frame.f_back  # type: ignore[union-attr]
                        code = frame.f_code  # type: ignore[union-attr]
                except (ValueError, AttributeError):
                    # C called it, and no Python frame is below: a thread, a ctypes callback, an exit hook.
                    frame = code = None
                kind = record.kind
                closer: Any = kind.closer
                if code is not closer and code is not None:
                    if code.co_filename not in users_files:
                        # A wrapper of the library's own closes it, such as a frame of a camera.
                        frame = users_frame(frame)
                        code = None if frame is None else frame.f_code
                    if code is not None:
                        kind.closer = closer = code
                registry = kind.registry
                claims = registry.claims
                shared = registry.shared
                id = record.id
                if registry.bells:
                    # Else each close would wake a worker. The remaining holders get another one.
                    registry.bells.pop(id, None)
                now = monotonic()
                if (
                    code is not closer
                    or not place.at_once
                    or claims  # a release runs, and this may be called by it
                    or shared.setdefault(id, SHUT) is not SHUT
                    or record.cause is not None
                    or (doors.stores_meet and not shut(record, None, BY_CLOSE, None))
                ):
                    tokens = shared.get(id)
                    if tokens and timeout is DEFAULT and place.at_once and not place.mailbox and not exported:
                        # As `_give_back` for one of several shares: what is open is not released.
                        tokens.pop(self._token, None)
                        if tokens and record.cause is None:
                            self._cell = cell = SHUT_CELL
                            return False
                    self._give_back(frame)
                    frame = cell = None  # type: ignore[assignment]
                    if record.phase in ENDED:
                        shared.pop(id, None)  # another closer of this handle was through in the meantime
                else:
                    # K4: nothing is called between the look at the cause and this.
                    record.cause = BY_CLOSE
                    record.shut = now
                    record.shut_at = frame.f_lasti  # type: ignore[union-attr]
                    record.shut_code = code
                    record.door = frame = None
                    cell.pin = None
                    # Dropped before anything is run: where somebody else has the cell, its death is to tell
                    # of that.
                    self._cell = SHUT_CELL
                    cell = None  # type: ignore[assignment]
                    if record() is None and record.extra is None and not collecting:
                        try:
                            tight = cramped(STEPS) and near_limit()
                        except RecursionError:
                            tight = True
                        # K1: a clock reading is an object of its own, and can be the claim.
                        if not tight and claims.setdefault(id, me := now) is me:
                            if record.phase is None and record.outcome is None and record.extra is None:
                                record.begun = now
                                record.phase = RELEASING
                                try:
                                    release = record.release
                                    if release is not None:
                                        result = release(record.obj)
                                        if result is not None and type(result) in DEFERRED:
                                            refuse_deferred(result, "the release")
                                    record.outcome = RELEASED
                                except BaseException as error:
                                    # Noted before anything is called: an interrupt decides nothing.
                                    record.outcome = error
                                    release = None
                                else:
                                    release = None
                                    if record.owning >= 2:
                                        if record.native is None:
                                            key = identity(record.obj)
                                            record.owning = 1  # K4
                                            try:
                                                # As `leave_owners`.
                                                if owners[key] is record:
                                                    del owners[key]
                                            except KeyError:
                                                key = 0
                                        else:
                                            disown(record)
                                    record.release = record.obj = None
                                    if record.parent is not None:
                                        let_parent_go(record)
                                    if kind.alive is not None:
                                        kind.gone.append(id)
                                    tell = registry.tell_plain_end
                                    record.ended = monotonic()
                                    # K4: with its phase the end has been told, and only then is it marked as
                                    # plain.
                                    record.phase = RELEASED
                                    tell(record)
                                    record.outcome = PLAIN
                                    shared.pop(id, None)
                                    if registry.kept or registry.waiters or kind.alive is not None:
                                        forget(registry, record)
                                    claims.pop(id, None)
                                    me = None
                                    mailbox = place.mailbox
                                    if mailbox:
                                        # The ticket of what was just released, and a bounded number of
                                        # others.
                                        try:
                                            for ticket in place.takes:  # noqa: B007 - K2
                                                break
                                        except IndexError:  # another thread was quicker
                                            ticket = None
                                        if ticket is not record and ticket is not None:
                                            mailbox.appendleft(ticket)
                                            ticket = None
                                        if mailbox and not near_limit():
                                            place.run_some(DRAIN_STEPS, BRIEF_WAIT)
                                    return True
                                failed(record)
                            else:
                                # It is not plain after all, or others ended it between our look and our
                                # claim. A thread that found the claim taken has passed over its ticket.
                                claims.pop(id, None)
                                place.put(record)
                        me = None
            phase = record.phase
            if phase is not None and phase in ENDED:
                return phase is RELEASED
            if exported:  # not on the way of plain ends
                sweep_of(record)
            released: bool = place.settle(record, timeout)
            if not released:
                self._not_released(timeout, held)
            return released
        except LifecycleError:
            __tracebackhide__ = True
            self = cell = None  # type: ignore[assignment]  # K3
            raise
        except BaseException as error:
            cell = release = None  # K3
            # Up to `put` nothing is called, so no second interrupt falls in here.
            if me is not None:
                # As in `process`.
                unnoted = (record.outcome is None) & (record.phase is RELEASING) & (record.extra is None)
                record.outcome = (record.outcome, error.__context__)[unnoted]
                if record.phase is RELEASED:
                    record.outcome = PLAIN
                try:
                    if registry.claims[id] is me:
                        del registry.claims[id]
                except KeyError:
                    me = None
                me = None
                place.put(record)
                if record.phase in ENDED:
                    forget(registry, record)
            if ticket is not None and ticket is not record:
                place.put(ticket)
            # Interrupted: a closed handle that is kept by a traceback must not keep the object.
            self._give_back(None)
            if not record.place.inline:
                record.place.will_not_settle()
            self._tell_shut()
            raise

    def release_after(self, fence: Any) -> None:
        """Make the release wait for `fence`. For handles that are dropped later without a close. May be
        called several times; then all fences must have signalled. Raises what ``close(after=)`` raises, and
        `AccessRefusedError` when this share is closed."""
        try:
            shut = raw_pin(self._cell) is None or self._record.cause is not None
            if shut and self._record.place.lost_reason is None:
                refuse(self._record, self)
            add_fence(self._record, fence, "release_after()")
        finally:
            self = None  # type: ignore[assignment]  # a kept error keeps nothing alive

    def detach(self, *, timeout: float | Default | None = DEFAULT) -> T:
        """Take the object out of the manager and return the raw object, which the caller now has to release.
        The handle is closed, the object's cleanups are not run, and its state is `DETACHED`. It no longer
        keeps its parent from being released: give the object to its new owner before you close the parent.

        Raises `HeldError`, which names the holders, if others hold the object (shares, leases, views,
        children, fences), and `OwnershipError` if it is only borrowed or observed; nothing is changed then.
        It waits for an access that began at the same moment, up to `timeout` seconds (`finalizer_timeout`
        unless given; None: for ever). Raises `AccessRefusedError` when the object is closed, and
        `RecursionError` near the recursion limit, with nothing changed.
        """
        if timeout is not DEFAULT:
            check_timeout(timeout)
        runtime.refuse_near_limit("detach()")
        site = runtime.site_of(_getframe().f_back)
        record = self._record
        me: list[object] = []
        obj = release = parent = None
        try:
            begin_detach(record, self, me, timeout, site)
            obj, release, parent = record.obj, record.release, record.parent
            record.outcome = DETACHED
            finish(record)
            # No call behind the last one: no interrupt can lose the object here.
            return obj  # type: ignore[no-any-return]
        except BaseException:
            undo_detach(record, me, obj, release, parent)
            raise
        finally:
            self = obj = parent = None  # type: ignore[assignment]  # a kept error keeps nothing alive

    def _not_released(self, timeout: float | Default | None, held: str) -> None:
        record = self._record
        self._tell_shut()
        self = None  # type: ignore[assignment]  # a kept error keeps nothing alive
        if held == "refuse" and timeout is DEFAULT and record.cause is not None and record() is not None:
            if runtime.free_threaded and runtime.in_collector():
                return  # the collector itself may be what still holds it, see `kept_by_collector`
            raise about(
                record,
                HeldError(
                    f"{describe(record)} was taken by a lease at the very moment it was closed. It is "
                    "released when that lease ends; close it again with timeout= to wait for that.",
                    ("lease",),
                ),
                ("lease",),
            )

    def _tell_shut(self) -> None:
        """Have it counted that the object is shut and has not ended yet. It counts once, however often it is
        told: a close that was cut short is made up for by the next."""
        record = self._record
        if record.cause is not None and record.phase not in ENDED:
            record.kind.registry.events.append(("shut", record))

    def _give_back(self, frame: FrameType | None) -> bool:
        """Take this share out; True when it was the last, and the door is shut now. Calling again changes
        nothing."""
        record = self._record
        cell = self._cell
        last = False
        try:
            if cell is not SHUT_CELL:
                shared = record.kind.registry.shared
                tokens = shared.setdefault(record.id, SHUT)
                if tokens is SHUT or give_back(tokens, self._token):
                    last = True
                    if not record.place.inline:
                        record.place.will_shut(record)
                    # As `shut`, which would be one call more on the way of every frame.
                    if record.cause is None:
                        now = monotonic()
                        if doors.stores_meet:
                            shut(record, None, BY_CLOSE, None)
                        elif record.cause is None:
                            record.cause = BY_CLOSE
                            record.shut = now
                    if frame is not None and record.shut_code is None:
                        if frame.f_code.co_filename not in users_files:
                            frame = users_frame(frame)
                        if frame is not None:
                            record.shut_at = frame.f_lasti
                            record.shut_code = frame.f_code
                    record.door = None
                    cell.pin = None
                    if record.phase is not None and record.phase in ENDED:
                        # It was shut by other means before, and has forgotten its shares already.
                        shared.pop(record.id, None)
                self._cell = SHUT_CELL
            return last
        finally:
            cell = None  # type: ignore[assignment]

    def _prepare(self, timeout: float | Default | None, held: str, after: Any) -> None:
        """The rarer ways of closing: see that they are possible before anything is changed."""
        record = self._record
        share: Handle[T] | None = self
        self = None  # type: ignore[assignment]  # a kept error keeps nothing alive
        try:
            _prepare_to_close(record, share, timeout, held, after)
        finally:
            share = None

    def __enter__(self) -> Handle[T]:
        try:
            if raw_pin(self._cell) is None or self._record.cause is not None:
                refuse(self._record, self)
            return self  # in here, since 3.10 looks for signals at every jump, and one leads here
        except BaseException:
            self._give_back(None)  # interrupted: the block ends before it began
            raise

    def __exit__(self, kind: object = None, error: object = None, trace: object = None) -> None:
        try:
            Handle.close(self)
        except BaseException:  # it may have been interrupted before it began
            self._give_back(None)
            if not self._record.place.inline:
                self._record.place.will_not_settle()
            self._tell_shut()
            raise

    # -- what a handle is not --------------------------------------------------------------------------------

    def __copy__(self) -> NoReturn:
        raise TypeError(
            f"a handle cannot be copied ({describe(self._record)}): use handle.share() for another share"
        )

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__copy__()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"a handle cannot be pickled ({describe(self._record)}): a native object belongs to its "
            "process; send its data instead"
        )

    def __repr__(self) -> str:
        record = self._record
        closed = ", this share closed" if self._cell is SHUT_CELL and state_of(record) is VALID else ""
        return f"<Handle of {describe(record)}: {fate(record)}{closed}>"


also_release.add(Handle.close.__code__)
_EXIT = Handle.__exit__.__code__


def _prepare_to_close(
    record: Record, share: Handle[Any] | None, timeout: float | Default | None, held: str, after: Any
) -> None:
    """What `Handle._prepare` does, with no reference to the handle once it raises."""
    try:
        if timeout is not DEFAULT:
            check_timeout(timeout)
        if held not in ("defer", "refuse"):
            text = f"close(held=) of {describe(record)} takes 'defer' or 'refuse', not {held!r}"
            raise about(record, LifecycleError(text))
        if held == "refuse" and share._cell is not SHUT_CELL:  # type: ignore[union-attr]
            refuse_if_held(record, share, 'close() without held="refuse" and let it follow')
            refuse_if_awaited(record)
            if record.extra is not None and record.extra.dropped is not None:
                refuse_if_referred_to(record)
        if after is not None:
            add_fence(record, after, "close(after=)")
    finally:
        share = None


class WeakHandle(Uncopied, Generic[T]):
    """What `Handle.weak` gives: call it for a new share, or None."""

    _remedy = "call it for a share, or use handle.weak() again"

    __slots__ = ("_record",)
    _record: Record

    def __call__(self) -> Handle[T] | None:
        """A new share, or None once the object is shut or its last handle gone. Callable on any thread."""
        record = self._record
        return None if record.cause is not None else _new_share(record, cell_of(record), None)

    def __repr__(self) -> str:
        return f"<WeakHandle of {describe(self._record)}: {fate(self._record)}>"


observed_handle: type[Handle[Any]] = Handle
"""The class of handles of observed objects, which stands in a layer above (`manager/observed.py`)."""


def set_observed_handle(cls: type[Handle[Any]]) -> None:
    """Tell what shares of observed objects are made of."""
    global observed_handle
    observed_handle = cls


_parents_named: Callable[[Any, Any], tuple[tuple[int, ...], Pin | Pins | None]]
"""What a ``parent=`` stands for; it is decided in a layer above (`targets.py`)."""


def set_parents_named(fn: Callable[[Any, Any], tuple[tuple[int, ...], Pin | Pins | None]]) -> None:
    """Tell how parents are found."""
    global _parents_named
    _parents_named = fn


def new_share(record: Record) -> Handle[Any]:
    """One more share of an object, known by its id. Raises `AccessRefusedError` once it is closed."""
    handle = None
    try:
        handle = _new_share(record, cell_of(record), None)
        if handle is None:
            refuse(record)
        return handle
    finally:
        handle = None  # K3


def _new_share(record: Record, cell: Cell | None, parent: int | None) -> Handle[Any] | None:
    """One more share, or None. The handle is made before the share is entered: an interrupt finds either none
    or both."""
    token = next_share()
    handle: Handle[Any] | None = Handle()
    try:
        handle._record = record  # type: ignore[union-attr]
        handle._token = token  # type: ignore[union-attr]
        handle._cell = SHUT_CELL  # type: ignore[union-attr]
        if cell is None or not add_share(record, cell, parent, token):
            return None
        handle._cell = cell  # type: ignore[union-attr]
        if record.owning < 0:
            handle.__class__ = observed_handle
        return handle
    except BaseException:
        if cell is not None:
            drop_share(record, cell, token)
        raise
    finally:
        cell = handle = None  # a kept traceback must keep nothing alive
