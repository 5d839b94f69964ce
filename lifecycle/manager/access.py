"""`safe_access`: a lease that is also the panic boundary.

In the languages this comes from, an error is a returned value and a panic is not. In Python both are
exceptions, so there is one rule: inside `safe_access` an undeclared exception is a panic. Declared errors
pass unchanged, and so does a `ClosedError` of this library, which says that something else was closed.
Control flow (Ctrl-C, `sys.exit`, a generator's end, task cancellation) passes. Everything else, also a
`BaseException` of an extension's own, shuts the object as `INVALID` and comes out as `AccessPanicError`.
"""

from __future__ import annotations

from types import FunctionType, TracebackType
from typing import Any, Generic, NoReturn, TypeVar

from lifecycle._core import runtime
from lifecycle._core.access import invalidate_record
from lifecycle._core.checks import deferred_error, is_control_flow, leaves_of
from lifecycle._core.describe import about, describe
from lifecycle._core.handle import Handle
from lifecycle._core.keeping import Uncopied
from lifecycle._core.leases import leave
from lifecycle._core.record import Pin, Record, silence
from lifecycle._core.shares import is_apart
from lifecycle._core.tables import ObjectType, Registry
from lifecycle._core.targets import pin_of
from lifecycle.config import exception_types
from lifecycle.errors import (
    AccessPanicError,
    ClosedError,
    LeaseEndedError,
    is_of,
    raised_at,
    text_of,
    trace_of,
)
from lifecycle.manager.observed import observed
from lifecycle.states import Cause

T = TypeVar("T")


def refuse_late(result: object, record: Record, fn: object) -> NoReturn:
    """Refuse a coroutine or generator that came out of `safe_access`: its body would run after the lease."""
    error = deferred_error(
        result,
        f"safe_access on {describe(record)}: {fn!r}",
        "its body would run after the lease has ended; "
        "give a plain function, or use `with handle.lease()` inside the coroutine or generator",
    )
    result = None  # a kept error keeps nothing alive
    raise about(record, error)


def declared(kind: ObjectType, errors: Any) -> tuple[type[BaseException], ...]:
    """The declared errors in force: nearest wins (the call, the type's policy, the configuration)."""
    if errors:
        return exception_types(errors, "safe_access(errors=)")
    return kind.errors or kind.registry.config.errors


def is_declared(error: BaseException, kind: ObjectType, errors: Any) -> bool:
    """Return True if `error` is no panic: it is of a declared type, or a group of nothing but such and of
    control flow."""
    types: tuple[type[BaseException], ...] = (ClosedError, *declared(kind, errors))
    if is_of(error, types):
        return True
    about_it = [one for one in leaves_of(error) if not is_control_flow(one)]
    return bool(about_it) and all(is_of(one, types) for one in about_it)


def escaped(
    record: Record, error: BaseException, errors: Any, fn: object = None, target: object = None
) -> None:
    """Decide about an exception that left an access: return to let it pass, or raise `AccessPanicError`.

    `fn` is the function that was to be called, where the exception did not come out of a line of it; `target`
    the handle, where the access was through one. The caller's own reference to the pin is gone by now, so a
    poisoned object that nobody else holds is released in here. Close to the recursion limit the exception
    passes, and the keeper decides about the object.
    """
    registry = record.kind.registry
    if runtime.near_limit():
        registry.later[0:0] = [(judge, (record, error, errors, fn, target))]
        return
    try:
        panic = judge(record, error, errors, fn, target)
        if panic is not None:
            if record.cause is not None and registry.config.enable_state_checking:
                record.place.settle(record, 0)
            raise panic from error
    finally:
        target = None  # K3


def judge(
    record: Record, error: BaseException, errors: Any, fn: object, target: object = None
) -> AccessPanicError | None:
    """Count an exception that left an access, as `escaped`. The object is invalid after a panic, which is
    returned; where the access was through a share that was set apart, that alone is closed."""
    kind = record.kind
    registry = kind.registry
    if is_control_flow(error):
        return None
    if type(error) is RecursionError and type(getattr(fn, "__func__", fn)) is FunctionType:
        # The limit struck before the first line of a function in Python, so nothing has been done to the
        # object.
        return None
    reason = text_of(error)
    if is_declared(error, kind, errors):
        registry.events.append(("error", kind, record, reason))
        return None
    trace = trace_of(error)
    at = raised_at(error)
    registry.events.append(("panic", kind, record, reason, trace))
    fate = "state checking is off, so it stays open"
    if not registry.config.enable_state_checking:
        pass
    elif isinstance(target, Handle) and is_apart(record, target._token):
        try:
            target.close(timeout=0)
        finally:
            target = None  # K3
        fate = "this share of it is closed, and its other shares are open"
    else:
        record.more().panic = type(error).__name__
        invalidate_record(record, Cause.PANIC, f"panic: {reason}{at}", None)
        fate = "it is invalid now and will be released"
    about_it = [one for one in leaves_of(error) if not is_control_flow(one)]
    names = ", ".join(dict.fromkeys(type(one).__name__ for one in about_it))
    return about(
        record,
        AccessPanicError(
            f"panic during object access: {reason}{at}, while using {describe(record)}; {fate}. Expected? "
            f"Declare it: safe_access(..., errors=({names},)) or "
            f"policy({kind.type_name!r}, errors=...)."
        ),
    )


class AccessBlock(Uncopied, Generic[T]):
    """``with manager.safe_access(handle) as obj``: the boundary around a block."""

    _remedy = "call safe_access() again"

    __slots__ = ("_errors", "_obj", "_pin", "_record", "_target", "_thread")

    def __init__(self, registry: Registry, target: Any, errors: Any) -> None:
        try:
            self._target = target  # a handle is not dropped while its block lasts
            self._errors = errors
            self._thread = runtime.get_ident()
            self._pin: Pin | None = pin_of(registry, target)
            self._record = record = self._pin.record
            self._obj = observed(record) if record.owning < 0 else None
        finally:
            self = target = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive

    def __enter__(self) -> T:
        try:
            record = self._pin.record  # type: ignore[union-attr]
            return record.obj if self._obj is None else self._obj  # type: ignore[no-any-return]
        except AttributeError:
            ended = self._ended()
            self = None  # type: ignore[assignment]  # a kept error keeps nothing alive
            raise ended from None

    def _ended(self) -> LeaseEndedError:
        record = self._record
        return about(
            record,
            LeaseEndedError(
                f"this access to {describe(record)} has ended: it is for one block. Call safe_access() again."
            ),
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A jump, at which 3.10 looks for signals, is taken in the block only.
        try:
            if error is not None:
                self._escaped(error)
            elif self._record.cause is not None and self._pin is not None:
                self._leave()
        finally:
            self._pin = self._obj = None

    def _leave(self) -> None:
        """As `Lease._leave`."""
        try:
            silence(self._record)
        finally:
            self._pin = self._obj = None
        leave(self._record)

    def _escaped(self, error: BaseException) -> None:
        """What was raised in the block, once the object is no longer in use by it."""
        pin = self._pin
        try:
            self._pin = self._obj = None
            record = pin.record if pin is not None else None
        finally:
            pin = None
        if record is not None:
            escaped(record, error, self._errors, None, self._target)
