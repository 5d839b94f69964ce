"""What is given out of a result (F5): data, a child, or the proxy itself, and never the object.

`Results` says by the type of a result what has to be done with it: None for data, which is given out as it
is, else a function of the proxy, the pin and the result. It is filled as types are seen.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import weakref
from collections.abc import Callable, MappingView
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR, getattr_static
from types import BuiltinFunctionType, MappingProxyType, MethodType
from typing import Any

from lifecycle._core.calls import DATA, PLAIN
from lifecycle._core.proxied import (
    GONE,
    Proxy,
    belongs_to_a_proxy,
    drop_before_release,
    is_light,
    make,
    new,
    proxy_handle,
    set_handle,
    set_node,
    set_parent,
    set_raw,
    stands_for,
)
from lifecycle.errors import CallbackError, DuplicateError, LifecycleError, LimitError, RegistrationError
from lifecycle.lowlevel import Recipe, recipe
from lifecycle.proxies.buffers import guarded, guarded_array, is_array
from lifecycle.proxies.classes import class_of
from lifecycle.proxies.containers import CONTAINERS, VIEWS, base_of, each, inside, shown_by
from lifecycle.proxies.dependents import Dependents
from lifecycle.proxies.rules import VIEW, ChildRule, Node
from lifecycle.proxies.steps import (
    GuardedAsyncGenerator,
    GuardedCoroutine,
    GuardedGenerator,
    GuardedIterator,
    GuardedMethod,
    in_steps,
)

How = Callable[[Any, Any, Any], Any]
"""What makes of a result what is given out: of the proxy, the pin and the result."""

MOST_TYPES = 1000
"""Types of results that are remembered."""

METHODS = frozenset({MethodType, BuiltinFunctionType, type("".__str__), functools.partial})
GENERATOR = ("send", "throw", "close", "__next__", "__iter__")
COROUTINE = ("send", "throw", "close", "__await__")
ASYNC_GENERATOR = ("asend", "athrow", "aclose", "__anext__")


class Results(dict[type, "How | None"]):
    """For one node: by type of a result, what makes of it what is given out."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        super().__init__(dict.fromkeys(PLAIN - {type}))
        self.node: Node = node

    def __missing__(self, kind: type) -> How | None:
        how = self._how(kind)
        if len(self) < MOST_TYPES:
            self[kind] = how
        return how

    def _how(self, kind: type) -> How | None:
        rule = self.node.rule_for(kind)
        by_rule = None if rule is None else self.by_type(rule[0])
        if self.node.stands_for(kind):
            return functools.partial(_itself, by_rule)
        if by_rule is not None:
            return by_rule
        if any(base is type for base in kind.__mro__):
            return None  # a class is data
        if kind in METHODS:
            return _bound
        if issubclass(kind, weakref.ref):
            return _reference
        if kind in CONTAINERS:
            return _inside
        if kind in VIEWS or kind is MappingProxyType:
            return _shown
        if kind is memoryview:
            return lambda proxy, pin, value: guarded(pin, value)
        return self._how_in_steps(kind)

    def _how_in_steps(self, kind: type, rule: tuple[ChildRule] | None = None) -> How | None:
        if CONTEXT in kind.__mro__:
            return lambda proxy, pin, value: _context(proxy, value, rule)
        if has(kind, GENERATOR):
            return lambda proxy, pin, value: in_steps(GuardedGenerator, proxy, value, rule)
        if has(kind, COROUTINE):
            return lambda proxy, pin, value: GuardedCoroutine(proxy, value, rule)
        if has(kind, ASYNC_GENERATOR):
            return lambda proxy, pin, value: in_steps(GuardedAsyncGenerator, proxy, value, rule)
        if only_iterates(kind):
            return lambda proxy, pin, value: in_steps(GuardedIterator, proxy, value, rule)
        if MappingView in kind.__mro__:
            return _mapping_view
        if issubclass(kind, tuple) and hasattr(kind, "_make"):
            return _named_tuple
        return None if base_of(kind) is None else _inside

    def by_type(self, rule: ChildRule) -> How:
        """What makes a child by `rule`."""
        if rule is VIEW:
            return _memory
        node = self.node.below(rule)
        if node.results is None:
            node.results = Results(node)
        return functools.partial(_owned, node) if node.release is not None else _light_of(node)

    def by_rule(self, proxy: Any, pin: Any, value: Any, rule: ChildRule) -> Any:
        """What is given out of a result that has a rule of its own, as that of a method. Of a container or an
        iterator the rule is that of its items."""
        how = None
        kind = type(value)
        try:
            if rule is not VIEW and (kind in PLAIN or kind in METHODS):
                return value
            if self.node.stands_for(kind) and _proxy_above(proxy, value) is not None:
                return _proxy_above(proxy, value)
            if kind in CONTAINERS:
                return each(value, lambda one: self.by_rule(proxy, pin, one, rule))
            if kind not in self.node.types:
                how = self._how_in_steps(kind, (rule,))
                if how is not None and not (rule is VIEW and MappingView in kind.__mro__):
                    return how(proxy, pin, value)
            how = self.by_type(rule)
            return how(proxy, pin, value)
        finally:
            proxy = pin = value = how = None

    # -- what an interrupt has come between

    def owned_in(self, value: Any, rule: tuple[ChildRule] | None) -> list[tuple[Any, Node]]:
        """What `value` has in it that has to be released."""
        if type(value) in CONTAINERS:
            return [found for one in inside(value) for found in self.owned_in(one, rule)]
        if type(value) in PLAIN:
            return []
        found = rule or self.node.rule_for(type(value))
        if found is None and self.get(type(value)) in LOOKED_INTO:
            return [found for one in inside(value) for found in self.owned_in(one, None)]
        if found is None or found[0] is VIEW or found[0] is None:
            return []
        node = self.node.below(found[0])
        return [(value, node)] if node.release is not None else []

    def give_back(self, proxy: Any, pin: Any, value: Any, node: Node) -> None:
        """Release a child that was not handed out, unless it is the manager's already."""
        handle = proxy._lifecycle_handle
        taken = handle._dependents.pending.setdefault(id(value), [False])
        known = None
        try:
            known = handle._dependents.find(id(value))
            if taken[0] or (known is not None and stands_for(known, value)):
                return
            try:
                recipe_of(handle._manager, value, node.release, handle._where).register(
                    value, parent=pin, taken=taken
                ).close()
            except LimitError:
                handle._manager._rescue(value, None, node.release, handle._where, pin, None, taken)
            except LifecycleError:  # it has an owner, or has been released
                return
        finally:
            value = known = pin = None


