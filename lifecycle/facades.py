"""What the two facades, `MemoryManager` and `ObjectLifecycleManager`, have in common: objects known by their
ids.

A facade keeps the handles of what was registered through it, by their ids, so that the id alone is enough. An
object leaves it at its end, whatever that is (released, failed, stuck, orphaned): the entry is taken out by
the very step that ends it, the one that also gives back a factory's slot. Nothing is copied: state, history
and figures are the manager's.

Closing a facade releases what was registered through it, the newest first. The manager is shared and stays
open, unless the facade had made it. A facade that is dropped drops the handles that it keeps: each object is
released at its place and reported as any other whose last handle was dropped. Therefore nobody else may keep
the facade, or its index: the manager calls it back weakly, and its records know the index weakly (`Leaving`).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from lifecycle._core import runtime
from lifecycle._core.checks import check_timeout
from lifecycle._core.describe import describe
from lifecycle._core.handle import Handle
from lifecycle._core.keeping import Uncopied, weakly
from lifecycle._core.place import DEFAULT, WhenDue
from lifecycle._core.record import Record
from lifecycle._core.targets import record_of
from lifecycle.errors import ClosedError, LifecycleError, RegistrationError, UnknownObjectError
from lifecycle.manager.manager import SafetyManager
from lifecycle.places.queues import PlaceLike
from lifecycle.states import ENDED

Self = TypeVar("Self", bound="Facade")
R = TypeVar("R")


class Index(dict[int, Handle[Any]]):
    """The handles of one facade by id, and who is told of each that leaves."""

    __slots__ = ("__weakref__", "left")

    def __init__(self, left: Callable[[Any], None]) -> None:
        super().__init__()
        self.left = left

    def pop(self, key: Any, default: object = None) -> Any:
        """Called as an object ends, at its place; again, when that was interrupted."""
        self.left(key)
        return super().pop(key, None)


class Leaving:
    """What the records of a facade's objects know of its index."""

    __slots__ = ("index",)

    def __init__(self, index: Index) -> None:
        self.index = weakref.ref(index)

    def pop(self, key: Any, default: object = None) -> Any:
        """As `Index.pop`, if the facade is still there."""
        index = self.index()
        try:
            return None if index is None else index.pop(key)
        finally:
            index = None  # a kept traceback must keep nothing alive


