"""Observed objects: owned elsewhere, known here.

The registry refers to such an object weakly (`Record.obj` is an `ObservedRef`), so every use of it first asks
for a strong reference, and the lease, view or access holds that as well as the pin. When the object is gone,
its weak reference's callback, a C method, posts an event; an earlier access ends it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from lifecycle._core.access import invalidate_record, refuse
from lifecycle._core.checks import is_control_flow
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.describe import about, describe
from lifecycle._core.exclusive import ExclusiveLease
from lifecycle._core.handle import Handle, set_observed_handle
from lifecycle._core.leases import Lease
from lifecycle._core.place import Place
from lifecycle._core.record import ObservedRef, Record
from lifecycle._core.register import enter
from lifecycle._core.tables import ObjectType
from lifecycle._core.views import ArrayOwner
from lifecycle.errors import OwnershipError, RegistrationError, text_of
from lifecycle.states import Cause, ObjectState

T = TypeVar("T")


def observed(record: Record) -> Any:
    """The object behind an observed record, strongly. Ends the record and refuses when its owner has ended
    the object."""
    obj, reason = _look(record)
    try:
        if reason is None:  # it has ended, and is forgotten
            refuse(record)
        if reason:
            _owner_ended(record, reason)
            refuse(record)
        return obj
    finally:
        obj = None


def follow(record: Record) -> None:
    """End a record that is observed and whose object its owner has ended: asked before every answer about its
    state. Never raises."""
    if record.owning < 0 and record.cause is None:
        reason = _look(record)[1]
        if reason:
            _owner_ended(record, reason)


def _look(record: Record) -> tuple[Any, str | None]:
    """The object, and why it cannot be used any more, if so; None where nothing is known any more, as it has
    ended."""
    ref = record.obj
    obj = None
    try:
        if ref is None:
            return None, None
        obj = ref()
        if obj is None:
            return None, "its owner let it go"
        if ref.alive is not None:
            try:
                if not ref.alive(obj):
                    return obj, "its owner has ended it"
            except BaseException as error:
                if is_control_flow(error):
                    raise
                return obj, f"asking whether it is alive raised {text_of(error)}"
        return obj, ""
    finally:
        obj = None


def _owner_ended(record: Record, reason: str) -> None:
    invalidate_record(record, Cause.OWNER, reason, None)
    record.place.settle(record, 0)


class ObservedLease(Lease[T]):
    """A lease of an observed object: holds that too."""

    __slots__ = ("_obj", "_times")
    _obj: T | None
    _times: tuple[Callable[[Any, float], None], Any, float] | None

    def __enter__(self) -> T:
        if self._pin is None:
            raise self._ended()
        return self._obj  # type: ignore[return-value]

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """As `Lease.close`."""
        times, self._times = self._times, None
        self._pin = self._obj = None
        if times is not None:
            note, kind, since = times
            note(kind, since)

    def __del__(self) -> None:
        try:
            self.close()
        except AttributeError:  # an interrupt while it was made
            return


class ObservedHandle(Handle[T]):
    """A handle of an object that is owned elsewhere. Made by `SafetyManager.observe`."""

    __slots__ = ()

    @property
    def state(self) -> ObjectState:
        """As `Handle.state`; looks after the object first."""
        follow(self._record)
        return super().state

    @property
    def valid(self) -> bool:
        """As `Handle.valid`; looks after the object first."""
        follow(self._record)
        return super().valid

    def lease(self, *, timeout: float | None = 0) -> Lease[T]:
        """As `Handle.lease`."""
        plain = lease = obj = None
        try:
            obj = observed(self._record)
            plain = super().lease(timeout=timeout)
            lease = ObservedLease.__new__(ObservedLease)
            lease._obj = obj
            lease._thread = plain._thread
            lease._record = plain._record
            lease._pin = plain._pin
            lease._times = plain.take_times()
            return lease
        finally:
            plain = lease = obj = None

    def view(self, address: Any, nbytes: int | None = None, readonly: bool | None = None) -> memoryview:
        """As `Handle.view`; the view holds the Python object too."""
        obj = observed(self._record)
        try:
            view = super().view(address, nbytes, readonly)
            if view.nbytes:  # an empty view holds nothing
                view.obj.owner = obj  # type: ignore[attr-defined]  # our own ctypes array, see `make_view`
            return view
        finally:
            obj = view = None  # type: ignore[assignment]

    def array(self, array: Any) -> Any:
        """As `Handle.array`; the array holds the Python object too."""
        obj = observed(self._record)
        try:
            made = super().array(array)
            base: Any = made.base
            if not isinstance(base, ArrayOwner):
                base = base.base
            base.owner = obj
            return made
        finally:
            obj = made = base = array = None

    def exclusive(self, *, timeout: float | Default | None = DEFAULT) -> ExclusiveLease[T]:
        """Refused: others may use the object without this manager."""
        self._not_ours(
            "its owner may use it at any time: exclusive access is for objects that were registered"
        )

    def detach(self, *, timeout: float | Default | None = DEFAULT) -> T:
        """Refused: there is no ownership to hand out."""
        self._not_ours("there is no ownership to hand out: close the handle and use the object you have")

    def _not_ours(self, why: str) -> NoReturn:
        record = self._record
        self = None  # type: ignore[assignment]  # a kept error keeps nothing alive
        raise about(record, OwnershipError(f"{describe(record)} is observed, not owned: {why}"))


set_observed_handle(ObservedHandle)


def enter_observed(
    kind: ObjectType,
    place: Place,
    obj: Any,
    name: str | None,
    native: Any,
    size: int,
    alive: Callable[[Any], object] | None,
) -> ObservedHandle[Any]:
    """What `SafetyManager.observe` does. Its arguments have been checked."""
    handle = None
    try:
        try:
            ref = ObservedRef(obj, kind.registry.events.append)
        except TypeError:
            raise RegistrationError(
                f"a {type(obj).__name__} cannot be weakly referenced, so it cannot be observed; register it "
                "without release=, with its owner's handle as parent="
            ) from None
        ref.id = 0
        ref.alive = alive
        handle = enter(kind, place, ref, None, name, native, size, None, None, False)
        ref.id = handle._record.id
        handle._record.owning = -1
        handle.__class__ = ObservedHandle
        return handle  # type: ignore[return-value]
    finally:
        handle = obj = None
