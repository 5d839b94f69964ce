"""Containers of results, made anew where something in them is guarded, and of their own kind."""

from __future__ import annotations

import copyreg
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

CONTAINERS = frozenset({list, tuple, dict, set, frozenset, OrderedDict, defaultdict, deque})
VIEWS: dict[type, tuple[type[dict[Any, Any]], str]] = {
    type(getattr(kind(), name)()): (kind, name)
    for kind in (dict, OrderedDict)
    for name in ("keys", "values", "items")
}
"""By type of what shows the inside of a dict: the type and the method that give it."""


def base_of(kind: type) -> type | None:
    """The container that a type is, or derives from. None for what is none."""
    return next((base for base in kind.__mro__ if base in CONTAINERS), None)


def inside(value: Any) -> list[Any]:
    """What is in a container, or in what shows one."""
    if type(value) in VIEWS or type(value) is MappingProxyType:
        value = dict(value.mapping) if type(value) in VIEWS else dict(value)
    return [*value, *value.values()] if isinstance(value, dict) else list(value)


def each(value: Any, how: Callable[[Any], Any], of_key: Callable[[Any], Any] | None = None) -> Any:
    """A container of what `how` makes of its items (`of_key` of the keys): `value` itself where that is the
    same."""
    try:
        if isinstance(value, dict):
            items = [(key if of_key is None else of_key(key), how(one)) for key, one in value.items()]
            pairs = zip(items, value.items(), strict=True)
            if all(key is other and one is before for (key, one), (other, before) in pairs):
                return value
            return _like(value, items)
        items = [how(one) for one in value]
        if all(one is other for one, other in zip(items, value, strict=True)):
            return value
        return _like(value, items)
    finally:
        value = how = of_key = items = pairs = None  # type: ignore[assignment]


def shown_by(value: Any, how: Callable[[Any], Any]) -> Any:
    """What shows the inside of a dict, of the dict that `how` makes of it: `value` itself where that is the
    same."""
    known = mapped = None
    try:
        kind, name = VIEWS.get(type(value), (dict, None))
        known = kind(value if name is None else value.mapping)
        mapped = how(known)
        if mapped is known:
            return value
        return MappingProxyType(mapped) if name is None else getattr(mapped, name)()
    finally:
        value = how = known = mapped = None  # type: ignore[assignment]


def _like(value: Any, items: list[Any]) -> Any:
    """A container of the kind of `value` that has `items` in it. Nothing of a class of the user is called:
    its constructor may take anything, and do anything."""
    kind = type(value)
    base: Any = base_of(kind)
    try:
        if kind is base and base not in (deque, defaultdict):
            return base(items)
        try:
            made = base.__new__(kind, items) if base in (tuple, frozenset) else base.__new__(kind)
        except TypeError:  # one of C, which nobody else can make
            return base(items)
        if base is deque:
            deque.__init__(made, items, value.maxlen)
        elif base is defaultdict:
            defaultdict.__init__(made, value.default_factory, items)
        elif base not in (tuple, frozenset):
            base.__init__(made, items)
        for name in (*getattr(value, "__dict__", ()), *copyreg._slotnames(kind)):  # type: ignore[attr-defined]
            if hasattr(value, name):
                object.__setattr__(made, name, getattr(value, name))
        return made
    finally:
        value = items = made = None  # type: ignore[assignment]
