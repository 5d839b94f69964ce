"""Making proxies: what `SafetyManager.proxy` and `SafetyManager.proxy_factory` do, and `handle_of`."""

from __future__ import annotations

import difflib
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from lifecycle._core.calls import PLAIN, insist_thrice
from lifecycle._core.proxied import (
    Proxy,
    drop_before_release,
    is_light,
    is_proxy,
    light_handle,
    make,
    new_lock,
    proxy_handle,
    set_hash,
)
from lifecycle.errors import ClosedError, LifecycleError, LimitError, RegistrationError, shown
from lifecycle.lowlevel import check_facts, forgets
from lifecycle.lowlevel import check_release as check_with
from lifecycle.proxies.dependents import Dependents
from lifecycle.proxies.results import Results, prepare, recipe_of
from lifecycle.proxies.rules import (
    ChildRule,
    Node,
    callable_of,
    check_children,
    check_release,
    checked_names,
    name_of,
)

if TYPE_CHECKING:
    from lifecycle import Handle, SafetyManager

T = TypeVar("T")
P = ParamSpec("P")


class Plan:
    """What is the same for each proxy that is made alike. Its arguments are checked when it is made."""

    __slots__ = (
        "_node",
        "_release",
        "_rules",
        "keep_alive",
        "manager",
        "name",
        "native",
        "parent",
        "where",
    )

    def __init__(
        self,
        manager: SafetyManager,
        release: Any,
        where: Any,
        children: Mapping[type | str, ChildRule],
        ends: Any,
        exclusive: Any,
        name: str | None,
        native: Any,
        parent: Any,
        keep_alive: Any = (),
    ) -> None:
        check_release(release, "proxy(release=)")
        check_children(children, "proxy(children=)")
        ends = checked_names(ends, "proxy(ends=)")
        if not isinstance(exclusive, bool):
            exclusive = frozenset(checked_names(exclusive, "proxy(exclusive=)")) or False
        self.manager: SafetyManager = manager
        self.where: Any = where
        self.name: str | None = name
        self.native: Any = native
        self.parent: Any = parent
        self.keep_alive: tuple[Any, ...] = keep_alive if type(keep_alive) is tuple else (keep_alive,)
        self._rules = (dict(children), ends, exclusive)
        self._release = release
        self._node: Node | None = None

    def node_for(self, obj: Any) -> Node:
        """The rules for `obj`. Raises `RegistrationError` for what cannot be behind a proxy."""
        if is_proxy(obj):
            raise RegistrationError(f"{obj!r} is a proxy already")
        kind = type(obj)
        if kind in PLAIN or isinstance(obj, type):
            raise RegistrationError(
                f"proxy() takes an object that stands for a native one, not {shown(obj)}: give what has the "
                "methods, or register() the number"
            )
        node = self._node
        if node is None:
            release, closes = _method_of(self._release, obj)
            children, ends, exclusive = self._rules
            node = Node(None, release, closes, ends, children, exclusive)
            node.results = Results(node)
        if kind not in node.classes:
            self._check(kind, node, obj)
        self._node = node
        return node

    def _check(self, kind: type, node: Node, obj: Any) -> None:
        """Raise `RegistrationError` where the type has not the methods that are named, and for a release that
        cannot work with `obj`."""
        try:
            for one in (*node.ends, *(node.exclusive if isinstance(node.exclusive, frozenset) else ())):
                if not hasattr(kind, one):
                    raise RegistrationError(
                        f"{kind.__name__} has no method {one!r}, which ends= or exclusive= names"
                    )
            for one in node.names:
                # Of a type whose objects have a `__dict__`, or answer for what they have not, it cannot be
                # known.
                if not (hasattr(kind, one) or kind.__dictoffset__ or hasattr(kind, "__getattr__")):
                    near = difflib.get_close_matches(one, dir(kind), 1)
                    raise RegistrationError(
                        f"{kind.__name__} has nothing named {one!r}, which children= names: its rule "
                        f"would guard nothing{f'; perhaps {near[0]!r}' if near else ''}"
                    )
            if node.closes is not None and not callable(getattr(kind, node.closes, None)):
                raise RegistrationError(
                    f"{kind.__name__} has no method {node.closes!r} to be released by; give release= the "
                    "name of one that it has, or a function of the object"
                )
            if node.closes != "__exit__":  # which is called as at the end of a block
                check_with(self._release if node.closes is None else node.closes, obj)
        finally:
            obj = None

    def register(self, obj: Any, node: Node, taken: list[bool]) -> Any:
        """Register `obj` and return its proxy. `taken`: told once the object is the manager's."""
        handle: Any = None
        proxy: Any = None
        try:
            check_facts(self.name, 0)
            cls = node.classes.get(type(obj)) or prepare(node, obj)
            recipe = recipe_of(self.manager, obj, node.release, self.where)
            handle = recipe.register(
                obj,
                native=self.native,
                name=self.name,
                parent=self.parent,
                taken=taken,
                keep_alive=self.keep_alive,
            )
            dependents = Dependents(None if node.exclusive is False else new_lock())
            handle = proxy_handle(handle, dependents, self.manager, self.where)
            drop_before_release(handle, dependents.drop)
            proxy = make(cls, handle, node, None, None)
            hash_of: Any = type(obj).__hash__
            if hash_of is object.__hash__:
                set_hash(proxy, object.__hash__(obj))
            return proxy
        finally:
            obj = handle = proxy = None  # K3


