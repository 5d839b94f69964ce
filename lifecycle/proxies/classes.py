"""The class of the proxies of a type, generated from what the type has.

Each member of the type becomes one that goes through the door. Nothing is inherited from the type, so no
member of it can be reached past the door; `isinstance` is answered by ``__class__``.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
import sys
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

from lifecycle._core import calls
from lifecycle._core.calls import ATTRIBUTE, general, not_copied
from lifecycle._core.proxied import Proxy, is_light, is_proxy, is_shut, set_hash, stands_for
from lifecycle.errors import AccessRefusedError
from lifecycle.lowlevel import facts
from lifecycle.proxies.arrays import array, array_function
from lifecycle.proxies.ending import closes as closing
from lifecycle.proxies.ending import ends, ends_later, leaves, leaves_later
from lifecycle.proxies.rules import Node, called_on
from lifecycle.proxies.steps import GuardedMethod

NOT_MADE = frozenset(
    {
        "__abstractmethods__",
        "__base__",
        "__class__",
        "__class_getitem__",
        "__del__",
        "__delete__",
        "__dict__",
        "__dir__",
        "__doc__",
        "__eq__",
        "__firstlineno__",
        "__get__",
        "__getattr__",
        "__getattribute__",
        "__hash__",
        "__init__",
        "__init_subclass__",
        "__module__",
        "__ne__",
        "__new__",
        "__qualname__",
        "__release_buffer__",
        "__repr__",
        "__set__",
        "__set_name__",
        "__setattr__",
        "__delattr__",
        "__slots__",
        "__static_attributes__",
        "__subclasshook__",
        "__weakref__",
        "_abc_impl",
    }
)
"""Members of a type that its proxies have in another form, or not at all."""

COPIES = (
    "__copy__",
    "__deepcopy__",
    "__getnewargs__",
    "__getnewargs_ex__",
    "__getstate__",
    "__reduce__",
    "__reduce_ex__",
    "__replace__",
    "__setstate__",
)
ADDRESSES = (
    "__array_interface__",
    "__array_struct__",
    "__cuda_array_interface__",
    "__dlpack__",
    "__dlpack_device__",
)
"""What gives out a bare address, past the door. `__array__` stands in for it."""

UNARY: dict[str, Callable[[Any], Any]] = {
    "__abs__": operator.abs,
    "__bool__": bool,
    "__bytes__": bytes,
    "__ceil__": math.ceil,
    "__complex__": complex,
    "__float__": float,
    "__floor__": math.floor,
    "__fspath__": os.fspath,
    "__index__": operator.index,
    "__int__": int,
    "__invert__": operator.invert,
    "__iter__": iter,
    "__len__": len,
    "__length_hint__": operator.length_hint,
    "__neg__": operator.neg,
    "__next__": next,
    "__pos__": operator.pos,
    "__reversed__": reversed,
    "__str__": str,
    "__trunc__": math.trunc,
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "__contains__": operator.contains,
    "__delitem__": operator.delitem,
    "__getitem__": operator.getitem,
    "__ge__": operator.ge,
    "__gt__": operator.gt,
    "__le__": operator.le,
    "__lt__": operator.lt,
}
for _name in (
    "add",
    "and_",
    "floordiv",
    "lshift",
    "matmul",
    "mod",
    "mul",
    "or_",
    "rshift",
    "sub",
    "truediv",
    "xor",
):
    BINARY[f"__{_name.rstrip('_')}__"] = getattr(operator, _name)
    _in_place = "i" + _name.rstrip("_")
    BINARY[f"__{_in_place}__"] = getattr(operator, _in_place)
BINARY["__ipow__"] = operator.ipow
UNLESS_REPEATED = frozenset({"__str__", "__lt__", "__le__", "__gt__", "__ge__", "__format__", "__sizeof__"})
"""What `object` has as well: made where the type has its own."""

MOST_CLASSES = 500
_classes: dict[tuple[Any, ...], type[Proxy]] = {}
"""By what they are made of: the classes made last."""


def class_of(kind: type, node: Node) -> type[Proxy]:
    """The class of the proxies of objects of the type `kind`. Callable on any thread."""
    slow = node.owns or node.exclusive is True
    alone = node.exclusive if isinstance(node.exclusive, frozenset) else frozenset()
    closes = node.closes or called_on(node.release, kind)
    key = (kind, closes, node.ends, slow, alone | frozenset(node.names))
    cls = _classes.get(key)
    if cls is None:
        cls = _generate(kind, closes, frozenset(node.ends), slow, alone | frozenset(node.names))
        while len(_classes) >= MOST_CLASSES:
            for oldest in _classes:
                _classes.pop(oldest, None)
                break
        cls = _classes.setdefault(key, cls)
    return cls


def members_of(kind: type) -> dict[str, Any]:
    """By name: the members of a type, those of `object` left out."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base is not object:
            found.update(vars(base))
    return found


