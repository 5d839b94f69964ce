"""Safe finalizers: a timed, counted, contained action at the death of any Python object.

A weak reference watches the object, and that is all it does: its callback drops one handle. The action itself
is the release of an ordinary record, so it runs on a timed worker, never in the collector and never on the
thread that happened to drop the object; it has a deadline, is counted, and runs in the exit pass if nothing
ended it before. The callback is a C function, so a signal that is pending is not raised in it, where CPython
would print it and forget both. Where even that could not be called, at the recursion limit, the keeper finds
the object dead and drops the handle itself.
"""

from __future__ import annotations

import functools
import gc
import types
import weakref
from collections.abc import Callable
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.checks import cell_filled, check_callback
from lifecycle._core.describe import describe, state_of
from lifecycle._core.handle import Handle
from lifecycle._core.keeping import Uncopied
from lifecycle._core.record import Record
from lifecycle._core.release import end_without_release
from lifecycle._core.tables import owners
from lifecycle.errors import ClosedError, RegistrationError
from lifecycle.states import BY_CLOSE, DETACHED, ObjectState

FINALIZER_TYPE = "safe_finalizer"
REACH_LIMIT = 2000
"""Objects looked at, at most, for a path from a finalizer to its object."""


class Action:
    """What a safe finalizer does, once it is armed: the object that is registered in its place."""

    __slots__ = ("__weakref__", "args", "armed", "fn")

    def __init__(self, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.fn: Callable[..., object] = fn
        self.args: tuple[Any, ...] = args
        self.armed: bool = False

    def run(self) -> None:
        """The release."""
        if self.armed:
            self.fn(*self.args)


class Finalizers:
    """The safe finalizers of one manager that are still to come."""

    __slots__ = ("_table",)

    def __init__(self) -> None:
        self._table: dict[int, tuple[weakref.ref[Any], Handle[Any]]] = {}

    def attach(
        self,
        register: Callable[..., Handle[Any]],
        obj: object,
        fn: Callable[..., object],
        args: tuple[Any, ...],
    ) -> SafeFinalizer:
        """What `SafetyManager.set_safe_finalizer` does, with the manager's `register`."""
        check_callback(fn, "finalizer")
        check_target(obj, fn, args)
        action = Action(fn, args)
        handle = None
        try:
            handle = register(action, FINALIZER_TYPE, name=type(obj).__qualname__, release=Action.run)
            record = handle._record
            # As long as `owning` says that it is there: nobody takes it out later.
            owners.pop(id(action), None)
            record.owning = 0  # it is meant to be dropped
            table = self._table
            # Called as ``table.pop(id, reference)``: the reference is what is returned where there is
            # nothing.
            watch = weakref.ref(obj, functools.partial(table.pop, record.id))
            action.armed = True
            table[record.id] = (watch, handle)
            return SafeFinalizer(table, record)
        except ClosedError as error:
            raise ClosedError(
                f"{str(error).partition(':')[0]}: the finalizer was not set, and is not called. Set it "
                "before close(), or make a new manager."
            ) from None
        except BaseException:
            action.armed = False  # interrupted: it may not run while its object lives
            raise
        finally:
            handle = None  # a kept traceback must keep nothing alive

    def sweep(self) -> None:
        """Let go the finalizers whose object is gone and whose callback could not be called: at the recursion
        limit, or where memory has run out."""
        for id, (watch, _) in runtime.snapshot(self._table.items()):
            if runtime.is_dead(watch):
                self._table.pop(id, None)

    def forget(self) -> None:
        """Watch no object any more: the manager closes, and its own releases run the actions; or the child of
        a fork does not."""
        self._table.clear()


class SafeFinalizer(Uncopied):
    """What `SafetyManager.set_safe_finalizer` returns. Callable on any thread."""

    _remedy = "pass the object itself; the action is to run once"

    __slots__ = ("__weakref__", "_record", "_table")

    def __init__(self, table: dict[int, tuple[weakref.ref[Any], Handle[Any]]], record: Record) -> None:
        self._table = table
        self._record = record

    @property
    def alive(self) -> bool:
        """True if the finalizer is still to come."""
        return self._record.id in self._table

    @property
    def state(self) -> ObjectState:
        """How far the action is: `VALID` while its object lives, then as for any release."""
        return state_of(self._record)

    def cancel(self) -> bool:
        """Take the finalizer back: it will not run. False when it has fallen due already."""
        if self._record.id not in self._table:
            return False
        cancelled = end_without_release(self._record, DETACHED, BY_CLOSE, "cancelled")
        self._table.pop(self._record.id, None)
        return cancelled

    def __repr__(self) -> str:
        return f"<SafeFinalizer {describe(self._record)}: {self.state}>"


def reaches(start: object, target: object) -> bool:
    """Return True if `target` can be reached from the callable `start` through what it keeps alive (not
    through modules, types and a function's globals). Looks at `REACH_LIMIT` objects at most."""
    seen = {id(start)}
    queue = [start]
    for item in queue:
        if item is target:
            return True
        if len(queue) > REACH_LIMIT:
            return False
        for referent in _referents(item):
            if id(referent) not in seen:
                seen.add(id(referent))
                queue.append(referent)
    return False


def _referents(item: object) -> list[object]:
    if isinstance(item, types.FunctionType):
        cells = [cell.cell_contents for cell in item.__closure__ or () if cell_filled(cell)]
        return [*cells, *(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
    if isinstance(item, types.MethodType):
        return [item.__self__, item.__func__]
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, types.BuiltinMethodType):
        return [item.__self__] if not isinstance(item.__self__, types.ModuleType) else []
    if isinstance(item, (type, types.ModuleType, types.CodeType, types.FrameType, str, bytes, int, float)):
        return []
    return [found for found in gc.get_referents(item) if not isinstance(found, (type, types.ModuleType))]


def check_target(obj: object, fn: Callable[..., object], args: tuple[Any, ...]) -> None:
    """Refuse what could never work: an object that cannot be watched, an action that keeps its object
    alive."""
    if isinstance(obj, Handle):
        raise RegistrationError(
            f"set_safe_finalizer takes a Python object, not a handle ({obj!r}): use add_cleanup(handle, fn) "
            "or release= for those"
        )
    try:
        weakref.ref(obj)
    except TypeError:
        raise RegistrationError(
            f"a {type(obj).__name__} cannot be weakly referenced, so its end cannot be seen: put it into an "
            "object of a class of yours (with __weakref__ among its slots), or register() it with a release"
        ) from None
    for part in (fn, *args):
        if part is obj or reaches(part, obj):
            raise RegistrationError(
                f"the finalizer {fn!r} keeps its own {type(obj).__name__} object alive (through its closure, "
                "arguments or as a bound "
                "method), so it would never run: give it what it needs, not the object"
            )
