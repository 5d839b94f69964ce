"""Recipes: registering many objects of one kind, with everything that is the same for each checked once."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from lifecycle._core import runtime
from lifecycle._core.checks import check_callback
from lifecycle._core.dropped import DROPPED, extra_for
from lifecycle._core.exports import exported, sweep
from lifecycle._core.handle import Handle
from lifecycle._core.idioms import OURS, clear_frames
from lifecycle._core.record import Extra, Pin
from lifecycle._core.register import abandon, enter
from lifecycle._core.release import nesting
from lifecycle._core.targets import parents_of
from lifecycle.errors import LifecycleError, RegistrationError, shown
from lifecycle.places.queues import PlaceLike

if TYPE_CHECKING:
    from lifecycle.manager.manager import SafetyManager

__all__ = ["Recipe", "recipe", "releasing", "tend", "type_name_of"]

H = TypeVar("H", bound=Handle[Any])


class Recipe:
    """How the objects of one adapter are registered. Made by `recipe`; callable on any thread."""

    __slots__ = ("_kind", "_place", "_release", "_unique")

    def __init__(self, kind: Any, place: Any, release: Callable[[Any], object] | None, unique: bool) -> None:
        self._kind = kind
        self._place = place
        self._release = release
        self._unique = unique

    @overload
    def register(
        self,
        obj: Any,
        native: Any = None,
        size: int = 0,
        name: str | None = None,
        parent: Handle[Any] | tuple[Handle[Any], ...] | Pin | None = None,
        *,
        release: Callable[[Any], object] | None = None,
        site: FrameType | None = None,
        taken: list[bool] | None = None,
        keep_alive: tuple[Any, ...] = (),
    ) -> Handle[Any]: ...
    @overload
    def register(
        self,
        obj: Any,
        native: Any = None,
        size: int = 0,
        name: str | None = None,
        parent: Handle[Any] | tuple[Handle[Any], ...] | Pin | None = None,
        handle: type[H] = ...,
        release: Callable[[Any], object] | None = None,
        site: FrameType | None = None,
        taken: list[bool] | None = None,
        keep_alive: tuple[Any, ...] = (),
    ) -> H: ...
    def register(
        self,
        obj: Any,
        native: Any = None,
        size: int = 0,
        name: str | None = None,
        parent: Handle[Any] | tuple[Handle[Any], ...] | Pin | None = None,
        handle: type[Handle[Any]] = Handle,
        release: Callable[[Any], object] | None = None,
        site: FrameType | None = None,
        taken: list[bool] | None = None,
        keep_alive: tuple[Any, ...] = (),
    ) -> Handle[Any]:
        """Register `obj` and return the first share of it. Whatever happens in here, the object is released:
        an interrupt has it released at its place. (One that strikes on the way in, before the first line,
        leaves it with the caller; `taken` tells.) Given by position, all of them, the arguments cost a tenth
        of the call less than by keyword.

        Parameters
        ----------
        native, size, name:
            As for `SafetyManager.register`. They are not checked here.
        parent:
            A handle whose object must not be released before this one; or a pin, which is held until this
            object's release has run and appears in no report.
        handle:
            The class of the handle: `Handle`, or a subclass without slots of its own.
        release:
            Called for this object in place of the recipe's. It is not checked here.
        site:
            The frame that is told as the place of registration. None: the caller's, as often as the type's
            policy samples it.
        taken:
            A list of one False. True is stored there once the object is the manager's, for a caller that can
            itself take back what was not taken.
        keep_alive:
            As for `SafetyManager.register`.

        Raises `DuplicateError` (with ``unique=True``), `LimitError` and what `parent` is refused with: the
        object was not taken. Raises `ClosedError` after the manager was closed: it has been released.
        """
        if taken is None:
            taken = [False]
        if release is None:
            release = self._release
        extra: Extra | None = None
        pin: Any = None
        made = None
        try:
            if parent is not None:
                if isinstance(parent, Pin):
                    pin = parent
                else:
                    extra = Extra()
                    extra.parent_ids, pin = parents_of(self._kind.registry, parent)
            if release is DROPPED:
                extra = extra_for(release, extra)
            if keep_alive:
                extra = extra or Extra()
                extra.keep_alive = keep_alive
            made = enter(
                self._kind,
                self._place,
                obj,
                release,
                name,
                native,
                size,
                pin,
                extra,
                self._unique,
                taken,
            )
            if site is not None:
                made._record.site = (site.f_code, site.f_lasti)
            if handle is not Handle:
                made.__class__ = handle
            return made
        except LifecycleError:
            raise
        except BaseException as error:
            if not taken[0] and release is not None:
                # K6: no call may be possible here, so it is left to the maintenance thread without one.
                taken[0] = True
                self._kind.registry.later[0:0] = [
                    (abandon, (self._kind, self._place, obj, release, pin, extra))
                ]
            clear_frames(error.__traceback__, OURS)  # K3
            raise
        finally:
            pin = made = obj = parent = release = site = None  # K3
            keep_alive = ()

    def __repr__(self) -> str:
        return f"<Recipe of {self._kind.type_name!r} of manager {self._kind.registry.name!r}>"


def recipe(
    manager: SafetyManager,
    type_name: str,
    *,
    release: Callable[[Any], object] | None,
    release_on: PlaceLike,
    unique: bool = False,
) -> Recipe:
    """Return what registers the objects of one type, released by ``release(obj)`` at `release_on`.

    `unique` says that an object or native that has an owner already is refused with `DuplicateError`; without
    it the adapter vouches for that itself, as adapters that make their objects do. Raises `RegistrationError`
    for what could never be registered.
    """
    if not isinstance(type_name, str) or not type_name:
        raise RegistrationError(f"recipe() takes a type name of one letter or more, not {shown(type_name)}")
    if release is not None:
        check_callback(release, "release")
    return Recipe(
        manager._kinds.named(type_name),
        manager._machinery.place_of(release_on),
        release,
        unique,
    )


def tend(manager: SafetyManager, *, everything: bool = False) -> None:
    """Run a bounded share of the releases that wait for any thread of `manager`, or `everything` that waits.
    Nothing in the collector, and not everything inside a release or near the recursion limit."""
    if exported:
        sweep()
    if everything and not nesting() and not (runtime.collecting and runtime.in_collector()):
        if not runtime.near_limit():
            manager._any_thread.run_some(None)
    else:
        manager._machinery.tend()


def releasing(manager: SafetyManager) -> bool:
    """Return True while a release of a `BACKGROUND` object runs, or waits for a worker."""
    workers = manager._machinery.workers
    return bool(len(workers) or any(worker.busy_since for worker in runtime.snapshot(workers.healthy)))


def type_name_of(manager: SafetyManager, obj: Any) -> str:
    """Return the type under which `obj` is registered where no name of a type is given."""
    return manager._kinds.name_of(obj)