def _generate(
    kind: type, release: str | None, over: frozenset[str], slow: bool, rare: frozenset[str]
) -> type[Proxy]:
    body: dict[str, Any] = {"__slots__": (), "__doc__": kind.__doc__, "__module__": kind.__module__}
    members = members_of(kind)
    for name, value in members.items():
        if name in NOT_MADE or name in COPIES or name in ADDRESSES:
            continue
        body[name] = _member(kind, name, value, slow or name in rare)
    if "__exit__" in body:
        body["__exit__"] = _leaving(kind, release, over)
    if "__aexit__" in body:
        body["__aexit__"] = _leaving_later(kind, release, over)
    for name in over:
        later = name == "__aexit__" or inspect.iscoroutinefunction(getattr(kind, name, None))
        body[name] = ends_later(name) if later else ends(name)
    if release is not None and release not in over:
        body[release] = closing(release)
    body.update(dict.fromkeys(COPIES, not_copied))
    body.update(
        __class__=property(lambda self: kind),
        __delattr__=_delattr,
        __dir__=_dir,
        __eq__=_eq,
        __getattr__=_getattr,
        __hash__=None if kind.__hash__ is None else _hash,
        __ne__=_ne,
        __repr__=_repr,
        __setattr__=_setattr,
    )
    if kind.__dictoffset__ or "__dict__" in members:
        body["__dict__"] = property(_dict)
    buffer = "__buffer__" in members and sys.version_info >= (3, 12)
    if buffer:
        body["__buffer__"] = _buffer
    if any(name in members for name in ("__array_interface__", "__array_struct__")):
        body["__array__"] = array
    for name, value in body.items():
        if isinstance(value, FunctionType) and name in members:
            _dress(value, members[name], kind)
    like: Callable[..., Any] = type(Proxy)
    made = like(f"{kind.__name__}Proxy", (Proxy,), body)
    made.__qualname__ = made.__name__
    return made  # type: ignore[no-any-return]


def _leaving(kind: type, release: str | None, over: frozenset[str]) -> Any:
    """What leaving a block with an object of the type does, where that was not said.

    A method in Python tells by what it calls. Of one in C only its type tells: files and containers have a
    `close` and end there, connections have a `commit` as well and do that.
    """
    leave = getattr(kind, "__exit__", None)
    if release is None or over:
        return leaves
    if isinstance(leave, FunctionType):
        names = set(leave.__code__.co_names)
        if release not in names:
            return leaves
        others = names - {release}
        if all(hasattr(kind, name) and not callable(getattr(kind, name)) for name in others):
            return closing("__exit__")
        return ends("__exit__")
    return leaves if hasattr(kind, "closed") or hasattr(kind, "commit") else ends("__exit__")


def _leaving_later(kind: type, release: str | None, over: frozenset[str]) -> Any:
    """What leaving an ``async with`` block does, where that was not said: as `_leaving`."""
    leave = getattr(kind, "__aexit__", None)
    calls_it = isinstance(leave, FunctionType) and release in leave.__code__.co_names
    return ends_later("__aexit__") if calls_it and not over else leaves_later