def has(kind: type, names: tuple[str, ...]) -> bool:
    """Return True if the type has all of these methods."""
    return all(hasattr(kind, name) for name in names)


CONTEXT: type = contextlib._GeneratorContextManager.__mro__[1]
"""What `contextlib.contextmanager` and `contextlib.asynccontextmanager` make has it as a base."""


def _context(proxy: Any, value: Any, rule: tuple[ChildRule] | None) -> Any:
    """A context manager that is a generator within: its steps go through the door."""
    kind = GuardedAsyncGenerator if hasattr(type(value), "__aenter__") else GuardedGenerator
    try:
        if not isinstance(value.gen, kind):
            # What it is made of anew as a decorator.
            value.args = tuple([proxy if stands_for(proxy, one) else one for one in value.args])
            value.gen = in_steps(kind, proxy, value.gen, rule)
        return value
    finally:
        value = None


def only_iterates(kind: type) -> bool:
    """Return True for an iterator that can do nothing else. One that can is an object of its own, such as a
    database cursor."""
    if not (hasattr(kind, "__next__") and hasattr(kind, "__iter__")):
        return False
    return all(name.startswith("_") for name in dir(kind)) or kind is itertools.chain


# -- each kind of result -------------------------------------------------------------------------------------


def _proxy_above(proxy: Any, value: Any) -> Any:
    """The proxy whose very object `value` is: this one, or one it is a child of."""
    one = proxy
    try:
        while one is not None:
            if stands_for(one, value):
                return one
            one = one._lifecycle_parent
        return None
    finally:
        one = value = None


def _itself(otherwise: How | None, proxy: Any, pin: Any, value: Any) -> Any:
    try:
        found = _proxy_above(proxy, value)
        if found is not None:
            return found
        return value if otherwise is None else otherwise(proxy, pin, value)
    finally:
        pin = value = None


