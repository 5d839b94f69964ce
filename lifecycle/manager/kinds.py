"""The kinds of a manager's objects: found by name, or by the class of an object, and made when first
needed."""

from __future__ import annotations

import weakref
from typing import Any

from lifecycle._core.counters import TypeCount, bounds_with
from lifecycle._core.tables import ObjectType, Registry
from lifecycle.errors import RegistrationError, shown
from lifecycle.observe.leaks import arm


class Kinds:
    """The kinds of one manager. All methods may be called on any thread and at any moment."""

    __slots__ = ("_names", "_registry", "bounds")

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._names: dict[
            weakref.ref[type], str
        ] = {}  # whose callbacks take them out: no class is kept alive
        self.bounds: tuple[float, ...] = bounds_with(registry.config.finalizer_timeout)
        """Of the histograms of release times, in seconds: the deadline is one of them."""

    def named(self, type_name: Any) -> ObjectType:
        """The kind of that name. Raises `RegistrationError` for what is no name."""
        kind = self._registry.kinds.get(type_name) if isinstance(type_name, str) else None
        if kind is None:
            if not isinstance(type_name, str) or not type_name:
                raise RegistrationError(
                    f"a type name is a text of one letter or more, not {shown(type_name)}"
                )
            kind = ObjectType(self._registry, type_name, TypeCount(self.bounds))
            arm(kind, self._registry.config.leak_level)
            kind = self._registry.kinds.setdefault(type_name, kind)
            timer = self._registry.timer
            if kind.timer is not timer:  # a profiler has begun or ended meanwhile, and did not see this kind
                kind.timer = timer
                kind.watch()
        return kind

    def of(self, obj: Any, type_name: Any) -> ObjectType:
        """The kind of that name, or, with None, that of the object's class."""
        return self.named(self.name_of(obj) if type_name is None else type_name)

    def name_of(self, obj: Any) -> str:
        """What objects of this class are called where they were given no type name."""
        cls = type(obj)
        name = self._names.get(weakref.ref(cls))
        if name is None:
            name = (
                cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
            )
            self._names[weakref.ref(cls, self._names.pop)] = name
        return name