def _member(kind: type, name: str, value: Any, general_way: bool) -> Any:
    """What stands for one member of the type."""
    if value is None:
        return None  # ``__iter__ = None``: the type says that it has none
    if name in UNARY:
        return _by_operator(name, UNARY[name], general_way)
    if name in BINARY:
        return _by_operator(name, BINARY[name], general_way)
    if name == "__setitem__":
        return lambda self, key, item: general(self, operator.setitem, (key, item), {})
    if name == "__array_function__":
        return array_function
    if name == "__pow__":
        return lambda self, *others: general(self, pow, others, {})
    if isinstance(value, type):
        return _with_name(calls.getter, name) if not general_way else _slow_getter(name)
    partial_method = isinstance(value, (functools.partialmethod, classmethod, staticmethod))
    if callable(value) or partial_method:
        if general_way:
            return _slow_method(name)
        arguments = _arguments(value)
        return _function(_with_code(OF_ARGUMENTS.get(len(arguments), calls.method), name, arguments))
    return _slow_getter(name) if general_way else _with_name(calls.getter, name)


OF_ARGUMENTS: dict[int, Any] = {1: calls.bare_method, 2: calls.method_of_one, 3: calls.method_of_two}
"""By the number of its arguments, the object itself among them: what a method is made of that always takes so
many. Nothing has to be made of them, neither a tuple nor a dict."""
OURS = frozenset(
    name for number, one in OF_ARGUMENTS.items() for name in ("self", *one.__code__.co_varnames[number:])
)
"""Variables of those, which no argument may be called as."""


def _arguments(value: Any) -> tuple[str, ...]:
    """The names of the arguments, the object's first, of a method that always takes the same number of them,
    and as many as one of `OF_ARGUMENTS`. Empty for every other."""
    if type(value) is FunctionType:
        code = value.__code__
        names = code.co_varnames[: code.co_argcount]
        takes_more = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
        if takes_more or code.co_kwonlyargcount or value.__defaults__ or OURS.intersection(names[1:]):
            return ()
        if code.co_argcount not in OF_ARGUMENTS:
            return ()
        return names
    return ("self",) if getattr(value, "__text_signature__", None) == "($self, /)" else ()


def _by_operator(name: str, operation: Any, general_way: bool) -> Any:
    if general_way:
        made: Any = lambda self, *others: general(self, operation, others, {})  # noqa: E731 - its name is set
    elif name in UNARY:
        made = calls.unary(operation)
    else:
        made = calls.binary(operation)
    made.__name__ = name
    return made


def _slow_method(name: str) -> Any:
    made: Any = lambda self, /, *args, **kwargs: general(self, name, args, kwargs)  # noqa: E731 - its name is set
    made.__name__ = name
    return made


def _slow_getter(name: str) -> Any:
    return property(lambda self: general(self, getattr, (name,), {}, rule=_rule_of(self, name)))


def _rule_of(self: Any, name: str) -> Any:
    names = self._lifecycle_node.names
    return (names[name],) if name in names else None


def _with_name(template: Any, name: str) -> property:
    return property(_function(_with_code(template, name)))


def _function(code: CodeType) -> FunctionType:
    return FunctionType(code, vars(calls), code.co_name)


def _with_code(template: Any, name: str, arguments: tuple[str, ...] = ()) -> CodeType:
    """The code of a template with `name` as the attribute that it asks the object for, and the names of its
    `arguments` where it is one of `OF_ARGUMENTS`."""
    code: CodeType = template.__code__
    facts: dict[str, Any] = {
        "co_varnames": code.co_varnames[:1] + arguments[1:] + code.co_varnames[max(1, len(arguments)) :],
        "co_names": tuple(name if one == ATTRIBUTE else one for one in code.co_names),
        "co_consts": tuple(_named(one, name) for one in code.co_consts),
        "co_name": name,
    }
    if sys.version_info >= (3, 11):
        facts["co_qualname"] = name
    return code.replace(**facts)


def _named(constant: Any, name: str) -> Any:
    if constant == ATTRIBUTE:
        return name
    return (name,) if constant == (ATTRIBUTE,) else constant


