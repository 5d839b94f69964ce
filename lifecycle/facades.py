"""What the two facades, `MemoryManager` and `ObjectLifecycleManager`, have in common: objects known by their
ids.

A facade keeps the handles of what was registered through it, by their ids, so that the id alone is enough. An
object leaves it at its end, whatever that is (released, failed, stuck, orphaned): the entry is taken out by
the very step that ends it, the one that also gives back a factory's slot. Nothing is copied: state, history
and figures are the manager's.

Closing a facade releases what was registered through it, the newest first. The manager is shared and stays
open, unless the facade had made it. A facade that is dropped drops the handles that it keeps: each object is
released at its place and reported as any other whose last handle was dropped. A manager that it had made is
closed then. Therefore no hook of the manager may keep the facade: the manager calls it back weakly, and its
records know its table weakly (`Leaving`).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from lifecycle.errors import ClosedError, LifecycleError, RegistrationError, UnknownObjectError
from lifecycle.lowlevel import (
    DEFAULT,
    Default,
    Facts,
    Leaving,
    PlaceLike,
    Uncopied,
    about,
    after_fork,
    check_timeout,
    describe,
    facts,
    monotonic,
    poll,
    run_apart,
    snapshot,
    weakly,
)
from lifecycle.manager import Handle, SafetyManager

Self = TypeVar("Self", bound="Facade")
R = TypeVar("R")


DROP_TIME = 1.0
"""Seconds after its drop in which the table of a facade is gone, so that its objects are told as dropped."""


def _dropped(
    stop_listening: Callable[[], object],
    made: SafetyManager | None,
    index: weakref.ref[Leaving],
) -> None:
    """A facade is gone. Inside a collection too, so the manager that it had `made` is closed on a thread of
    its own: nobody else would, and its threads would stay."""
    stop_listening()
    if made is not None and not made.closed:
        run_apart(functools.partial(_close_made, made, index))


def _close_made(made: SafetyManager, index: weakref.ref[Leaving]) -> None:
    """Close it, once what was left in the facade has been dropped, which is reported as that."""
    poll(lambda: index() is None, DROP_TIME)
    made.stats()
    made.close()


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
        self._index = Leaving(weakly(self._left))
        self._closed = False
        self._stop_listening = self._manager.on_close(weakly(self._stopped))
        owned = self._manager if self._owns_manager else None
        weakref.finalize(self, _dropped, self._stop_listening, owned, weakref.ref(self._index)).atexit = False
        self._manager.add_component(self)
        after_fork(self._after_fork)

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
        """True if it, or its manager, was closed."""
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
        id = 0
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
            for handle in map(register, (obj,)):  # K2: registered and stored in one step
                id = self._enter(handle, noted)
                if self.closed:
                    raise about(
                        handle,
                        ClosedError(
                            f"{self!r} was closed meanwhile: {describe(handle)} came too late and has been "
                            "released. Register before close(), or make a new one."
                        ),
                    )
            return id
        except BaseException:
            if handle is not None:
                self._manager.unregister(self._enter(handle, noted), timeout=0)
            raise
        finally:
            handle = obj = parent = register = None  # type: ignore[assignment]  # K3

    def _enter(self, handle: Handle[Any], noted: Callable[[int], object] | None) -> int:
        """Keep an object's handle until it ends, or not at all if it has; its id. May be repeated."""
        try:
            if noted is not None:
                noted(handle.id)
            return self._index.enter(handle)
        finally:
            handle = None  # type: ignore[assignment]  # K3

    def _left(self, key: Any) -> None:
        """An object has ended. Called at its place, and perhaps twice."""
        raise NotImplementedError

    def _handle_of(self, id: int) -> Handle[Any]:
        handle = self._index.get(id)
        if handle is None or not handle.valid:
            known = self._facts_of(id)
            raise about(
                known,
                RegistrationError(f"parent= names {known}, which is closed. Register it while open."),
            )
        return handle

    def _facts_of(self, id: Any) -> Facts:
        """What is known of the object behind an id of ours, also of one that has ended a while ago."""
        if type(id) is not int:
            raise UnknownObjectError(f"{self!r} knows objects by the ids it gave, not by {id!r}")
        known = facts(id, self._manager)
        if not self._index.knew(known):
            raise about(
                known,
                UnknownObjectError(
                    f"{known} was not registered through {self!r}: use the manager or the facade that gave "
                    "the id"
                ),
            )
        return known

    def _known(self, id: int) -> Facts | None:
        """What is known of the object `id` of the manager; None once its record has expired."""
        try:
            return facts(id, self._manager)
        except UnknownObjectError:
            return None

    def safe_object_access(self, id: int, fn: Callable[..., R], *args: Any, errors: Any = ()) -> R:
        """Call ``fn(obj, *args)`` inside the panic boundary, as `SafetyManager.safe_access` does, and return
        what it returns.

        Raises `UnknownObjectError` for an id that was not given here, and what `SafetyManager.safe_access`
        raises.
        """
        if id not in self._index:
            self._facts_of(id)
        return self._manager.safe_access(id, fn, *args, errors=errors)

    def _unregister(self, id: int, timeout: float | Default | None) -> bool:
        if timeout is not DEFAULT:
            check_timeout(timeout)
        self._facts_of(id)
        return self._manager.unregister(id, timeout=timeout)

    # -- the end ---------------------------------------------------------------------------------------------

    def _refuse_closed(self) -> None:
        if self.closed:
            raise ClosedError(f"{self!r} is closed: nothing was registered; make a new one")

    def _stopped(self) -> None:
        """The manager closes, or we do: for facades at which threads wait."""

    def close(self, *, timeout: float | Default | None = DEFAULT) -> bool:
        """Release everything that was registered here, the newest first, and return True if all of it is
        released. With `timeout` it waits up to so many seconds in total for what is still held. The manager
        stays open, unless this facade made it. A second call returns what is so by then."""
        if timeout is not DEFAULT:
            check_timeout(timeout)
        self._closed = True
        self._stop_listening()
        self._stopped()
        until = monotonic() + (timeout if isinstance(timeout, (int, float)) else float("inf"))
        for id in sorted(snapshot(self._index), reverse=True):
            left = max(0.0, until - monotonic()) if isinstance(timeout, (int, float)) else timeout
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