def _method_of(release: Any, obj: Any) -> tuple[Callable[[Any], object] | None, str | None]:
    """What is called to release `obj`, and the method that is. A method of `obj` itself is called by its
    name, so that it does not keep `obj`."""
    try:
        if getattr(release, "__self__", None) is obj and isinstance(getattr(release, "__name__", None), str):
            release = release.__name__
        return callable_of(release), name_of(release)
    finally:
        obj = release = None


@forgets
def proxy_of(manager: SafetyManager, taken: list[bool], obj: T, release: Any, where: Any, *rules: Any) -> T:
    """What `SafetyManager.proxy` returns. `taken`: told once the object is the manager's."""
    box: list[Any] = [obj]
    try:
        obj = None  # type: ignore[assignment]
        plan = Plan(manager, release, where, *rules)
        return plan.register(box[0], plan.node_for(box[0]), taken)  # type: ignore[no-any-return]
    finally:
        box.clear()
        release = rules = None  # type: ignore[assignment]  # K3


def rescue(
    manager: SafetyManager, taken: list[bool], obj: Any, release: Any, where: Any, keep_alive: Any
) -> bool:
    """Have `obj` released at its place, unless it was taken or this is done: `proxy_of` was struck."""
    given = keep_alive if type(keep_alive) is tuple else (keep_alive,)
    called = _method_of(release, obj)[0]
    return manager._rescue(obj, None, called, where, None, None, taken, None, given)


def factory_of(
    manager: SafetyManager, make_one: Callable[P, T], release: Any, where: Any, *rules: Any
) -> Callable[P, T]:
    """What `SafetyManager.proxy_factory` returns."""
    plan = Plan(manager, release, where, *rules)

    @functools.wraps(make_one)
    @forgets
    def made(*args: P.args, **kwargs: P.kwargs) -> T:
        box: list[Any] = []
        taken = [False]
        attempt: Any = None
        if manager.closed:
            raise ClosedError(f"manager {manager.name!r} is closed: nothing was made; make a new manager")
        try:
            box.extend(itertools.starmap(functools.partial(make_one, **kwargs), (args,)))
            return plan.register(box[0], plan.node_for(box[0]), taken)  # type: ignore[no-any-return]
        except BaseException as error:
            # Otherwise it has an owner, or cannot be guarded, or has been released.
            mro = error.__class__.__mro__  # no call, of which there may be none left
            struck = LimitError in mro or LifecycleError not in mro

            def attempt(made: tuple[Any, ...] = (*box,)) -> bool:
                if not made or not struck:
                    return True
                return rescue(manager, taken, made[0], release, where, plan.keep_alive)

            try:
                insist_thrice(attempt)
            except RecursionError:
                # No call may be possible here, so it is left to the keeper without one.
                manager._registry.later[0:0] = [(attempt, ())]
            raise
        finally:
            box.clear()
            args = kwargs = attempt = None  # type: ignore[assignment]  # K3

    return made


@forgets
def handle_of(proxy: T) -> Handle[T]:
    """Return the handle behind a proxy, for `lease`, `share`, `view`, `state`, `holders` and `detach`.

    The handle of a light child is its parent's but for `lease`, which gives the child. Raises
    `LifecycleError` for what is no proxy. Callable on any thread.
    """
    if not is_proxy(proxy):
        raise LifecycleError(
            f"handle_of() takes what manager.proxy() returned, or its children, not {shown(proxy)}"
        )
    one: Any = proxy
    return light_handle(one) if is_light(one) else one._lifecycle_handle


__all__ = ["Plan", "Proxy", "factory_of", "handle_of", "proxy_of", "rescue"]