def _light_of(node: Node) -> How:
    """What makes light children."""
    classes = node.classes
    reference = weakref.ref

    def light(proxy: Any, pin: Any, value: Any) -> Any:
        handle = proxy._lifecycle_handle
        dependents = handle._dependents
        members = dependents.members
        key = id(value)
        child: Any = None
        try:
            if key in members:
                child = dependents.find(key)
                if child is not None and stands_for(child, value):
                    return child  # a registered one too: the native has one door
                members.pop(key, None)  # so that it is entered as the newest
            cls = classes.get(type(value))
            if cls is None:
                cls = prepare(node, value)
            child = new(cls)
            set_handle(child, handle)
            set_node(child, node)
            set_parent(child, proxy)
            set_raw(child, value)
            members[key] = reference(child)
            if len(members) > dependents.limit:
                dependents.sweep()
            return child
        finally:
            pin = value = child = None  # noqa: F841 - K3

    return light


def _owned(node: Node, proxy: Any, pin: Any, value: Any) -> Any:
    above = proxy._lifecycle_handle
    dependents = above._dependents
    key = id(value)
    child: Any = None
    handle: Any = None
    light: Any = None
    try:
        child = dependents.find(key)
        if child is not None and not is_light(child) and stands_for(child, value):
            return child
        cls = node.classes.get(type(value)) or prepare(node, value)
        recipe = recipe_of(above._manager, value, node.release, above._where)
        taken = dependents.pending.setdefault(key, [False])
        try:
            handle = recipe.register(value, parent=pin, taken=taken)
        except DuplicateError:
            child = dependents.find(key)  # another thread was quicker
            if child is not None and stands_for(child, value):
                return child
            raise
        belongs_to_a_proxy(handle, above)
        handle = proxy_handle(handle, Dependents(dependents.lock), above._manager, above._where)
        drop_before_release(handle, handle._dependents.drop)
        light = dependents.find(key)
        child = make(cls, handle, node, proxy, None)
        dependents.add(key, child)
        if light is not None and is_light(light) and stands_for(light, value):
            # By another rule it is a light child. From here on that goes through the door of its own record.
            handle._dependents.add(key, light)
            set_handle(light, handle)
        return child
    finally:
        pin = value = child = handle = light = None


def recipe_of(manager: Any, obj: Any, release: Callable[[Any], object] | None, where: Any) -> Recipe:
    """How an object of that type is registered."""
    kind = type(obj)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    obj = None
    return recipe(manager, name, release=release, release_on=where, unique=True)


def prepare(node: Node, value: Any) -> type[Proxy]:
    """The class of the proxies of objects like `value`, made when it is first needed. Raises
    `RegistrationError` where the type has not the methods that are named."""
    kind = type(value)
    for name in (*node.ends, *(() if node.closes is None else (node.closes,))):
        if not callable(getattr(kind, name, None)):
            value = None
            raise RegistrationError(
                f"{kind.__name__} has no method {name!r}, which its rule in children= names as "
                f"{'an end' if name in node.ends else 'its release'}: it is not given out. Correct the rule, "
                "or name another type"
            )
    for name in node.ends:
        code = getattr(getattr(kind, name, None), "__code__", None)
        if code is not None and code.co_flags & (CO_GENERATOR | CO_ASYNC_GENERATOR):
            raise CallbackError(
                f"ends= names {kind.__name__}.{name}, a generator function: its body would not have run when "
                "the call returns; give a plain method or a coroutine function"
            )
    cls = class_of(kind, node)
    node.classes[kind] = cls
    _forget(node, kind)
    return cls


def _forget(node: Node, kind: type) -> None:
    """What results of that type are is asked anew: they may be the object itself now."""
    if node.results is not None:
        node.results.pop(kind, None)
    for _, below in list(node._below.values()):
        _forget(below, kind)


def _bound(proxy: Any, pin: Any, value: Any) -> Any:
    """A method that is bound to an object behind a proxy, or a partial of one, or of one of those objects."""
    owner = found = function = None
    try:
        if type(value) is functools.partial:
            return _partial(proxy, pin, value)
        owner = getattr(value, "__self__", None)
        found = None if owner is None else _proxy_above(proxy, owner)
        if found is None:
            return value
        name = str(getattr(value, "__name__", None))
        # By its name, unless the type has another under it, as where a method of a base is taken by `super`.
        function = getattr(value, "__func__", None)
        known = function is None or getattr_static(type(owner), name, None) is function
        return GuardedMethod(found, name) if known else GuardedMethod(found, name, function)
    finally:
        pin = value = owner = found = function = None


