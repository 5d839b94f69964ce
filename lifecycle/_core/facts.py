"""What an adapter may know of an object and do with it while it holds the pin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from lifecycle._core import runtime
from lifecycle._core.describe import about as about_record
from lifecycle._core.describe import describe as describe_record
from lifecycle._core.describe import fate as fate_of
from lifecycle._core.describe import info_of, state_of
from lifecycle._core.exclusive import pin_or_refuse
from lifecycle._core.handle import Handle
from lifecycle._core.holders import Holder, all_holders, walks
from lifecycle._core.record import SHUT_CELL, Pin, Record
from lifecycle._core.shares import set_apart
from lifecycle._core.targets import record_of
from lifecycle._core.views import make_array, make_buffer_view, make_view
from lifecycle.errors import LifecycleError, shown
from lifecycle.states import ENDED, Cause, ObjectState
from lifecycle.stats import ObjectInfo

__all__ = [
    "Facts",
    "about",
    "apart",
    "array_of",
    "describe",
    "facts",
    "held_pin",
    "holders",
    "is_closed",
    "pin",
    "raw",
    "view",
    "view_of",
]


class Facts:
    """A read-only look at one object: always of now, also after its end. It keeps nothing alive.

    Every property may be read on any thread and at any moment, inside a collection too. Times are those of
    ``time.monotonic()`` in seconds, 0.0 where it has not happened.
    """

    __slots__ = ("_record",)
    # Filled in by `facts`: a class without `__init__` is made in half the time.
    _record: Record

    @property
    def id(self) -> int:
        """The number under which the manager knows the object."""
        return self._record.id

    @property
    def type_name(self) -> str:
        """The type in metrics and policies."""
        return self._record.kind.type_name

    @property
    def name(self) -> str | None:
        """The object's own name."""
        return self._record.name

    @property
    def native(self) -> Any:
        """The native name that was given: an address, a file descriptor, a GL name; None without one."""
        return self._record.native

    @property
    def size(self) -> int:
        """Native bytes, as registered."""
        return self._record.size

    @property
    def state(self) -> ObjectState:
        """The state of now."""
        return state_of(self._record)

    @property
    def has_ended(self) -> bool:
        """True once the state cannot change any more: released, failed, stuck, orphaned or detached."""
        phase = self._record.phase
        return phase is not None and phase in ENDED

    @property
    def cause(self) -> Cause | None:
        """Why it was closed; None while it is open, and if the last handle was dropped."""
        return self._record.cause

    @property
    def reason(self) -> str:
        """The reason of the end: an error, or the reason given to `invalidate`. Empty without one."""
        extra = self._record.extra
        return "" if extra is None else extra.reason

    @property
    def parent_id(self) -> int:
        """The id of its parent, 0 without one."""
        extra = self._record.extra
        return 0 if extra is None else extra.parent_id

    @property
    def attempts(self) -> int:
        """How often its release was tried and has to be tried again."""
        extra = self._record.extra
        return 0 if extra is None else extra.attempts

    @property
    def born(self) -> float:
        """When it was registered."""
        return self._record.born + 0.0  # a float of its own: see `doors.py`

    @property
    def shut(self) -> float:
        """When it was closed to new accesses."""
        return self._record.shut

    @property
    def begun(self) -> float:
        """When its release began."""
        return self._record.begun

    @property
    def ended(self) -> float:
        """When it ended."""
        return self._record.ended

    @property
    def site(self) -> str:
        """The line that registered it, as ``file.py:31``; empty where that was not noted."""
        return runtime.describe_site(self._record.site)

    @property
    def closed_site(self) -> str:
        """The line that closed it."""
        return runtime.describe_site(self._record.shut_site)

    @property
    def max_age(self) -> float | None:
        """The age in seconds from which on an object of its type counts as held too long; None: no age."""
        return self._record.kind.max_age

    def info(self) -> ObjectInfo:
        """Return a frozen snapshot of what is known now."""
        return info_of(self._record)

    @property
    def fate(self) -> str:
        """What became of it, in words: ``released 3 ms ago by close() at app.py:31``."""
        return fate_of(self._record)

    def __eq__(self, other: object) -> bool:
        return self._record is other._record if isinstance(other, Facts) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._record.id)

    def __str__(self) -> str:
        return describe_record(self._record)

    def __repr__(self) -> str:
        return f"<Facts of {self}: {self.fate}>"


def _record_of(target: Any) -> Record:
    try:
        if isinstance(target, Handle):
            return target._record
        if isinstance(target, Pin):
            return target.record
        if isinstance(target, Facts):
            return target._record
        raise LifecycleError(f"this takes a handle, a pin or facts of an object, not {shown(target)}")
    finally:
        target = None  # K3


