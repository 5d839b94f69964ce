"""What proxies are made of (`lifecycle/proxies` has the rest): what is behind one, the mark by which proxies
are told from objects, and their handles."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from lifecycle._core import runtime
from lifecycle._core.default import DEFAULT, Default
from lifecycle._core.handle import Handle
from lifecycle._core.keeping import ProxyType
from lifecycle._core.leases import Lease
from lifecycle._core.record import SHUT_CELL
from lifecycle._core.targets import registries
from lifecycle.errors import LifecycleError

T = TypeVar("T")

new_lock = runtime.RLock


class Proxy(metaclass=ProxyType):
    """Base of the classes that are generated. What it needs it has under names that no object has."""

    __slots__ = (
        "__weakref__",
        "_lifecycle_handle",
        "_lifecycle_hash",
        "_lifecycle_node",
        "_lifecycle_parent",
        "_lifecycle_raw",
    )
    if TYPE_CHECKING:
        _lifecycle_handle: ProxyHandle[Any]
        _lifecycle_node: Any  # proxies.rules.Node
        _lifecycle_parent: Proxy | None
        _lifecycle_raw: Any
        """The raw object of a light child, `GONE` once its parent is released. None for a registered object,
        to which its record alone refers (I4)."""
        _lifecycle_hash: int


_slots = vars(Proxy)
set_handle = _slots["_lifecycle_handle"].__set__
set_node = _slots["_lifecycle_node"].__set__
set_parent = _slots["_lifecycle_parent"].__set__
set_raw = _slots["_lifecycle_raw"].__set__
set_hash = _slots["_lifecycle_hash"].__set__
new = object.__new__


class Gone:
    """The type of `GONE`: nothing can be done with it."""

    __slots__ = ()

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"what was behind this proxy is gone, and {name!r} with it")


GONE = Gone()


def is_proxy(value: object) -> bool:
    """Return True if `value` is a proxy."""
    return type(type(value)) is ProxyType


def is_light(proxy: Proxy) -> bool:
    """Return True if the proxy has no record of its own."""
    return proxy._lifecycle_raw is not None


def stands_for(proxy: Proxy, value: object) -> bool:
    """Return True if `value` is the very object behind `proxy`. Touches neither."""
    raw = proxy._lifecycle_raw
    try:
        return (proxy._lifecycle_handle._record.obj if raw is None else raw) is value
    finally:
        raw = value = None


def make(cls: type[Proxy], handle: Any, node: Any, parent: Proxy | None, raw: Any) -> Proxy:
    """A proxy of the class `cls`."""
    proxy = new(cls)
    set_handle(proxy, handle)
    set_node(proxy, node)
    set_parent(proxy, parent)
    set_raw(proxy, raw)
    return proxy


def is_shut(proxy: Proxy) -> bool:
    """Return True once calls through the proxy are refused."""
    handle = proxy._lifecycle_handle
    return handle._cell is SHUT_CELL or handle._record.cause is not None


def open_pin(proxy: Proxy) -> Any:
    """The pin, and None where calls through the proxy are refused. Refuses nothing and counts nothing."""
    handle = proxy._lifecycle_handle
    pin = handle._cell.pin
    try:
        return pin if handle._record.cause is None else None
    finally:
        pin = None  # K3


def put_out(light: Proxy) -> None:
    """Have a light child refuse every call from here on, and let go of it."""
    handle = light._lifecycle_handle
    shut: ProxyHandle[Any] = ProxyHandle()
    shut._dependents, shut._manager, shut._where = handle._dependents, handle._manager, handle._where
    shut._record, shut._token, shut._cell = handle._record, handle._token, SHUT_CELL
    set_handle(light, shut)
    set_raw(light, GONE)


def belongs_to_a_proxy(handle: Handle[Any], above: Handle[Any]) -> None:
    """Note of a registered child whose it is. To drop it is no leak."""
    extra = handle._record.more()
    extra.parent_ids = (above._record.id,)
    extra.quiet = True


def drop_before_release(handle: Handle[Any], drop: Callable[[], object]) -> None:
    """Have `drop` called before the release of the object, at its place; again if it was interrupted."""
    cleanups = handle._record.made("cleanups", list)
    cleanups.insert(0, functools.partial(_drop, drop, cleanups))


def _drop(drop: Callable[[], object], cleanups: list[Callable[[], object]]) -> None:
    try:
        drop()
    except Exception:
        raise
    except BaseException:
        cleanups.insert(0, functools.partial(_drop, drop, cleanups))
        raise


def without_release(handle: Handle[Any]) -> None:
    """The native is gone: nothing is called to release it."""
    handle._record.release = None


def all_drops() -> list[Any]:
    """What `drop_before_release` was given and has not been called yet, of all managers."""
    return [
        cleanup.args[0]
        for registry in runtime.snapshot(registries)
        for record in runtime.snapshot(registry.records.values())
        if record.extra is not None
        for cleanup in runtime.snapshot(record.extra.cleanups)
        if isinstance(cleanup, functools.partial) and cleanup.func is _drop
    ]


# -- handles -------------------------------------------------------------------------------------------------


class ProxyHandle(Handle[T]):
    """The handle of an object that is used through a proxy. Closing it closes the registered children first,
    the newest first."""

    __slots__ = ("_dependents", "_manager", "_where")
    _to_share: ClassVar[str] = "handle_of(proxy).share()"
    _dependents: Any  # proxies.dependents.Dependents
    _manager: Any
    _where: Any

    def close(
        self, *, timeout: float | Default | None = DEFAULT, held: str = "defer", after: Any = None
    ) -> bool:
        """As `Handle.close`. With ``held="refuse"`` children count as holders, and nothing is closed."""
        site = None
        try:
            site = runtime.site_of(runtime.caller())
            if held == "defer" and after is None:
                self._dependents.close_children(timeout)
        except BaseException:
            self._interrupted()
            raise
        try:
            return Handle.close(self, timeout=timeout, held=held, after=after)
        except LifecycleError:
            raise
        except BaseException:
            self._interrupted()
            raise
        finally:
            self._closed_at(site)

    def __exit__(self, *error: object) -> None:
        site = None
        try:
            site = runtime.site_of(runtime.caller())
            self._dependents.close_children(DEFAULT)
        except BaseException:
            self._interrupted()
            raise
        try:
            Handle.__exit__(self, *error)
        except BaseException:
            self._interrupted()
            raise
        finally:
            self._closed_at(site)

    def _interrupted(self) -> None:
        """As `Handle.close` does: a handle that a traceback keeps must not keep the object."""
        Handle.close(self, timeout=0)

    def _closed_at(self, site: runtime.Site | None) -> None:
        """Have reports name the user's line, not one in here."""
        record = self._record
        if record.shut_code in _CLOSERS:
            record.shut_code = None
            if site is not None:
                record.shut_at = site[1]
                record.shut_code = site[0]


