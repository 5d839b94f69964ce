"""The manager: registry, policies, guarded access, statistics, the end of it all."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType, TracebackType
from typing import Any, Literal, ParamSpec, TypeVar, overload

from lifecycle._core import runtime
from lifecycle._core.access import checked, invalidate_record
from lifecycle._core.checks import (
    DEFERRED,
    DEFERRED_BODY,
    NO_BYTES,
    check_callback,
    check_facts,
    check_timeout,
    whole,
)
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.describe import info_of, state_of
from lifecycle._core.dropped import DROPPED, extra_for
from lifecycle._core.exclusive import pin_or_refuse
from lifecycle._core.exports import exported, sweep
from lifecycle._core.handle import Handle, new_share
from lifecycle._core.holders import Holder, all_holders
from lifecycle._core.keeping import Uncopied
from lifecycle._core.leases import leave
from lifecycle._core.numbers import HAS_IDENTITY
from lifecycle._core.owning import own, supersede
from lifecycle._core.place import ANY_THREAD, BACKGROUND
from lifecycle._core.record import Cell, Core, DoorRef, Extra, Pin, Record, silence
from lifecycle._core.register import abandon, enter, insist, insist_thrice, unhashable, withdraw
from lifecycle._core.release import nesting
from lifecycle._core.room import limit_holders, make_room_for
from lifecycle._core.runtime import BRIEF_WAIT, monotonic, next_id
from lifecycle._core.selfkept import leads_everywhere
from lifecycle._core.shares import FIRST_SHARE
from lifecycle._core.tables import Registry, open_records, own_first
from lifecycle._core.targets import (
    cell_behind,
    check_mine,
    handle_of,
    parents_of,
    pin_of,
    record_of,
    registries,
)
from lifecycle.config import SafetyConfig
from lifecycle.errors import (
    ClosedError,
    LifecycleError,
    RegistrationError,
    UnknownObjectError,
    shown,
    text_of,
    trace_of,
)
from lifecycle.events import CLASSES, Event
from lifecycle.manager.access import AccessBlock, escaped, is_declared, judge, refuse_late
from lifecycle.manager.callbacks import make_callback
from lifecycle.manager.components import enter_component
from lifecycle.manager.ending import Ending
from lifecycle.manager.factory import build_factory
from lifecycle.manager.finalizers import Finalizers, SafeFinalizer
from lifecycle.manager.kinds import Kinds
from lifecycle.manager.machinery import Machinery
from lifecycle.manager.observed import enter_observed, follow, observed
from lifecycle.manager.policies import set_policy
from lifecycle.manager.rare import ANY_OBJECT, NOTHING, plan_question, plan_release, rare_facts
from lifecycle.manager.signals import close_on
from lifecycle.manager.stopping import StopToken
from lifecycle.observe.observers import subscribe
from lifecycle.places.queues import PlaceLike
from lifecycle.states import BY_CLOSE, DETACHED, ENDED, RELEASED, VALID, Cause
from lifecycle.stats import Health, ObjectInfo, SafetyStats, ShutdownReport

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

identity = id

_managers: weakref.WeakSet[SafetyManager] = weakref.WeakSet()

_proxies: Callable[[], Any]
"""Loads what makes proxies, which stands in a layer above (`lifecycle/proxies/making.py`)."""


def set_proxies(load: Callable[[], Any]) -> None:
    """Tell what loads the module that makes proxies."""
    global _proxies
    _proxies = load


def _nothing_to_leave() -> None:
    """What `SafetyManager.add_component` returns for a component that opens nothing."""


class SafetyManager(Uncopied):
    """Registers native objects of other libraries, guards access to them, and releases each exactly once, at
    its place.

    Parameters
    ----------
    config:
        A `SafetyConfig`; None takes the defaults.
    name:
        The label of this manager in metrics, events and messages.

    A context manager that closes itself. Every method may be called on any thread and at any moment: from
    ``__del__``, weakref callbacks, signal handlers, finalizers and cleanups. No thread starts before the
    first registration.
    """

    _remedy = "pass the manager itself, or make another; a process makes its own"

    def __init__(self, config: SafetyConfig | None = None, *, name: str = "default") -> None:
        if config is not None and not isinstance(config, SafetyConfig):
            raise LifecycleError(f"SafetyManager(config=) takes a SafetyConfig, not {config!r}")
        if not isinstance(name, str) or not name:
            raise LifecycleError(f"SafetyManager(name=) takes a name, not {name!r}")
        self._registry = Registry(name, config or SafetyConfig())
        self._kinds = Kinds(self._registry)
        self._machinery = Machinery(self._registry)
        self._maintenance = self._machinery.maintenance
        self._any_thread = self._machinery.any_thread
        self._kept: dict[int, Handle[Any]] = self._registry.kept
        self._finalizers = Finalizers()
        self._stopping = StopToken(f"manager {name!r}")
        self._components: weakref.WeakSet[Any] = weakref.WeakSet()
        self._registry.show = self._components.add
        self._registry.abandon = abandon
        self._registry.make_room = make_room_for
        self._registry.in_the_way = limit_holders
        self._maintenance.sweeps.append(self._finalizers.sweep)
        self._maintenance.lost.after_round.append(self._finalizers.sweep)
        self._ending = Ending(self._registry, self._machinery, self._finalizers, self._stopping, keeps=self)
        _managers.add(self)
        registries.add(self._registry)
        runtime.around_fork(self._maintenance.before_fork, self._maintenance.after_fork_in_parent)

    # -- facts -----------------------------------------------------------------------------------------------

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
        """True once `close` was called."""
        return self._registry.closed

    @property
    def stopping(self) -> StopToken:
        """The stop token: set when `close` begins, before any object is closed. Producers of objects look at
        it."""
        return self._stopping

    def __repr__(self) -> str:
        return f"<SafetyManager {self.name!r}: {'closed' if self.closed else 'open'}>"

    # -- registering -----------------------------------------------------------------------------------------

    def register(  # noqa: C901 - in one piece: a call more is paid for by every object
        self,
        obj: T,
        type_name: str | None = None,
        *,
        name: str | None = None,
        release: Callable[[T], object] | Callable[[], object] | str | None = None,
        release_on: PlaceLike = BACKGROUND,
        native: Any = None,
        parent: Any = None,
        size: int = 0,
        keep_alive: Any = NOTHING,
        retry_on: Any = (),
        retry_for: float | None = None,
        unique: bool = True,
        keep: bool = False,
    ) -> Handle[T]:
        """Take ownership of `obj`; the handle returned is the first share of it.

        Parameters
        ----------
        obj:
            Any Python object that stands for the native one. None, as ctypes returns it for NULL, is refused,
            unless `native` is given or `unique` is False.
        type_name:
            The type in metrics and policies; None takes the class's qualified name.
        name:
            The object's own name, for messages.
        release:
            Called exactly once as ``release(obj)``, at the place `release_on`. A bound method of `obj` itself
            (``obj.close``) and the name of a method (``"close"``) are called without more. It may raise
            `NotReleased` to be called again. `DROPPED`: the object frees its native in its own deallocation.
            Its state is ``kept`` while other references to it exist; then the library drops its own
            reference. None: nothing is called (a borrowed object). What cannot work, such as a function that
            takes no argument, is refused at once.
        release_on:
            `BACKGROUND` (timed workers), `ANY_THREAD` (inline), or a `ReleaseQueue`.
        native:
            The native name (address, GL name, file descriptor), hashable. Shown in messages; a second live
            owner of the same native is refused. An address (a number from 2**32 to 2**48) is one native in
            the whole process. Any other name is one native of its type, in the process or on its queue. 0 and
            negative numbers mean that there is no native. If `obj` is a number (an int, one of NumPy, a
            pointer of ctypes or cffi) and `native` is not given, the number itself is the native, of its
            release function. If the release of the owner has begun, `register` waits for it, at most 50 ms,
            and then replaces that owner.
        parent:
            A handle or proxy whose object must not be released before this one, or a tuple of several.
        size:
            Native bytes, for statistics and budgets.
        keep_alive:
            Python objects that live until the release has returned, or a tuple of them: callbacks that the
            native calls, buffers that it reads. They are kept for ever if it is not known whether the native
            is gone: when the release fails or hangs, the queue is lost, or the object is detached.
        retry_on:
            Exception types of an idempotent `release` after which it is called again, as after `NotReleased`.
        retry_for:
            Seconds for which a release that released nothing is called again; None: as long as there is time.
        unique:
            False for natives that count references (``unref``, ``Release``), and for ints that are no
            natives: each registration gives back its own, and second owners are not looked for.
        keep:
            The manager keeps the handle until `unregister`, so that the id alone is enough.

        Raises `RegistrationError` (`DuplicateError`, `CallbackError`, `LimitError`, `ForeignHandleError`) for
        what it cannot take; the object is then still yours. After `close` it raises `ClosedError`, and the
        object has then been released. An interrupt inside this call releases the object too.
        """
        registry = self._registry
        record = extra = None
        parent_pin: Any = None
        try:
            # Most are of the type of the one before.
            kind = registry.last_kind
            if kind is None or type_name is not kind.type_name:
                kind = registry.kinds.get(type_name) if type(type_name) is str else None
                if kind is None:
                    kind = self._kinds.of(obj, type_name)
                registry.last_kind = kind
            place = self._any_thread if release_on is ANY_THREAD else self._machinery.place_of(release_on)
            if release is not None and (
                type(release) is not FunctionType or release.__code__ is not kind.planned
            ):
                if (
                    type(release) is FunctionType
                    and (code := release.__code__).co_argcount == 1
                    and not (code.co_flags & DEFERRED_BODY or code.co_kwonlyargcount)
                ):
                    kind.planned = code
                else:
                    release = plan_release(release, obj)
                    if release is DROPPED:
                        extra = extra_for(release, None)
            if name is not None or size is not NO_BYTES:
                size = check_facts(name, size)
            # By identity: an array has no truth value, and an empty buffer is false.
            if retry_on or keep_alive is not NOTHING or retry_for is not None:
                extra = rare_facts(retry_on, retry_for, keep_alive, extra)
            if parent is not None:
                extra = extra or Extra()
                extra.parent_ids, parent_pin = parents_of(registry, parent)
            # From here on as `enter`, which says why in this order. A copy, for the sake of a call less.
            if registry.waiting or not registry.started:
                registry.tend()
            site = None
            kind.left = left = kind.left - 1
            if left < 1 and kind.look():
                site = runtime.site_of(runtime.caller())
            id = next_id()
            now = monotonic()
            pin = Pin()
            core = Core(pin, registry.unroot)
            registry.roots.add(core)  # at once: only now it has the hash by which its callback takes it out
            record = Record(core, place.put)
            record.id = id
            record.kind = kind
            record.obj = obj
            record.release = release
            record.place = place
            record.parent = parent_pin
            record.door = record.cause = record.phase = record.outcome = record.shut_code = None
            record.born = now
            record.shut = record.begun = record.ended = 0.0
            record.site = site
            record.name = name
            record.native = native
            record.size = size
            record.extra = extra
            record.counted = 0
            if kind.alive is not None:
                kind.reserve(id, size)
            if release is None:
                record.owning = 0
            elif unique:
                record.owning = 2
                if native is not None or type(obj) not in HAS_IDENTITY:
                    own(record)
                elif own_first(identity(obj), record) is not record:
                    supersede(identity(obj), record)
            else:
                record.owning = 1
            registry.records[id] = record
            pin.core = core
            pin.record = record
            cell = Cell()
            cell.life = now
            cell.pin = pin
            record.door = door = DoorRef(cell, registry.tell_drop)
            door.id = id
            registry.entered.append(record)
            handle: Handle[T] = Handle()
            handle._cell = cell
            handle._record = record
            handle._token = FIRST_SHARE
            if registry.closed:
                raise ClosedError
            if keep:
                self._kept[id] = handle
            try:
                return handle
            finally:  # K3, and nothing is called on the way here
                del core, pin, cell, handle, now
        except BaseException as error:
            attempt = None
            try:
                if record is not None and record.id in registry.records:
                    handle = cell = pin = core = now = None  # type: ignore[assignment]  # K3
                    record.cause = BY_CLOSE
                    registry.events.append(("shut", record))
                    if isinstance(error, ClosedError):
                        registry.refuse_closed(record)
                    raise
                if record is not None:
                    record.phase = DETACHED  # said before the core goes: its ticket must mean nothing
                handle = cell = pin = core = now = None  # type: ignore[assignment]  # noqa: F841 - K3
                begun = [False]
                refused = LifecycleError in error.__class__.__mro__

                # Defined, not called for: between here and `try` nothing is called. (A default, since a
                # closure would turn the arguments of every registration into cells.)
                def attempt(
                    facts: tuple[Any, ...] = (
                        self,
                        obj,
                        type_name,
                        release,
                        release_on,
                        parent_pin,
                        extra,
                        begun,
                        record,
                    ),
                ) -> bool:
                    return SafetyManager._rescue(*facts)

                wrong = None
                try:
                    wrong = unhashable(native, error)
                    if not refused and wrong is None:
                        insist(attempt)  # K6: interrupted, it may not be lost
                    elif record is not None:
                        withdraw(record)
                except RecursionError:
                    # No call may be possible here, so it is left to the keeper without one.
                    if not refused and wrong is None:
                        registry.later[0:0] = [(attempt, ())]
                    else:
                        registry.later[0:0] = [(withdraw, (record,))]
                except Exception as second:  # it cannot be taken, as with a release that is not callable
                    raise error from second
                except BaseException:
                    # K6. What is interrupted is released, were it on the way to a refusal.
                    try:
                        insist(attempt)
                    except BaseException:
                        try:
                            insist(attempt)
                        except BaseException:
                            # Each call is struck, so it is left to the keeper without one.
                            registry.later[0:0] = [(attempt, ())]
                    if refused or wrong is not None:
                        raise
                if wrong is not None:
                    raise wrong from None
                raise
            finally:  # K3
                parent_pin = parent = obj = attempt = None  # type: ignore[assignment]

    def callback(self, fn: Callable[..., Any], ctype: Any, *, errors: Any = (), on_error: Any = 0) -> Any:
        """Return a function that C can call, of the type `ctype` (``ctypes.CFUNCTYPE(…)``). It calls `fn`,
        and never raises into C. Give it as ``keep_alive=`` when you register the object that calls it.

        An exception of `fn` is counted and reported: as a declared error if its type is in `errors` (or in
        the configuration's), else as a panic. C then gets `on_error`, also for a result that cannot be given
        to C. Ctrl-C is raised again once C has returned. A bound method is referred to weakly: once its
        object is gone, C gets `on_error`. Any other function is kept alive. Raises `RegistrationError` if
        `fn` is no function, `ctype` is no such type, or `on_error` cannot be given to C, and `CallbackError`
        for a coroutine function. C may call it on any thread.
        """
        return make_callback(fn, ctype, errors, on_error, self.report_error)

    def observe(
        self,
        obj: T,
        type_name: str | None = None,
        *,
        name: str | None = None,
        native: Any = None,
        size: int = 0,
        alive: Callable[[T], object] | Callable[[], object] | str | None = None,
    ) -> Handle[T]:
        """Return a handle of an object that is owned elsewhere. The manager keeps no strong reference to the
        object and never releases it.

        The handle's state follows the object: when the object is gone, the state is ``released``, with cause
        ``owner``. `alive` is for a Python object that can live longer than its native, such as a texture that
        was destroyed: ``alive(obj)`` is called before each access, and the state is ``released`` once it
        returns False or raises. The name of a method, and a bound method of `obj` itself, are called without
        more; a function that has `obj` in its closure is refused. If only the owner knows about the end, it
        calls `SafetyManager.invalidate`. Leases, views and accesses hold the Python object; they do not keep
        the owner from ending the native. The other parameters and the errors are those of `register`; an
        object that cannot be weakly referenced is refused.
        """
        if alive is not None:
            alive = plan_question(alive, obj)
        size = check_facts(name, size)
        try:
            return enter_observed(
                self._kinds.of(obj, type_name), self._any_thread, obj, name, native, size, alive
            )
        finally:
            obj = None  # type: ignore[assignment]  # a kept traceback must keep nothing alive

    def registrar(
        self,
        type_name: str,
        *,
        release: Callable[[Any], object] | str | None,
        release_on: PlaceLike = BACKGROUND,
    ) -> Callable[[Any, Any, int], Handle[Any]]:
        """Return a faster `register`: ``register(obj, native, size) -> Handle``. Everything that is the same
        for each object is checked once, here. For adapters that register an object per frame. It does not
        look for second owners: the adapter has to make sure that there are none."""
        kind = self._kinds.named(type_name)
        place = self._machinery.place_of(release_on)
        if release is not None:
            release = plan_release(release, ANY_OBJECT)

        def register(obj: Any, native: Any = None, size: int = 0) -> Handle[Any]:
            return enter(kind, place, obj, release, None, native, size, None, None, False)

        def register_dropped(obj: Any, native: Any = None, size: int = 0) -> Handle[Any]:
            return enter(kind, place, obj, DROPPED, None, native, size, None, extra_for(DROPPED, None), False)

        return register if release is not DROPPED else register_dropped

    def _rescue(
        self,
        obj: Any,
        type_name: Any,
        release: Any,
        release_on: Any,
        parent: Pin | None,
        extra: Extra | None,
        begun: list[bool],
        record: Record | None = None,
        keep_alive: tuple[Any, ...] = (),
    ) -> bool:
        """Have an object that was not entered released at its place: it was ours to keep or to give back.
        True then. `record`: how far its registration had come."""
        if record is not None:
            withdraw(record)
        if begun[0] or release is None:
            return True
        release = plan_release(release, obj)
        if keep_alive:
            extra = extra or Extra()
            extra.keep_alive = keep_alive
        kind = self._kinds.of(obj, type_name if isinstance(type_name, str) and type_name else None)
        abandon(kind, self._machinery.place_of(release_on), obj, release, parent, extra, begun)
        return True

    def factory(
        self,
        make: Callable[..., T],
        type_name: str | None = None,
        *,
        release: Callable[[T], object] | str | None,
        release_on: PlaceLike = BACKGROUND,
        limit: int | None = None,
        unique: bool = True,
    ) -> Callable[..., Handle[T]]:
        """Return a function that calls ``make(*args, **kwargs)`` and registers the result. No interrupt in
        between can lose the result. For constructors, and for functions that return an object that the caller
        owns.

        `limit` is the largest number of unreleased objects at a time: more are refused with `LimitError`,
        before `make` is called. `unique` is that of `register`.
        """
        check_callback(make, "make")
        if limit is not None and ((limit := whole(given := limit)) is None or limit < 1):
            raise RegistrationError(
                f"factory(limit=) takes a whole number above 0 or None, not {shown(given)}"
            )
        method = release if isinstance(release, str) else None
        if release is not None:
            release = plan_release(release, ANY_OBJECT)
        self._machinery.place_of(release_on)
        return build_factory(
            self._registry,
            self._kinds.of,
            self._machinery.place_of,
            self._rescue,
            make,
            type_name,
            release,
            release_on,
            limit,
            unique,
            method,
        )

    def proxy(
        self,
        obj: T,
        *,
        release: Callable[[T], object] | str | None,
        release_on: PlaceLike = ANY_THREAD,
        children: Mapping[type | str, Any] = {},
        ends: Sequence[str] = (),
        exclusive: bool | Sequence[str] = False,
        name: str | None = None,
        native: Any = None,
        parent: Any = None,
        keep_alive: Any = NOTHING,
    ) -> T:
        """Take ownership of `obj` and return a proxy of it. Every call, attribute and operator of the proxy
        takes a lease while it runs. Once the object is closed each of them raises `AccessRefusedError`.

        Parameters
        ----------
        obj:
            An object with methods. Use the proxy in its place: calls on `obj` itself are not guarded.
        release:
            A method's name, a function of the object, or None (a borrowed object). The method of that name is
            `Handle.close`: it does not wait, and the native is released when the last running call has
            returned.
        release_on:
            As for `register`. The release may run on the thread of the last call.
        children:
            What to do with results, by type or by method name: None (a light child: each call on it is a
            lease of this object), a release, a `lifecycle.proxies.Child`, or `lifecycle.proxies.VIEW`.
            Children are closed before this object.
        ends:
            Names of other methods after which the native is gone. Such a method runs while no other call
            runs, and raises `HeldError` while there are views; the release is not called after it.
            ``__exit__`` need not be named if the attribute ``closed`` of the object is true after it, as for
            files.
        exclusive:
            True, or names of methods: such calls run one at a time. A thread that is in such a call may make
            another one.
        name, native, parent, keep_alive:
            As for `register`; `parent` may be a proxy.

        Results that are data are returned as they are, and the proxy is returned in place of the object
        itself. Generators, coroutines, memoryviews and containers of children are guarded. Raises what
        `register` raises; the object is then still yours. An interrupt inside this call releases it.
        """
        taken = [False]
        attempt: Any = None
        try:
            made: T = _proxies().proxy_of(
                self,
                taken,
                obj,
                release,
                release_on,
                children,
                ends,
                exclusive,
                name,
                native,
                parent,
                keep_alive,
            )
            return made
        except LifecycleError:
            raise
        except BaseException:

            def attempt(
                facts: tuple[Any, ...] = (self, taken, obj, release, release_on, keep_alive),
            ) -> bool:
                return bool(_proxies().rescue(*facts))

            try:
                insist_thrice(attempt)
            except RecursionError:
                # No call may be possible here, so it is left to the keeper without one.
                self._registry.later[0:0] = [(attempt, ())]
            raise
        finally:
            keep_alive = None
            # A kept traceback must keep nothing alive.
            obj = release = made = attempt = None  # type: ignore[assignment]

    def proxy_factory(
        self,
        make: Callable[P, T],
        *,
        release: Callable[[T], object] | str | None,
        release_on: PlaceLike = ANY_THREAD,
        children: Mapping[type | str, Any] = {},
        ends: Sequence[str] = (),
        exclusive: bool | Sequence[str] = False,
        name: str | None = None,
        parent: Any = None,
        keep_alive: Any = NOTHING,
    ) -> Callable[P, T]:
        """Return a function that calls `make` and returns a proxy of the result. No interrupt in between can
        lose the result. The other parameters are those of `proxy`."""
        check_callback(make, "make")
        self._machinery.place_of(release_on)
        made: Callable[P, T] = _proxies().factory_of(
            self, make, release, release_on, children, ends, exclusive, name, None, parent, keep_alive
        )
        return made

    # -- access ----------------------------------------------------------------------------------------------

    @overload
    def safe_access(self, target: Handle[T], fn: None = None, /, *, errors: Any = ()) -> AccessBlock[T]: ...
    @overload
    def safe_access(self, target: Any, fn: None = None, /, *, errors: Any = ()) -> AccessBlock[Any]: ...
    @overload
    def safe_access(self, target: Handle[T], fn: Callable[..., R], /, *args: Any, errors: Any = ()) -> R: ...
    @overload
    def safe_access(self, target: Any, fn: Callable[..., R], /, *args: Any, errors: Any = ()) -> R: ...

    def safe_access(self, target: Any, fn: Any = None, /, *args: Any, errors: Any = ()) -> Any:
        """Use an object inside the panic boundary: ``safe_access(handle_or_id, fn, *args)`` returns ``fn(obj,
        *args)``; ``with safe_access(handle_or_id) as obj`` does the same for a block.

        An exception of a type in `errors` (else in the type's policy, else in the configuration) passes
        unchanged. Control flow passes. Any other is a panic: the object becomes `INVALID` and
        `AccessPanicError` is raised from it. (Where fewer than two dozen levels of recursion are left, the
        exception passes and the object becomes `INVALID` a moment later.) Raises `AccessRefusedError` when
        the object is closed, `UnknownObjectError` for an id that this manager does not know, `CallbackError`
        for a coroutine or generator function.
        """
        if fn is None:
            return AccessBlock(self._registry, target, errors)
        pin = obj = None
        try:
            if type(target) is Handle:
                pin = target._cell.pin
                if pin is None:
                    check_mine(self._registry, target._record)
                    pin = pin_or_refuse(target._record, target._cell, target)
                record = pin.record
                if record.cause is not None or record.kind.plain is not self._registry:
                    check_mine(self._registry, record)
                    if record.cause is not None:
                        pin = None
                        pin = pin_or_refuse(record, target._cell, target)
                    checked(pin)
                    timer = record.kind.timer
                    if timer is not None:
                        fn = timer.call(record, fn)
                obj = record.obj
            else:
                pin = pin_of(self._registry, target)
                record = pin.record
                timer = record.kind.timer
                if timer is not None:
                    fn = timer.call(record, fn)
                obj = record.obj if record.owning >= 0 else observed(record)
            try:
                result = fn(obj, *args) if args else fn(obj)
            except BaseException as error:
                pin = obj = None
                unentered = fn if error.__traceback__.tb_next is None else None  # type: ignore[union-attr]
                try:
                    if not callable(fn):
                        check_callback(fn, "safe_access(fn)")
                    escaped(record, error, errors, unentered, target)
                except RecursionError:
                    # No call may be possible here, so it is left to the keeper without one.
                    self._registry.later[0:0] = [(judge, (record, error, errors, unentered, target))]
                raise
            if result is not None and type(result) in DEFERRED:
                refuse_late(result, record, fn)
            if record.cause is not None:
                silence(record)
                pin = obj = None
                leave(record)
            return result
        except BaseException:
            __tracebackhide__ = True
            target = result = None  # a kept error keeps nothing alive
            raise
        finally:
            pin = obj = None

    def is_valid(self, target: Any) -> bool:
        """Return True if an access to the object of this handle or id would be granted now, as
        `Handle.valid`. False for an unknown id."""
        try:
            record = record_of(self._registry, target)
        except UnknownObjectError:
            return False
        handle = handle_of(target)
        if handle is not None:
            return handle.valid
        follow(record)
        return state_of(record) is VALID

    def invalidate(self, target: Any, reason: str) -> bool:
        """Close the object for all its shares, for `reason`. Its state is `INVALID`, and it is released when
        nothing holds it any more. Return False if it was closed already."""
        record = record_of(self._registry, target)
        site = runtime.site_of(runtime.caller())
        done = invalidate_record(record, Cause.INVALIDATE, str(reason), site, cell_behind(target))
        record.place.settle(record, 0)
        return done

    def unregister(self, target: Any, *, timeout: float | Default | None = DEFAULT) -> bool:
        """Close the object for all its shares and release it, as `Handle.close` does for the last share.
        Return True if it is released."""
        record = record_of(self._registry, target)
        if timeout is not DEFAULT:
            check_timeout(timeout)
        invalidate_record(
            record, Cause.UNREGISTER, "", runtime.site_of(runtime.caller()), cell_behind(target)
        )
        self._kept.pop(record.id, None)
        if record.phase in ENDED:
            return record.phase is RELEASED
        return bool(record.place.settle(record, timeout))

    # -- policies and hooks ----------------------------------------------------------------------------------

    def policy(
        self,
        type_name: str,
        *,
        errors: Any = DEFAULT,
        max_age: float | Default | None = DEFAULT,
        max_live: int | Default | None = DEFAULT,
        max_bytes: int | Default | None = DEFAULT,
        validate: Callable[[Any], object] | Default | None = DEFAULT,
        fork: Literal["forget", "keep"] | Default = DEFAULT,
    ) -> None:
        """Set rules for a type. A rule that is not given stays as it was; None removes a rule.

        Parameters
        ----------
        errors:
            Exceptions that are errors, not panics, in accesses to objects of the type.
        max_age:
            Seconds after which a live object counts as held too long.
        max_live, max_bytes:
            The largest number of unreleased objects, and of their bytes as registered with ``size=``, at a
            time; more are refused (`LimitError`).
        validate:
            Called with the object before each access; a false result other than None (NumPy's too) or an
            exception invalidates the object and refuses the access.
        fork:
            What happens to the Python objects that a forked child inherits, and whose releases it never
            calls. ``"forget"``, as without a rule: they live until the child's interpreter ends. ``"keep"``:
            they are never destroyed, for objects whose own destructor would end a native of the parent.

        Raises `RegistrationError` for a rule that is not possible; nothing is changed then.
        """
        set_policy(
            self._kinds.named(type_name),
            errors=errors,
            max_age=max_age,
            max_live=max_live,
            max_bytes=max_bytes,
            validate=validate,
            fork=fork,
        )

    def run_due(self) -> int:
        """Run the due releases of `ANY_THREAD` on this thread, and return their number.

        When the last holder of an `ANY_THREAD` object is an array, a thread of the manager runs the release
        soon. A caller that was refused because such an object is not released yet can call this and ask
        again. It does not wait: while another thread collects garbage, the rest is released later. Inside a
        release, in a collection and near the recursion limit it runs nothing and returns 0.
        """
        if nesting() or runtime.near_limit() or (runtime.collecting and runtime.in_collector()):
            return 0
        if exported:
            sweep(run=False)  # what foreign code has given back is due as well
        return self._any_thread.run_some(None, BRIEF_WAIT)

    def add_cleanup(self, target: Any, fn: Callable[..., object], *args: Any) -> None:
        """Call ``fn(*args)`` at the object's place before its release; the last added runs first. A cleanup
        that raises is counted and reported, and the next one runs. Raises `AccessRefusedError` when the
        object is closed."""
        check_callback(fn, "cleanup")
        pin = pin_of(self._registry, target)
        try:
            pin.record.made("cleanups", list).append(functools.partial(fn, *args))
        finally:
            pin = None  # type: ignore[assignment]

    def set_safe_finalizer(self, obj: object, fn: Callable[..., object], *args: Any) -> SafeFinalizer:
        """Call ``fn(*args)`` on a timed worker once `obj`, any object that can be weakly referenced, is gone:
        exactly once, with a deadline, at exit if `obj` lives until then. `SafeFinalizer.cancel` cancels it.

        Raises `RegistrationError` when `obj` cannot be weakly referenced or `fn` keeps it alive and so would
        never run.
        """
        return self._finalizers.attach(self.register, obj, fn, args)

    def on_close(self, fn: Callable[[], object]) -> Callable[[], None]:
        """Call ``fn()`` when the manager begins to close, as `StopToken.on_stop`, so that producers stop. It
        is called at once if the manager is closed. The last added is called first. Returns a function that
        removes it."""
        return self._stopping.on_stop(fn)

    def close_on(self, *signals: int) -> Callable[[], None]:
        """Close the manager when one of these signals comes (`signal.SIGTERM`, ``SIGINT``). Then the signal
        does what it would have done before: it ends the process, or calls the earlier handler. Call this on
        the main thread.

        The closing runs on a thread of its own. So it begins at once, whatever the main thread does; it has
        ``shutdown_timeout``. A second signal ends it early and logs what is left. A forked child has the
        earlier handlers again. Returns a function that removes the handlers. Raises `LifecycleError` for a
        number that is no signal, for a signal that cannot be handled, and on another thread."""
        return close_on(self, signals)

    def add_check(self, fn: Callable[[], str]) -> Callable[[], None]:
        """Add a check to `health`: ``fn()`` returns a text that says what is wrong, empty if nothing is. It
        must be quick and must not wait; it may be called on any thread. Returns a function that removes
        it."""
        check_callback(fn, "check")
        return subscribe(self._maintenance.checks, fn)

    def add_observer(self, fn: Callable[[Event], object]) -> Callable[[], None]:
        """Call ``fn(event)`` on the observer thread for every event. A slow observer loses events, which are
        counted; it delays nothing else. Returns a function that removes it."""
        check_callback(fn, "observer")
        return subscribe(self._maintenance.observer.hooks, fn)

    def add_leak_hook(self, fn: Callable[[Event], object]) -> Callable[[], None]:
        """Call ``fn(event)`` on the observer thread for every report of a leak: events of the kinds ``leak``,
        ``held_too_long`` and ``returned``. Unlike an observer it has no cost for other events. Returns a
        function that removes it."""
        check_callback(fn, "leak hook")
        return subscribe(self._maintenance.observer.leak_hooks, fn)

    def add_component(
        self, component: Any, *, end: Callable[[], object] | None = None, type_name: str | None = None
    ) -> Callable[[], None]:
        """Show `component` in the metrics: an object with ``kind``, ``name`` and ``stats()``, to which the
        manager refers weakly. Returns a function, which you call when the component has been closed.

        With `end`, a component that is dropped without that call is treated as a dropped handle: it is
        reported as a leak of the type `type_name` (its ``kind`` by default), with the place where it was
        made, and ``end()`` is called once, on any thread. `end` must be quick, and must not refer to the
        component, which would then live for ever. The component must keep the returned function. Raises
        `RegistrationError` for an object that cannot be weakly referenced.
        """
        try:
            weakref.ref(component)
            hash(component)
        except TypeError as error:
            raise RegistrationError(
                "add_component takes an object that can be weakly referenced and is hashable, not a "
                f"{type(component).__name__} ({error}): give it __weakref__ among its slots, and eq=False "
                "where its class compares by value"
            ) from None
        if end is not None:
            check_callback(end, "end")
            return self._join(component, end, type_name or component.kind, True)
        self._components.add(component)
        return _nothing_to_leave

    def _begin(self) -> None:
        """See that the threads run which notice a component's drop and end it."""
        if not self._registry.started:
            self._registry.tend()

    def _join(
        self, component: Any, end: Callable[[], object], type_name: str, start: bool
    ) -> Callable[[], None]:
        name = getattr(component, "name", None)
        kind = self._kinds.named(type_name)
        membership = enter_component(kind, self._any_thread, end, None if name is None else str(name), start)
        self._components.add(component)
        return membership.leave

    def components(self) -> tuple[Any, ...]:
        """The components that live."""
        return tuple(runtime.snapshot(self._components))

    def report_panic(self, component: str, error: BaseException, *, type_name: str | None = None) -> None:
        """Count and report an exception that was contained outside `safe_access`, such as in a callback."""
        kind = self._kinds.named(type_name or component)
        self._registry.events.append(("panic", kind, None, f"{component}: {text_of(error)}", trace_of(error)))

    def report_error(
        self, component: str, error: BaseException, *, type_name: str | None = None, errors: Any = ()
    ) -> bool:
        """Count and report an exception that left a callback outside `safe_access`: as a declared error if
        its type is in `errors` (else in the type's policy, else in the configuration), as a panic otherwise.
        A `ClosedError` of this library always counts as a declared error. Return True if it was declared."""
        kind = self._kinds.named(type_name or component)
        if not is_declared(error, kind, errors):
            self.report_panic(component, error, type_name=type_name)
            return False
        self._registry.events.append(("error", kind, None, f"{component}: {text_of(error)}"))
        return True

    def report(self, kind: str, /, **fields: Any) -> None:
        """Emit an event on behalf of an integration: one of the class in `lifecycle.events` whose ``kind`` it
        is. Fields that the class does not have become its ``details``; in the log ``event`` and ``self`` have
        ``field_`` before them. Raises `LifecycleError` for a kind that does not exist."""
        if kind not in CLASSES:
            raise LifecycleError(f"there is no event kind {kind!r}; the kinds are {', '.join(CLASSES)}")
        self._registry.events.append(("told", kind, fields))

    # -- knowing ---------------------------------------------------------------------------------------------

    def stats(self) -> SafetyStats:
        """Return exact figures of this moment, counted on this thread. The time grows with the number of
        types, not of objects.

        Callable anywhere. The figures are those of the last call inside a garbage collection, on threads
        marked with `never_wait` while another thread counts, and where another thread counts for more than
        ten seconds. A signal handler or ``__del__`` that interrupts the counting on this thread gets what was
        counted so far.
        """
        if self._registry.waiting:
            self._begin()
        return self._maintenance.ask()

    def objects(self) -> Sequence[ObjectInfo]:
        """Return every object that has not ended, oldest first. The time grows with the number of objects.
        The states of observed objects are brought up to date first, as by `Handle.state`."""
        for record in open_records(self._registry):
            follow(record)
        return tuple(
            info_of(record)
            for record in reversed(open_records(self._registry))
            if record.counted or not record.kind.component
        )

    def handle(self, id: int) -> Handle[Any]:
        """Return another share of the object with this id, which is closed separately. Raises
        `AccessRefusedError` once the object is closed, and `UnknownObjectError` for an id that this manager
        does not know."""
        record = record_of(self._registry, id)
        follow(record)
        return new_share(record)

    def holders(self, target: Any) -> tuple[Holder, ...]:
        """Return what holds the object with this handle or id, as `Handle.holders`; by id, open handles are
        named as well. It searches the whole heap: use it for reports."""
        try:
            return all_holders(record_of(self._registry, target), handle_of(target))
        finally:
            target = None

    def health(self) -> Health:
        """Return the state of the manager's own threads. The call does not depend on them."""
        return self._maintenance.health()

    # -- the end ---------------------------------------------------------------------------------------------

    def close(self, *, timeout: float | Default | None = DEFAULT) -> ShutdownReport:
        """Stop producers, close every object, and release everything that nothing holds, newest first, within
        `shutdown_timeout`, or `timeout` seconds if given. With `timeout` it also waits for objects that are
        still held.

        No object is freed while it is in use. An object that is still held when the time is over is `leaked`
        in the report; it refuses accesses, and is released when its last holder lets go, by threads that end
        after that. The report lists every release in the manager's life that failed or got stuck, and is then
        false. A second call returns the same report.
        """
        if timeout is not DEFAULT:
            check_timeout(timeout)
        budget = self.config.shutdown_timeout if timeout is DEFAULT or timeout is None else float(timeout)
        return self._ending.shut_down(timeout, budget, False)

    def __enter__(self) -> SafetyManager:
        if self.closed:
            raise ClosedError(f"manager {self.name!r} is closed; make a new one")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


leads_everywhere.add(SafetyManager)