def facts(target: Handle[Any] | Pin | int, manager: Any = None) -> Facts:
    """Return the facts of the object behind a handle (open or closed), a pin, or an id of `manager`.

    An id is known until the record has expired (``state_retention``); `UnknownObjectError` is raised for any
    other.
    """
    try:
        made = Facts()
        if isinstance(target, Handle):
            made._record = target._record
        elif type(target) is int and manager is not None:
            made._record = record_of(manager._registry, target)
        else:
            made._record = _record_of(target)
        return made
    finally:
        target = None  # type: ignore[assignment]  # K3


def describe(target: Handle[Any] | Pin | Facts) -> str:
    """Return the object's name in messages: ``gst.Sample "capture" (object 7, native 0x7f3a10)``."""
    return describe_record(_record_of(target))


E = TypeVar("E", bound=LifecycleError)


def about(target: Handle[Any] | Pin | Facts, error: E, holders: Iterable[str] = ()) -> E:
    """Return `error` with the facts of the object that it is about, as they are now: plain data, which keeps
    nothing alive. `holders`: the holders in words, if the error is about them."""
    try:
        return about_record(_record_of(target), error, holders)
    finally:
        target = None  # type: ignore[assignment]  # K3


def holders(target: Handle[Any] | Pin | Facts, *, within_budget: bool = False) -> tuple[Holder, ...]:
    """Return what keeps the object from being released, also after `close`. It searches the heap: use it for
    messages and diagnosis, not per frame.

    `within_budget` is for errors that a program may raise, and survive, in a tight loop: all such searches of
    the process together take half a second, and after that a twentieth of the time. Empty if that time is
    used up, and where a pause is not allowed (inside a collection, on threads marked with `never_wait`).
    """
    if not within_budget:
        return all_holders(_record_of(target), target)
    if runtime.collecting or runtime.must_not_wait() or not walks.allows():
        return ()
    began = runtime.monotonic()
    try:
        return all_holders(_record_of(target), target)
    finally:
        walks.spend(began)


def pin(handle: Handle[Any]) -> Pin:
    """Return the pin of the object: while it is held the object is not released (I1, I2).

    Raises `AccessRefusedError` where an access is refused: the handle is closed, the object is in exclusive
    use, its queue was lost. Callable on any thread.
    """
    held = None
    try:
        held = handle._cell.pin
        if held is None or handle._record.cause is not None:
            held = pin_or_refuse(handle._record, handle._cell, handle)
        return held
    finally:
        held = None  # K3


def held_pin(target: Handle[Any] | Pin | Facts) -> Pin | None:
    """Return the pin of an object that is still held, also after its handles were closed; None if it is not
    held.

    While the pin is kept the release is delayed, as with every pin. For diagnosis and for adapters that look
    at what others hold. Callable on any thread.
    """
    core = _record_of(target)()
    try:
        return None if core is None else core()
    finally:
        core = None  # K3


def is_closed(handle: Handle[Any]) -> bool:
    """Return True once this handle itself was closed, also if the object is open by other shares."""
    return handle._cell is SHUT_CELL


def apart(share: Handle[Any]) -> None:
    """Set a share apart, that was just made and that nobody else has seen yet, for one of several consumers.

    A panic in `safe_access` through it, or through a share made of it, closes that share, and does not
    invalidate the object while others hold theirs: a consumer's bug says nothing about what it consumes.
    """
    set_apart(share._record, share._token)


def raw(pin: Pin) -> Any:
    """Return the object. Use it while you hold `pin`, and keep it nowhere."""
    return pin.record.obj


def view(pin: Pin, address: int, nbytes: int, readonly: bool = True) -> memoryview:
    """Return native memory as a one-dimensional memoryview of unsigned bytes that holds `pin`.

    Every slice, cast and NumPy array made of it holds the object as well. `address` and `nbytes` must be
    memory of the object. Raises `LifecycleError` for what cannot be an address and a size.
    """
    return make_view(pin, address, nbytes, readonly)


def view_of(pin: Pin, buffer: Any, readonly: bool | None = None) -> memoryview:
    """Return a memoryview of the memory of `buffer`, of its format and shape, that holds `pin`.

    `buffer` is anything contiguous with the buffer protocol over memory of the object; its export is let go
    before the pin. `readonly` None: as `buffer` is. Raises `LifecycleError` for what cannot be viewed so.
    """
    return make_buffer_view(pin, buffer, None, readonly)


def array_of(pin: Pin, array: Any) -> Any:
    """Return an ndarray of the same memory, dtype and strides as `array` that holds `pin`, as its slices do.

    Raises `LifecycleError` for what is no ndarray, or has Python objects in it.
    """
    return make_array(pin, array)