_CLOSERS = (ProxyHandle.close.__code__, ProxyHandle.__exit__.__code__)


def proxy_handle(handle: Handle[T], dependents: Any, manager: Any, where: Any) -> ProxyHandle[T]:
    """`handle`, which is used no more, as that of a proxy."""
    made: ProxyHandle[T] = ProxyHandle()
    try:
        made._dependents = dependents
        made._manager = manager
        made._where = where
        made._record = handle._record
        made._token = handle._token
        made._cell = handle._cell
        return made
    finally:
        handle = made = None  # type: ignore[assignment]  # K3


class LightLease(Lease[T]):
    """The right to use a light child: a lease of its parent."""

    __slots__ = ("_lease", "_of")
    _lease: Lease[Any]
    _of: Any

    def __enter__(self) -> T:
        self._lease.__enter__()
        return self._of  # type: ignore[no-any-return]

    def __exit__(self, *_: object) -> None:
        self._of = None
        self._lease.__exit__(None, None, None)

    def close(self) -> None:
        """End the lease early. Ending twice is ending once."""
        self.__exit__()

    def __repr__(self) -> str:
        return repr(self._lease)


class LightHandle(Handle[T]):
    """What `handle_of` gives for a light child: its lease gives the child, and all else it says is said of
    the parent."""

    __slots__ = ("_proxy",)
    _proxy: Proxy

    def lease(self, *, timeout: float | None = 0) -> Lease[T]:
        """As `Handle.lease`, of the child."""
        proxy = self._proxy
        lease: LightLease[T] = LightLease()
        lease._of = None
        lease._lease = proxy._lifecycle_handle.lease(timeout=timeout)
        lease._of = proxy._lifecycle_raw
        return lease

    def _refused(self, *_: Any, **__: Any) -> Any:
        raise LifecycleError(
            f"{self._proxy!r} is a light child: it has no record of its own, and ends with its parent. Name "
            "its release in children= to have it registered, or use the handle of its parent"
        )

    close = share = weak = detach = exclusive = release_after = __enter__ = __exit__ = _refused

    def __repr__(self) -> str:
        return f"<LightHandle of {self._proxy!r}>"


def light_handle(proxy: Proxy) -> LightHandle[Any]:
    """The handle of a light child."""
    handle = proxy._lifecycle_handle
    made: LightHandle[Any] = LightHandle()
    try:
        made._proxy = proxy
        made._record = handle._record
        made._token = handle._token
        made._cell = handle._cell
        return made
    finally:
        made = None  # type: ignore[assignment]  # K3
