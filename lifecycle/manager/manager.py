"""The manager: registry, policies, guarded access, statistics, the end of it all."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from types import FunctionType, TracebackType
from typing import Any, NoReturn, TypeVar, overload

from lifecycle import _world
from lifecycle.cell.cell import Extra, Pin, Record, raw_pin
from lifecycle.cell.fates import describe
from lifecycle.cell.registry import HIGH_WATER, Kind, Registry
from lifecycle.checks import DEFERRED_BODY, NO_BYTES, check_callback, check_facts, check_timeout
from lifecycle.config import SafetyConfig, exception_types
from lifecycle.errors import (
    ClosedError,
    ForeignHandleError,
    LifecycleError,
    RegistrationError,
    UnknownObjectError,
    text_of,
    trace_of,
)
from lifecycle.events import LEVELS, Event
from lifecycle.handles.exclusive import pin_or_refuse
from lifecycle.handles.handle import Handle
from lifecycle.keeper.keeper import Keeper
from lifecycle.keeper.leaks import SITES as SITES
from lifecycle.keeper.leaks import arm
from lifecycle.manager.access import AccessBlock, declared, escaped, refuse_deferred
from lifecycle.manager.factory import build_factory
from lifecycle.manager.finalizers import FINALIZER_TYPE, Action, SafeFinalizer, check_target
from lifecycle.manager.observed import enter_observed, observed
from lifecycle.manager.policies import UNSET, Unset, set_policy
from lifecycle.manager.registration import abandon, enter, insist
from lifecycle.manager.shutdown import (
    await_holders,
    await_others,
    info_of,
    open_records,
    orphan_inherited,
    release_all,
    report_on,
    shut_doors,
)
from lifecycle.manager.stopping import StopToken
from lifecycle.places.place import ANY_THREAD, BACKGROUND, DEFAULT, DRAIN_STEPS, AnyThread, Place, WhenDue
from lifecycle.places.queues import PlaceLike, ReleaseQueue
from lifecycle.places.releases import DEFERRED, nesting, process
from lifecycle.places.workers import Workers
from lifecycle.refusal import checked, invalidate_record
from lifecycle.states import ENDED, RELEASED, Cause
from lifecycle.stats import Health, ObjectInfo, SafetyStats, ShutdownReport, TypeCount, bounds_with

T = TypeVar("T")
R = TypeVar("R")


TOLD_AT_EXIT = 20
"""Objects, and then types, that are reported one by one when the interpreter exits with objects unreleased."""

_managers: weakref.WeakSet[SafetyManager] = weakref.WeakSet()


class SafetyManager:
    """Registers native objects of other libraries, guards access to them, and releases each exactly once, at its place.

    Parameters
    ----------
    config:
        A `SafetyConfig`; None takes the defaults.
    name:
        The label of this manager in metrics, events and messages.

    A context manager that closes itself. Every method may be called on any thread and at any moment: from ``__del__``, weakref
    callbacks, signal handlers, finalizers and cleanups. No thread starts before the first registration.
    """

    def __init__(self, config: SafetyConfig | None = None, *, name: str = "default") -> None:
        if config is not None and not isinstance(config, SafetyConfig):
            raise LifecycleError(f"SafetyManager(config=) takes a SafetyConfig, not {config!r}")
        if not isinstance(name, str) or not name:
            raise LifecycleError(f"SafetyManager(name=) takes a name, not {name!r}")
        self._registry = Registry(name, config or SafetyConfig())
        self._bounds = bounds_with(self.config.finalizer_timeout)
        self._any_thread = AnyThread("ANY_THREAD")
        self._workers = Workers(self._registry)
        self._keeper = Keeper(self._registry, self._any_thread, self._workers)
        self._background: Place = self._workers if self.config.enable_finalizer_safety else self._any_thread
        self._kept: dict[int, Handle[Any]] = self._registry.kept
        self._safe: dict[int, tuple[weakref.finalize[..., Any], Handle[Any]]] = {}
        self._stopping = StopToken(f"manager {name!r}")
        self._components: weakref.WeakSet[Any] = weakref.WeakSet()
        self._type_names: dict[type, str] = {}
        self._registry.waiting = self._any_thread.mailbox
        self._registry.tend = self._tend
        self._registry.refuse_closed = self._refuse_closed
        self._registry.abandon = abandon
        self._starters: dict[None, object] = {}  # who starts the threads
        self._closers: dict[None, int] = {}  # the thread that closes
        self._report: ShutdownReport | None = None
        self._keeper.sweeps.append(self._sweep_finalizers)
        _managers.add(self)
        _world.around_fork(self._keeper.before_fork, self._keeper.after_fork_in_parent)
        _world.at_fork_in_child(self._after_fork)
        _world.at_exit(self._at_exit)

    # -- facts --------------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The manager's name."""
        return self._registry.name

    @property
    def config(self) -> SafetyConfig:
        """The configuration it was made with."""
        return self._registry.config

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._registry.closed

    @property
    def stopping(self) -> StopToken:
        """The stop token: set when `close` begins, before any door is shut. For whoever produces objects."""
        return self._stopping

    def __repr__(self) -> str:
        return f"<SafetyManager {self.name!r}: {'closed' if self.closed else 'open'}>"

    # -- registering --------------------------------------------------------------------------------------------------------

    def register(
        self,
        obj: T,
        type_name: str | None = None,
        *,
        name: str | None = None,
        release: Callable[[T], object] | None = None,
        release_on: PlaceLike = BACKGROUND,
        native: Any = None,
        parent: Any = None,
        size: int = 0,
        retry_on: Any = (),
        keep: bool = False,
    ) -> Handle[T]:
        """Take ownership of `obj`; the handle returned is the first share of it.

        Parameters
        ----------
        obj:
            Any Python object that stands for the native one.
        type_name:
            The type in metrics and policies; None takes the class's qualified name.
        name:
            The object's own name, for messages.
        release:
            Called exactly once as ``release(obj)``, at the place `release_on`; a bound method of `obj` is fine. It may raise
            `NotReleased` to be called again. None: nothing is called (a borrowed object).
        release_on:
            `BACKGROUND` (timed workers), `ANY_THREAD` (inline), or a `ReleaseQueue`.
        native:
            The native name (address, GL name, file descriptor), hashable. Shown in messages; a second live owner of the same
            (place, type, native) is refused.
        parent:
            A handle whose object must not be released before this one.
        size:
            Native bytes, for statistics and budgets.
        retry_on:
            Exception types of an idempotent `release` that mean «call again», like `NotReleased`.
        keep:
            The manager keeps the handle until `unregister`, so that the id alone is enough.

        Raises `RegistrationError` (`DuplicateError`, `CallbackError`, `LimitError`, `ForeignHandleError`) for what it cannot
        take; the object is then still yours. After `close` it raises `ClosedError`, and the object, which had become the
        manager's, has been released. An interrupt in here releases it too.
        """
        parent_pin = handle = None
        begun = [False]
        try:
            kind = self._registry.kinds.get(type_name) if isinstance(type_name, str) else None
            if kind is None:
                kind = self._kind_of(obj, type_name)
            place = self._any_thread if release_on is ANY_THREAD else self._place(release_on)
            if release is not None and (
                type(release) is not FunctionType or release.__code__.co_flags & DEFERRED_BODY
            ):
                check_callback(release, "release")
            if name is not None or size is not NO_BYTES:
                check_facts(name, size)
            extra = None
            if retry_on:
                extra = Extra()
                extra.retry_on = exception_types(retry_on, "register(retry_on=)")
            if parent is not None:
                extra = extra or Extra()
                extra.parent_id, parent_pin = self._parent(parent)
            handle = enter(kind, place, obj, release, name, native, size, parent_pin, extra, True, begun)
            if keep:
                self._kept[handle._record.id] = handle
            return handle
        except LifecycleError:
            raise
        except BaseException as error:
            # Defined, not called for: between here and `try` nothing looks for signals. (A default, since a closure would turn
            # the arguments of every registration into cells.)
            def attempt(
                facts: tuple[Any, ...] = (self, obj, type_name, release, release_on, None, begun),
            ) -> bool:
                return SafetyManager._rescue(*facts)

            try:
                insist(attempt)  # interrupted: it may not be lost
            except Exception as second:  # it cannot be taken, as with a release that is not callable
                raise error from second
            except BaseException:
                try:
                    insist(attempt)
                except BaseException:
                    insist(attempt)
            raise
        finally:
            parent_pin = handle = obj = attempt = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive

    def observe(
        self,
        obj: T,
        type_name: str | None = None,
        *,
        name: str | None = None,
        native: Any = None,
        size: int = 0,
        alive: Callable[[T], object] | None = None,
    ) -> Handle[T]:
        """A handle of an object that is owned elsewhere: the manager keeps no strong reference to it and never releases it.

        The handle's state follows the object: once that is gone it ends as ``released`` with cause ``owner``, and so it does when
        ``alive(obj)``, asked before each access, says False (or raises): for objects that outlive their native end, such as a
        texture that was destroyed. `SafetyManager.invalidate` tells of an end that only the owner knows. Leases, views and
        accesses hold the Python object while they last; the native end itself is its owner's business. The other parameters are
        those of `register`, and so are the errors; an object that cannot be weakly referenced is refused.
        """
        if alive is not None:
            check_callback(alive, "alive")
        check_facts(name, size)
        try:
            return enter_observed(
                self._kind_of(obj, type_name), self._any_thread, obj, name, native, size, alive
            )
        finally:
            obj = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive

    def registrar(
        self,
        type_name: str,
        *,
        release: Callable[[Any], object] | None,
        release_on: PlaceLike = BACKGROUND,
    ) -> Callable[[Any, Any, int], Handle[Any]]:
        """`register` with everything that is the same for each object checked once: ``register(obj, native, size) -> Handle``.
        For adapters that register per frame. The adapter vouches that no object has two owners: duplicates are not looked for."""
        kind = self._kind(type_name)
        place = self._place(release_on)
        if release is not None:
            check_callback(release, "release")

        def register(obj: Any, native: Any = None, size: int = 0) -> Handle[Any]:
            return enter(kind, place, obj, release, None, native, size, None, None, False)

        return register

    def _rescue(
        self, obj: Any, type_name: Any, release: Any, release_on: Any, extra: Extra | None, begun: list[bool]
    ) -> bool:
        """Have an object that was not entered released at its place: it was ours to keep or to give back. True then."""
        if begun[0] or release is None:
            return True
        check_callback(release, "release")
        kind = self._kind_of(obj, type_name if isinstance(type_name, str) and type_name else None)
        abandon(kind, self._place(release_on), obj, release, None, extra, begun)
        return True

    def _tend(self) -> None:
        """Called by a registration that sees work waiting: a bounded share of it is done here, but none inside the collector."""
        if _world.collecting and _world.in_collector():
            return
        if self._any_thread.mailbox and not (self._registry.claims and nesting()):
            self._any_thread.run_some(DRAIN_STEPS)
        if not self._registry.started:
            self._start()
        if len(self._registry.entered) > HIGH_WATER:
            self._registry.relieve()

    def _start(self) -> None:
        """Start the threads, before the first object, since 3.12 starts none once the interpreter shuts down. One thread at a
        time does it; interrupted, it is done again by the next registration."""
        me: object = []
        try:
            if self._registry.closed or self._starters.setdefault(None, me) is not me:
                return
            self._workers.start()
            self._keeper.start()
            _world.arm_exit()  # in a forked child once more
            self._registry.started = True
        except RuntimeError:
            self._registry.started = False
        finally:  # nothing is called here: an interrupt finds it undone or done
            try:
                if self._starters[None] is me:
                    del self._starters[None]
            except KeyError:
                me = None

    def _refuse_closed(self, record: Record) -> NoReturn:
        """A registration found the manager closed. The object is ours, and nobody serves our places any more: it goes here."""
        if record.place is self._workers or record.place is self._any_thread:
            process(record)
        else:
            record.place.settle(record, 0)
        ended = "released" if record.phase is RELEASED else "shut; its release waits for its queue or failed"
        raise ClosedError(
            f"manager {self.name!r} is closed: {describe(record)} came too late and has been {ended}; register before close(), "
            "or make a new manager"
        )

    def _kind(self, type_name: Any) -> Kind:
        kind = self._registry.kinds.get(type_name) if isinstance(type_name, str) else None
        if kind is None:
            if not isinstance(type_name, str) or not type_name:
                raise RegistrationError(f"a type name is a text of one letter or more, not {type_name!r}")
            kind = Kind(self._registry, type_name, TypeCount(self._bounds))
            arm(kind, self.config.leak_level)
            kind = self._registry.kinds.setdefault(type_name, kind)
        return kind

    def _kind_of(self, obj: Any, type_name: Any) -> Kind:
        return self._kind(self._type_name(obj) if type_name is None else type_name)

    def _type_name(self, obj: Any) -> str:
        cls = type(obj)
        name = self._type_names.get(cls)
        if name is None:
            name = (
                cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
            )
            self._type_names[cls] = name
        return name

    def _place(self, release_on: Any) -> Any:
        if release_on is BACKGROUND:
            return self._background
        if release_on is ANY_THREAD:
            return self._any_thread
        if isinstance(release_on, ReleaseQueue):
            generation = release_on.generation
            if generation.abandoned():
                raise RegistrationError(
                    f"queue {release_on.name!r} belongs to a thread that has ended: nobody could release there; make a new queue"
                )
            if release_on not in self._keeper.queues:
                self._keeper.queues.add(release_on)
            generation.registries.add(self._registry)
            return generation
        raise RegistrationError(
            f"release_on= takes BACKGROUND, ANY_THREAD or a ReleaseQueue, not {release_on!r}"
        )

    def _parent(self, parent: Any) -> tuple[int, Pin]:
        handle = parent if isinstance(parent, Handle) else getattr(parent, "handle", None)
        if not isinstance(handle, Handle):
            raise RegistrationError(f"parent= takes a handle of this manager, not {parent!r}")
        self._check_mine(handle._record)
        pin = handle._cell.pin
        if pin is None:
            pin = pin_or_refuse(handle._record, handle._cell, handle)
        return handle.id, pin

    def factory(
        self,
        make: Callable[..., T],
        type_name: str | None = None,
        *,
        release: Callable[[T], object] | None,
        release_on: PlaceLike = BACKGROUND,
        limit: int | None = None,
    ) -> Callable[..., Handle[T]]:
        """A function that calls ``make(*args, **kwargs)`` and registers what it returns, with no moment in between at which an
        interrupt could lose it. For constructors and for helpers that return something the caller owns.

        With `limit`, more than so many unreleased objects at a time are refused with `LimitError`, before `make` is called.
        """
        check_callback(make, "make")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise RegistrationError(f"factory(limit=) takes a whole number above 0 or None, not {limit!r}")
        if release is not None:
            check_callback(release, "release")
        self._place(release_on)
        return build_factory(
            self._registry,
            self._kind_of,
            self._place,
            self._rescue,
            make,
            type_name,
            release,
            release_on,
            limit,
        )

    # -- access -------------------------------------------------------------------------------------------------------------

    @overload
    def safe_access(self, target: Handle[T], fn: None = None, /, *, errors: Any = ()) -> AccessBlock[T]: ...
    @overload
    def safe_access(self, target: Any, fn: None = None, /, *, errors: Any = ()) -> AccessBlock[Any]: ...
    @overload
    def safe_access(self, target: Handle[T], fn: Callable[..., R], /, *args: Any, errors: Any = ()) -> R: ...
    @overload
    def safe_access(self, target: Any, fn: Callable[..., R], /, *args: Any, errors: Any = ()) -> R: ...

    def safe_access(self, target: Any, fn: Any = None, /, *args: Any, errors: Any = ()) -> Any:
        """Use an object inside the panic boundary: ``safe_access(handle_or_id, fn, *args)`` returns ``fn(obj, *args)``;
        ``with safe_access(handle_or_id) as obj`` does the same for a block.

        An exception of a type in `errors` (else in the type's policy, else in the configuration) passes unchanged. Control flow
        passes. Any other is a panic: the object becomes `INVALID` and `AccessPanicError` is raised from it. Raises
        `AccessRefusedError` when the door is shut, `UnknownObjectError` for an id that names nothing here, `CallbackError` for a
        coroutine or generator function.
        """
        if fn is None:
            return AccessBlock(self, target, errors)
        pin = obj = None
        try:
            if type(target) is Handle:
                pin = target._cell.pin
                if pin is None:
                    self._check_mine(target._record)
                    pin = pin_or_refuse(target._record, target._cell, target)
                record = pin.record
                if record.kind.plain is not self._registry:
                    self._check_mine(record)
                    checked(pin)
                    if record.kind.timer is not None:
                        fn = record.kind.timer.call(record, fn)
                obj = record.obj
            else:
                pin = self._enter(target)
                record = pin.record
                if record.kind.timer is not None:
                    fn = record.kind.timer.call(record, fn)
                obj = record.obj if record.owning >= 0 else observed(record)
            try:
                result = fn(obj, *args)
            except BaseException as error:
                pin = obj = None
                if not callable(fn):
                    check_callback(fn, "safe_access(fn)")
                escaped(record, error, errors)
                raise
            if type(result) in DEFERRED:
                refuse_deferred(result, record, fn)
            return result
        finally:
            pin = obj = None

    def _enter(self, target: Any) -> Pin:
        """The pin behind a handle, an id or something with a `handle`; refused, counted and raised otherwise."""
        pin = cell = None
        try:
            record = self._record_of(target)
            handle = target if isinstance(target, Handle) else getattr(target, "handle", None)
            if isinstance(handle, Handle):
                cell = handle._cell
            else:
                handle = None
                door = record.door
                cell = door() if door is not None else None
            pin = cell.pin if cell is not None else None
            if pin is None:
                pin = pin_or_refuse(record, cell, handle)
            cell = None
            return checked(pin) if record.kind.validate is not None else pin
        finally:
            pin = cell = None

    def _record_of(self, target: Any) -> Record:
        if type(target) is int:
            record = self._registry.records.get(target)
            if record is None:
                self._refuse_unknown(target)
            return record  # type: ignore[return-value]
        handle = target if isinstance(target, Handle) else getattr(target, "handle", None)
        if not isinstance(handle, Handle):
            raise UnknownObjectError(f"{target!r} is neither a handle nor an id of manager {self.name!r}")
        self._check_mine(handle._record)
        return handle._record

    def _check_mine(self, record: Record) -> None:
        other = record.kind.registry
        if other is not self._registry:
            raise ForeignHandleError(
                f"{describe(record)} belongs to manager {other.name!r}, not to {self.name!r}: use that manager, or "
                "register the object here"
            )

    def _refuse_unknown(self, id: int) -> None:
        for manager in _world.snapshot(_managers):
            record = manager._registry.records.get(id)
            if record is not None:
                self._check_mine(record)
        raise UnknownObjectError(
            f"manager {self.name!r} knows no object {id}: it was never registered here, or it ended and its record has expired "
            f"(state_retention is {self.config.state_retention:g} s, max_retained {self.config.max_retained})"
        )

    def is_valid(self, target: Any) -> bool:
        """Whether an access to the handle's or id's object would be granted now. False for what is not known."""
        try:
            record = self._record_of(target)
        except UnknownObjectError:
            return False
        handle = target if isinstance(target, Handle) else getattr(target, "handle", None)
        if isinstance(handle, Handle):
            return handle.valid
        door = record.door
        cell = door() if door is not None else None
        return cell is not None and raw_pin(cell) is not None

    def invalidate(self, target: Any, reason: str) -> bool:
        """Shut the object's door for everybody, for `reason`: it reports `INVALID` and is released when nobody holds it any more.
        False when it was shut already."""
        record = self._record_of(target)
        site = _world.site_of(_world.caller())
        done = invalidate_record(record, Cause.INVALIDATE, str(reason), site)
        record.place.settle(record, 0)
        return done

    def unregister(self, target: Any, *, timeout: float | WhenDue | None = DEFAULT) -> bool:
        """Shut the object's door for everybody and release it, as `Handle.close` does for the last share. True means released."""
        record = self._record_of(target)
        if timeout is not DEFAULT:
            check_timeout(timeout)
        invalidate_record(record, Cause.UNREGISTER, "", _world.site_of(_world.caller()))
        self._kept.pop(record.id, None)
        if record.phase in ENDED:
            return record.phase is RELEASED
        return bool(record.place.settle(record, timeout))

    # -- policies and hooks -------------------------------------------------------------------------------------------------

    def policy(
        self,
        type_name: str,
        *,
        errors: Any = UNSET,
        max_age: float | Unset | None = UNSET,
        max_live: int | Unset | None = UNSET,
        max_bytes: int | Unset | None = UNSET,
        validate: Callable[[Any], object] | Unset | None = UNSET,
    ) -> None:
        """Set rules for a type; what is not given stays as it was, None takes a rule away.

        Parameters
        ----------
        errors:
            Exceptions that are errors, not panics, in accesses to objects of the type.
        max_age:
            Seconds after which a live object counts as held too long.
        max_live, max_bytes:
            Objects, and bytes as registered with ``size=``, that may be unreleased at a time; more are refused (`LimitError`).
        validate:
            Called with the object before each access; False or an exception invalidates the object and refuses the access.

        Raises `RegistrationError` for a rule that makes no sense, and changes nothing then.
        """
        set_policy(
            self._kind(type_name),
            errors=errors,
            max_age=max_age,
            max_live=max_live,
            max_bytes=max_bytes,
            validate=validate,
        )

    def add_cleanup(self, target: Any, fn: Callable[..., object], *args: Any) -> None:
        """Have ``fn(*args)`` called at the object's place before its release; the last added runs first. One that raises is
        counted and reported, and the next one runs. Raises `AccessRefusedError` when the object is shut."""
        check_callback(fn, "cleanup")
        pin = self._enter(target)
        try:
            pin.record.more().cleanups.append(lambda: fn(*args))
        finally:
            pin = None  # type: ignore[assignment]

    def set_safe_finalizer(self, obj: object, fn: Callable[..., object], *args: Any) -> SafeFinalizer:
        """Have ``fn(*args)`` called on a timed worker once `obj`, any object that can be weakly referenced, is gone:
        exactly once, with a deadline, at exit too if `obj` lives until then. `SafeFinalizer.cancel` takes it back.

        Raises `RegistrationError` when `obj` cannot be weakly referenced or `fn` keeps it alive and so would
        never run.
        """
        check_callback(fn, "finalizer")
        check_target(obj, fn, args)
        action = Action(fn, args)
        handle = None
        try:
            handle = self.register(action, FINALIZER_TYPE, name=type(obj).__qualname__, release=Action.run)
            record = handle._record
            record.owning = 0  # it is meant to be dropped
            table = self._safe
            watch = weakref.finalize(obj, table.pop, record.id, None)
            watch.atexit = False  # our own exit pass runs it, with a deadline
            action.armed = True
            table[record.id] = (watch, handle)
            return SafeFinalizer(table, record, watch)
        except BaseException:
            action.armed = False  # interrupted: it may not run while its object lives
            raise
        finally:
            handle = None  # a kept traceback must keep nothing alive

    def _sweep_finalizers(self) -> None:
        for id, (watch, _) in _world.snapshot(self._safe.items()):
            if not watch.alive:
                self._safe.pop(id, None)

    def on_close(self, fn: Callable[[], object]) -> Callable[[], None]:
        """Have ``fn()`` called when the manager begins to close, as `StopToken.on_stop`: producers stop there. Called at once on
        a closed manager. The latest added is called first. Returns a function that takes it back."""
        return self._stopping.on_stop(fn)

    def add_observer(self, fn: Callable[[Event], object]) -> Callable[[], None]:
        """Have ``fn(event)`` called, on the observer thread, for every event. A slow observer loses events, which are counted; it
        holds up nothing else. Returns a function that takes it back."""
        check_callback(fn, "observer")
        hooks = self._keeper.observer.hooks
        hooks.append(fn)

        def remove() -> None:
            if fn in hooks:
                hooks.remove(fn)

        return remove

    def add_leak_hook(self, fn: Callable[[Event], object]) -> Callable[[], None]:
        """Have ``fn(event)`` called, on the observer thread, for every report of a leak: events of the kinds ``leak``,
        ``held_too_long`` and ``returned``. Unlike an observer it costs nothing otherwise. Returns a function that takes it
        back."""
        check_callback(fn, "leak hook")
        hooks = self._keeper.observer.leak_hooks
        hooks.append(fn)

        def remove() -> None:
            if fn in hooks:
                hooks.remove(fn)

        return remove

    def add_component(self, component: Any) -> None:
        """Let `component` (weakly kept) appear in metrics: it has ``kind``, ``name`` and ``stats()``."""
        self._components.add(component)

    def components(self) -> tuple[Any, ...]:
        """The components that live."""
        return tuple(_world.snapshot(self._components))

    def report_panic(self, component: str, error: BaseException, *, type_name: str | None = None) -> None:
        """Count and report an exception that was contained outside `safe_access`, such as in a callback."""
        kind = self._kind(type_name or component)
        self._registry.events.append(("panic", kind, None, f"{component}: {text_of(error)}", trace_of(error)))

    def report_error(
        self, component: str, error: BaseException, *, type_name: str | None = None, errors: Any = ()
    ) -> bool:
        """Count and report what left a callback outside `safe_access`: as a declared error if it is of a type in `errors` (else
        in the type's policy, else in the configuration), as a panic otherwise. Returns whether it was declared."""
        kind = self._kind(type_name or component)
        if not isinstance(error, declared(kind, errors)):
            self.report_panic(component, error, type_name=type_name)
            return False
        self._registry.events.append(("error", kind, None, f"{component}: {text_of(error)}"))
        return True

    def report(self, kind: str, **fields: Any) -> None:
        """Tell observers and the log of something an integration has noticed; `kind` is one of those of `Event.kind`."""
        if kind not in LEVELS:
            raise LifecycleError(f"there is no event kind {kind!r}; the kinds are {', '.join(LEVELS)}")
        self._registry.events.append(("told", kind, fields))

    # -- knowing ------------------------------------------------------------------------------------------------------------

    def stats(self) -> SafetyStats:
        """Exact figures of this moment. Costs what types exist, not objects."""
        return self._keeper.ask()

    def objects(self) -> Sequence[ObjectInfo]:
        """Every object that has not ended, oldest first. Costs what objects exist."""
        return tuple(info_of(record) for record in reversed(open_records(self._registry)))

    def health(self) -> Health:
        """Whether the manager's own threads are well; answers even when they are not."""
        return self._keeper.health()

    # -- the end ------------------------------------------------------------------------------------------------------------

    def close(self, *, timeout: float | WhenDue | None = DEFAULT) -> ShutdownReport:
        """Stop producers, shut every door, release everything nobody holds, newest first, within the budget (`shutdown_timeout`
        unless `timeout` is given). With `timeout`, those who still hold something are waited for as well.

        Nothing is freed under a user: what is still held when the budget ends is `leaked` in the report, stays shut, and is
        released when its last holder lets go, by threads that end after it. Closing twice gives the same report.
        """
        if timeout is not DEFAULT:
            check_timeout(timeout)
        budget = self.config.shutdown_timeout if timeout is DEFAULT or timeout is None else float(timeout)  # type: ignore[arg-type]
        return self._shut_down(timeout, budget, False)

    def _shut_down(self, timeout: float | WhenDue | None, budget: float, exiting: bool) -> ShutdownReport:
        began = _world.monotonic()
        me = _world.get_ident()
        while self._report is None and self._closers.setdefault(None, me) != me:
            if nesting() or _world.must_not_wait() or _world.monotonic() >= began + budget:
                break  # the one that closes may be waiting for us
            _world.sleep(0.002)
        if self._report is not None:
            return self._report
        try:
            report, interrupt = self._close(timeout, began, began + budget, exiting)
            self._report = report
        finally:
            self._closers.pop(None, None)
        self._wind_down(bool(report.leaked) or bool(report.stuck))
        _world.not_at_exit(self._at_exit)
        if interrupt is not None:
            raise interrupt
        return report

    def _close(
        self, timeout: float | WhenDue | None, began: float, until: float, exiting: bool
    ) -> tuple[ShutdownReport, KeyboardInterrupt | None]:
        self._registry.closed = True
        self._stopping.set()
        errors, interrupt = self._stopping.call_back(self._call_at_exit if exiting else None)
        running = () if nesting() else self._stopping.join(until)
        records = open_records(self._registry)
        may_wait = not _world.must_not_wait()
        try:
            self._workers.hold_back = True  # the tickets that come of it wait for their turn in the batch
            shut_doors(records)
            self._kept.clear()
            for watch, _ in _world.snapshot(self._safe.values()):
                watch.detach()
            self._safe.clear()
            if may_wait:
                if _world.free_threaded:  # what other threads made dies now, not when they next run Python
                    for _ in ("pin", "hold", "core"):  # one after the other, and a collection sees to one
                        _world.collect()
                interrupt = release_all(records, self._workers, until) or interrupt
        finally:
            self._workers.let_go()
        if may_wait and timeout is not DEFAULT:
            await_holders(records, until if timeout is not None else float("inf"))
        elif may_wait and exiting:
            await_others(records, until)
        return report_on(records, errors, began, running), interrupt

    def _call_at_exit(self, fn: Callable[[], object]) -> None:
        """Call an `on_close` callback where one that hangs does not keep the process. It may close this manager itself."""
        me = _world.get_ident()

        def call() -> None:
            self._closers[None] = _world.get_ident()
            try:
                fn()
            finally:
                self._closers[None] = me

        try:
            self._workers.call(call, min(self.config.finalizer_timeout, self.config.shutdown_timeout / 2))
        except LifecycleError as error:
            raise LifecycleError(str(error).replace(repr(call), repr(fn))) from None

    def _wind_down(self, lingering: bool) -> None:
        """End the threads, or, while somebody still holds something, let them end after it."""
        if not self._registry.started:
            return
        if lingering:
            self._keeper.linger()
        else:
            self._keeper.stop(1.0)
            self._workers.stop(1.0)

    def _at_exit(self) -> None:
        """The end of the process. Ctrl-C ends the waiting it strikes in and is raised when all is done; a second one ends all."""
        budget = self.config.shutdown_timeout
        until = _world.monotonic() + budget
        _world.no_wait_threads.discard(_world.get_ident())  # nothing else will run on this thread
        interrupt = None
        try:
            report = self._shut_down(DEFAULT, budget, True)
        except KeyboardInterrupt as error:
            interrupt = error
            report = self._shut_down(DEFAULT, max(0.0, until - _world.monotonic()), True)
        if not report.ok:
            self._tell_at_exit(report)
        if interrupt is not None:
            raise interrupt

    def _tell_at_exit(self, report: ShutdownReport) -> None:
        events = self._registry.events
        for info in report.leaked[:TOLD_AT_EXIT]:
            events.append(("told", "leak", {"reason": f"not released at exit: {info}"}))
        if len(report.leaked) > TOLD_AT_EXIT:
            types = Counter(info.type_name for info in report.leaked[TOLD_AT_EXIT:])
            rest = ", ".join(f"{number} of type {name}" for name, number in types.most_common(TOLD_AT_EXIT))
            events.append(("told", "leak", {"reason": f"not released at exit, further: {rest}"}))
        facts: dict[str, Any] = {
            "released": report.released,
            "failed": len(report.failed),
            "stuck": len(report.stuck),
            "leaked": len(report.leaked),
            "errors": "; ".join(report.errors),
            "running": ", ".join(report.running),
            "duration": round(report.duration, 3),
        }
        events.append(("told", "shutdown", facts))
        self._keeper.ask()  # the threads would go on, but the process does not: what there is to tell is told now
        self._keeper.observer.stop(1.0)

    def _after_fork(self) -> None:
        registry = self._registry
        self._starters = {}
        self._stopping.after_fork()
        self._closers.clear()
        registry.waiters.clear()
        registry.delayed.clear()
        self._any_thread.after_fork()
        registry.waiting = self._any_thread.mailbox
        self._workers.after_fork()
        self._keeper.after_fork()
        self._kept.clear()
        for watch, _ in _world.snapshot(self._safe.values()):
            watch.detach()
        self._safe.clear()
        orphan_inherited(registry)
        registry.started = False

    def __enter__(self) -> SafetyManager:
        if self.closed:
            raise ClosedError(f"manager {self.name!r} is closed; make a new one")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