def _dress(function: FunctionType, original: Any, kind: type) -> None:
    """Docs and signature of the original."""
    original = original.__func__ if isinstance(original, (classmethod, staticmethod)) else original
    function.__doc__ = getattr(original, "__doc__", None)
    function.__qualname__ = getattr(original, "__qualname__", f"{kind.__qualname__}.{function.__name__}")
    if isinstance(original, FunctionType):
        function.__wrapped__ = original  # type: ignore[attr-defined]
        if sys.version_info >= (3, 12) and inspect.iscoroutinefunction(original):
            inspect.markcoroutinefunction(function)
    else:
        text = getattr(original, "__text_signature__", None)
        if text:
            function.__text_signature__ = text  # type: ignore[attr-defined]


# -- what every class has ------------------------------------------------------------------------------------


def _repr(self: Any) -> str:
    known = facts(self._lifecycle_handle)
    if is_light(self):
        kind = self.__class__
        return f"<proxy of a {kind.__module__}.{kind.__qualname__} of {known}: {known.fate}>"
    return f"<proxy of {known}: {known.fate}>"


def _hash(self: Any) -> int:
    try:
        return self._lifecycle_hash  # type: ignore[no-any-return]
    except AttributeError:
        number: int = general(self, hash, (), {})
        set_hash(self, number)
        return number


def _eq(self: Any, other: Any) -> Any:
    if self is other:
        return _same(self)
    return _compare(self, operator.eq, other, False)


def _ne(self: Any, other: Any) -> Any:
    if self is other and _by_identity(self):
        return False
    return _compare(self, operator.ne, other, self is not other)


def _by_identity(self: Any) -> bool:
    return self.__class__.__eq__ is object.__eq__


def _same(self: Any) -> Any:
    return True if _by_identity(self) else _compare(self, operator.eq, self, True)


def _compare(self: Any, operation: Any, other: Any, closed: bool) -> Any:
    """Compare the objects. A closed proxy is equal to itself alone: it can still be found in a collection."""
    if _by_identity(self) and not is_proxy(other):
        return stands_for(self, other) == (operation is operator.eq)
    try:
        return general(self, operation, (other,), {})
    except AccessRefusedError:
        return closed


def _getattr(self: Any, name: str) -> Any:
    node = self._lifecycle_node
    if name in ADDRESSES:
        raise AttributeError(
            f"{name} is not given out by a proxy: the address would be used past its door. Take a lease: "
            "`with handle_of(proxy).lease() as obj`",
            name=name,
            obj=self,
        )
    if name.startswith("__") and name.endswith("__") and is_shut(self):
        raise AttributeError(
            f"{self.__class__.__name__!r} object has no attribute {name!r}", name=name, obj=self
        )
    found = general(self, _attribute, (name,), {}, rule=(node.names[name],) if name in node.names else None)
    return GuardedMethod(self, name) if found is _A_METHOD else found


_A_METHOD = type("AMethod", (), {})
ROUTINES: frozenset[type[Any]] = frozenset(
    {
        FunctionType,
        type(len),
        type([].append),
        type("".__str__),
        type(_repr),
        functools.partial,
        type(_A_METHOD().__init__),
    }
)


def _attribute(obj: Any, name: str) -> Any:
    """An attribute that the type does not have. A routine that is not kept in the object was made for the
    asking, as by a ``__getattr__`` that passes on to another object: it is called through the proxy."""
    value = None
    try:
        value = getattr(obj, name)
        own = getattr(obj, "__dict__", None)
        kept = isinstance(own, dict) and name in own
        if not kept and (type(value) in ROUTINES or inspect.ismethod(value)):
            return _A_METHOD
        return value
    finally:
        obj = value = own = None


def _setattr(self: Any, name: str, value: Any) -> None:
    general(self, setattr, (name, value), {})


def _delattr(self: Any, name: str) -> None:
    general(self, delattr, (name,), {})


def _dir(self: Any) -> list[str]:
    try:
        return list(general(self, dir, (), {}))
    except AccessRefusedError:
        return dir(self.__class__)


def _dict(self: Any) -> dict[str, Any]:
    found: dict[str, Any] = general(self, _copy_of_dict, (), {})
    return found


def _copy_of_dict(obj: Any) -> dict[str, Any]:
    try:
        return dict(vars(obj))
    finally:
        obj = None


def _buffer(self: Any, flags: int) -> memoryview:
    return general(self, memoryview, (), {})  # type: ignore[no-any-return]