class Facade(Uncopied):
    """One facade over one manager. All methods may be called on any thread and at any moment."""

    _remedy = "pass the object itself, or make another over the same SafetyManager"

    kind = ""
    """What it is called among the components."""

    def __init__(self, manager: SafetyManager | None, name: str | None) -> None:
        if manager is not None and not isinstance(manager, SafetyManager):
            raise LifecycleError(f"{type(self).__name__} takes a SafetyManager or None, not {manager!r}")
        if name is not None and (not isinstance(name, str) or not name):
            raise LifecycleError(f"{type(self).__name__}(name=) takes a name, not {name!r}")
        self._owns_manager = manager is None
        self._manager = manager if manager is not None else SafetyManager(name=name or self.kind)
        self._name = name or self._manager.name
        self._index = Index(weakly(self._left))
        self._leaving = Leaving(self._index)
        self._closed = False
        self._stop_listening = self._manager.on_close(weakly(self._stopped))
        weakref.finalize(self, self._stop_listening).atexit = False
        self._manager.add_component(self)
        runtime.at_fork_in_child(self._after_fork)

    # -- facts -----------------------------------------------------------------------------------------------

    @property
    def manager(self) -> SafetyManager:
        """The manager it registers with."""
        return self._manager

    @property
    def name(self) -> str:
        """Its name: the manager's unless it was given one."""
        return self._name

    @property
    def closed(self) -> bool:
        """Whether it, or its manager, was closed."""
        return self._closed or self._manager.closed

    def __len__(self) -> int:
        """How many objects were registered here and have not ended."""
        return len(self._index)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, id: object) -> bool:
        return id in self._index

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self)} objects"
        return f"<{type(self).__name__} {self._name!r}: {state}>"

    # -- objects ---------------------------------------------------------------------------------------------

    def _register(
        self,
        obj: Any,
        type_name: str | None,
        name: str | None,
        size: int,
        release: Callable[[Any], object] | None,
        release_on: PlaceLike,
        native: Any,
        parent: Any,
        noted: Callable[[int], object] | None,
    ) -> int:
        """Register `obj`, keep its handle, tell `noted` its id, and return that. Whatever is raised after the
        manager has taken it, the object is released."""
        self._refuse_closed()
        handle: Any = None
        try:
            if isinstance(parent, int) and not isinstance(parent, bool):
                parent = self._handle_of(parent)
            register = functools.partial(
                self._manager.register,
                type_name=type_name,
                name=name,
                release=release,
                release_on=release_on,
                native=native,
                parent=parent,
                size=size,
            )
            for handle in map(register, (obj,)):  # registered and stored in one step
                self._enter(handle, noted)
                if self.closed:
                    raise ClosedError(
                        f"{self!r} was closed meanwhile: {describe(handle._record)} came too late and has "
                        "been released; register before close(), or make a new one"
                    )
            id: int = handle._record.id
            return id
        except BaseException:
            if handle is not None:
                self._enter(handle, noted)
                self._manager.unregister(handle._record.id, timeout=0)
            raise
        finally:
            handle = obj = parent = register = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive

    def _enter(self, handle: Handle[Any], noted: Callable[[int], object] | None) -> None:
        """Keep an object's handle until it ends, or not at all if it has. May be repeated."""
        record = handle._record
        id = record.id
        try:
            self._index[id] = handle
            if noted is not None:
                noted(id)
            record.more().slot = (self._leaving, id)
            if record.phase in ENDED:
                self._index.pop(id)
        finally:
            handle = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive

    def _left(self, key: Any) -> None:
        """An object has ended. Called at its place, and perhaps twice."""
        raise NotImplementedError

    def _handle_of(self, id: int) -> Handle[Any]:
        handle = self._index.get(id)
        if handle is None or not handle.valid:
            record = self._record_of(id)
            raise RegistrationError(
                f"parent= names {describe(record)}, which is shut; register children while it is open"
            )
        return handle

    def _record_of(self, id: Any) -> Record:
        """The record behind an id of ours, also of one that has ended a while ago."""
        if type(id) is not int:
            raise UnknownObjectError(f"{self!r} knows objects by the ids it gave, not by {id!r}")
        record = record_of(self._manager._registry, id)
        if id not in self._index and (
            record.extra is None or record.extra.slot is None or record.extra.slot[0] is not self._leaving
        ):
            raise UnknownObjectError(
                f"{describe(record)} was not registered through {self!r}: use the manager or the facade that "
                "gave the id"
            )
        return record

    def safe_object_access(self, id: int, fn: Callable[..., R], *args: Any, errors: Any = ()) -> R:
        """Call ``fn(obj, *args)`` inside the panic boundary, as `SafetyManager.safe_access` does, and return
        what it returns.

        Raises `UnknownObjectError` for an id that was not given here, and what `SafetyManager.safe_access`
        raises.
        """
        if id not in self._index:
            self._record_of(id)
        return self._manager.safe_access(id, fn, *args, errors=errors)

    def _unregister(self, id: int, timeout: float | WhenDue | None) -> bool:
        if timeout is not DEFAULT:
            check_timeout(timeout)
        self._record_of(id)
        return self._manager.unregister(id, timeout=timeout)

    # -- the end ---------------------------------------------------------------------------------------------

    def _refuse_closed(self) -> None:
        if self.closed:
            raise ClosedError(f"{self!r} is closed: nothing was registered; make a new one")

    def _stopped(self) -> None:
        """The manager closes, or we do: for facades that somebody waits at."""

    def close(self, *, timeout: float | WhenDue | None = DEFAULT) -> bool:
        """Release everything that was registered here, the newest first; True when all of it is released.
        With `timeout` (seconds), those who still hold something are waited for, all together for so long. The
        manager stays open, unless it was made by this facade. Closing again gives the answer of now."""
        if timeout is not DEFAULT:
            check_timeout(timeout)
        self._closed = True
        self._stop_listening()
        self._stopped()
        until = runtime.monotonic() + (timeout if isinstance(timeout, (int, float)) else float("inf"))
        for id in sorted(runtime.snapshot(self._index), reverse=True):
            left = max(0.0, until - runtime.monotonic()) if isinstance(timeout, (int, float)) else timeout
            try:
                self._manager.unregister(id, timeout=left)
            except UnknownObjectError:  # it has ended meanwhile, and its record has expired
                continue
        if self._owns_manager:
            return self._manager.close(timeout=timeout).ok
        return not self._index

    def _after_fork(self) -> None:
        """In a forked child everything was the parent's."""
        self._index.clear()

    def __enter__(self: Self) -> Self:
        self._refuse_closed()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