def _partial(proxy: Any, pin: Any, value: functools.partial[Any]) -> Any:
    function = args = kwargs = None
    try:
        function = _mapped(proxy, pin, value.func)
        args = [_mapped(proxy, pin, one) for one in value.args]
        kwargs = {name: _mapped(proxy, pin, one) for name, one in value.keywords.items()}
        given = zip((*args, *kwargs.values()), (*value.args, *value.keywords.values()), strict=True)
        if all(one is other for one, other in given):
            return value if function is value.func else functools.partial(function, *args, **kwargs)
        if type(function) is not GuardedMethod:
            # It may be of C, and take no proxies: they are given to it as to a method of the object.
            args.insert(0, function)
            function = GuardedMethod(proxy, str(getattr(function, "__name__", "call")), _call)
        return functools.partial(function, *args, **kwargs)
    finally:
        pin = value = function = args = kwargs = given = None  # type: ignore[assignment]


def _call(_: object, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    finally:
        function = args = kwargs = None  # type: ignore[assignment]


def _reference(proxy: Any, pin: Any, value: weakref.ref[Any]) -> Any:
    """A weak reference: of the proxy, where it is one of an object behind a proxy."""
    found = bound = None
    try:
        found = _proxy_above(proxy, weakref.ref.__call__(value))
        if found is None:
            return value
        if isinstance(value, weakref.WeakMethod):
            bound = value()
            bound = getattr(found, str(getattr(bound, "__name__", None)))
            return weakref.WeakMethod(bound) if type(bound) is MethodType else value
        return weakref.ref(found)
    finally:
        pin = value = found = bound = None  # type: ignore[assignment]  # noqa: F841 - K3


def _inside(proxy: Any, pin: Any, value: Any) -> Any:
    """A container of results. Most hold data alone, which is found without a step for each item."""
    results = proxy._lifecycle_node.results
    try:
        if DATA.issuperset(map(type, value)) and not isinstance(value, dict):
            return value
        kinds = set(map(type, value))
        if isinstance(value, dict):
            kinds.update(map(type, value.values()))
        hows = set(map(results.__getitem__, kinds))
        if hows == NO_HOWS:
            return value
        if hows <= ROWS_ONLY and type(value) is list:
            kinds = set(map(type, itertools.chain.from_iterable(value)))
            if set(map(results.__getitem__, kinds)) <= NO_HOWS:
                return value
        mapped = functools.partial(_mapped, proxy, pin)
        return each(value, mapped, mapped)
    finally:
        pin = value = mapped = None  # type: ignore[assignment]


def _mapped(proxy: Any, pin: Any, one: Any) -> Any:
    how = None
    try:
        how = proxy._lifecycle_node.results[type(one)]
        return one if how is None else how(proxy, pin, one)
    finally:
        pin = one = how = None


NO_HOWS: frozenset[How | None] = frozenset({None})
ROWS_ONLY: frozenset[How | None] = frozenset({_inside, None})


def _shown(proxy: Any, pin: Any, value: Any) -> Any:
    """What shows the inside of a dict."""
    try:
        return shown_by(value, functools.partial(_inside, proxy, pin))
    finally:
        pin = value = None


LOOKED_INTO = frozenset({_inside, _shown})
"""What makes of a result that is no child a container of children."""


def _named_tuple(proxy: Any, pin: Any, value: Any) -> Any:
    try:
        items = [_mapped(proxy, pin, one) for one in value]
        if all(one is other for one, other in zip(items, value, strict=True)):
            return value
        return type(value)._make(items)
    finally:
        pin = value = items = None  # type: ignore[assignment]


def _mapping_view(proxy: Any, pin: Any, value: Any) -> Any:
    """``keys()``, ``values()``, ``items()`` of a mapping: the same of its proxy."""
    try:
        found = _proxy_above(proxy, getattr(value, "_mapping", GONE))
        return value if found is None else type(value)(found)
    finally:
        pin = value = None  # noqa: F841 - K3


def _memory(proxy: Any, pin: Any, value: Any) -> Any:
    """What is named `VIEW`."""
    try:
        if value is None or type(value) in (int, float, bool, str):
            return value
        if base_of(type(value)) is not None:
            return each(value, functools.partial(_memory, proxy, pin))
        if is_array(value):
            return guarded_array(pin, value)
        return guarded(pin, value)
    finally:
        pin = value = None
