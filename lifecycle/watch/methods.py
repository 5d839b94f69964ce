"""Classes that take other attributes: each method becomes a descriptor that gives the original.

``obj.method`` of an open object is what it was, a bound method of the original function: nothing is around
the call. Of a closed one it is a call that is looked at (`unseen`), and so is each call of a closing method
and of ``__init__``. ``Class.method`` is the original, but for the closing methods.
"""

from __future__ import annotations

import functools
import types
from types import FrameType
from typing import Any

from lifecycle.watch import sites
from lifecycle.watch.journal import frame_here, in_del, journal
from lifecycle.watch.unseen import INTERNAL, internal, unseen

SPECIAL = frozenset(
    f"__{name}__"
    for name in (
        *("enter", "aenter", "iter", "next", "aiter", "anext", "getitem", "setitem", "delitem", "contains"),
        *("call", "len"),
    )
)
"""The special methods that count as a use."""
ALSO_CLOSE = frozenset({"detach", "__exit__"})
"""What closes as well: a socket's or a file's `detach` gives it to somebody else. ``__exit__`` where it is
made in C, and so closes without calling the closing method."""
NO_CLOSE_AT_EXIT = frozenset({"sqlite3.Connection"})
"""Whose ``with`` block does not close."""
FREED_BY_THEMSELVES: set[str] = set()
"""Classes whose objects nobody has to close: they go with their context, or by themselves."""

_FUNCTIONS = (types.FunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
_ATTRIBUTES = (property, types.GetSetDescriptorType)


class Watching:
    """A class under watch."""

    cls: type
    name: str
    closers: set[str]
    package: str

    def __init__(self, cls: type, name: str, closers: set[str], package: str) -> None:
        self.cls, self.name, self.closers, self.package = cls, name, closers, package


class _Method:
    """In the place of a method."""

    def __init__(self, watching: Watching, name: str, original: Any, owner: type) -> None:
        self.watching, self.name, self.original = watching, name, original
        self.shown = f"{name}()"
        self.bind = type(original).__get__
        self.owner = owner
        self.__doc__ = getattr(original, "__doc__", None)
        closes = name in watching.closers or name in ALSO_CLOSE
        watched = (_before, _closed, _close_failed) if closes else (_before, _came_back, _raised)
        functions = [functools.partial(one, self) for one in watched]
        self.closes = closes
        self.looked_at = unseen(functions[0], functions[1], functions[2], original)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self.looked_at if self.closes else self.bind(self.original, None, owner)
        if self.closes:
            return types.MethodType(self.looked_at, instance)
        seen = journal.seen.get(id(instance))
        if seen is not None and seen.closed:
            return types.MethodType(self.looked_at, instance)
        return self.bind(self.original, instance, owner)

    def __getattr__(self, name: str) -> Any:
        # Of what looks into a class's `__dict__` for a function.
        return getattr(self.original, name)


class _Attribute:
    """In the place of an attribute that is read by code: a use as well, of an object that is closed."""

    def __init__(self, watching: Watching, name: str, original: Any) -> None:
        self.watching, self.name, self.original = watching, name, original
        self.shown, self.closes = name, False
        self.__doc__ = getattr(original, "__doc__", None)
        functions = [functools.partial(one, self) for one in (_before, _came_back, _raised)]
        self.looked_at = unseen(functions[0], functions[1], functions[2], original.__get__)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self.original.__get__(None, owner)
        seen = journal.seen.get(id(instance))
        # `_before` and the others are given the first argument: the object.
        return (
            self.looked_at(instance) if seen is not None and seen.closed else self.original.__get__(instance)
        )

    def __set__(self, instance: Any, value: Any) -> None:
        self.original.__set__(instance, value)

    def __delete__(self, instance: Any) -> None:
        self.original.__delete__(instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


class _Init:
    """In the place of ``__init__``."""

    def __init__(self, watching: Watching, original: Any) -> None:
        self.watching, self.original = watching, original
        self.__doc__ = original.__doc__
        functions = [functools.partial(one, self) for one in (_nothing, _made, _not_made)]
        self.looked_at = unseen(functions[0], functions[1], functions[2], original)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self.looked_at
        return types.MethodType(self.looked_at, instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


# -- around a call: none of these may raise ------------------------------------------------------------------


def _nothing(init: _Init, instance: Any) -> None:
    return None


def _made(init: _Init, instance: Any, token: Any) -> None:
    try:
        watching = init.watching
        cover(type(instance), watching)
        # This function, `Unseen`, and whoever made the object.
        frame = frame_here(2)
        while frame is not None and frame.f_code.co_filename == INTERNAL:
            frame = frame.f_back
        if frame is not None and sites.ours(frame.f_code.co_filename):
            return
        seen = journal.enter(instance, watching.name, sites.user(frame, watching.package), False)
        if seen is not None and watching.name in FREED_BY_THEMSELVES:
            seen.told = True
    except Exception:
        return


def _not_made(init: _Init, instance: Any, error: BaseException) -> None:
    journal.seen.pop(id(instance), None)
    trace = error.__traceback__
    if trace is not None and trace.tb_frame.f_code.co_filename == INTERNAL:
        # The entry of `_next_init`.
        error.__traceback__ = trace.tb_next


def _before(method: _Method | _Attribute, instance: Any) -> Any:
    try:
        seen = journal.seen.get(id(instance))
        if seen is not None and method.closes and not seen.closed and not seen.closing:
            frame = frame_here(2)
            journal.closing(seen, method.shown, frame, sites.user(frame, method.watching.package))
        elif seen is not None and seen.closed and not method.closes:
            frame = frame_here(2)
            if frame is None or frame.f_code.co_filename.startswith(method.watching.package or "\0"):
                return None
            journal.about_to(seen, method.shown, sites.user(frame, method.watching.package))
    except Exception:
        return None
    return None


def _came_back(method: _Method | _Attribute, instance: Any, token: Any) -> None:
    seen = journal.seen.get(id(instance))
    if seen is not None and seen.closed:
        journal.came_back(seen)


def _raised(method: _Method | _Attribute, instance: Any, error: BaseException) -> None:
    try:
        seen = journal.seen.get(id(instance))
        frame = frame_here(2)
        if seen is None or not seen.closed or frame is None:
            return
        if method.watching.package and frame.f_code.co_filename.startswith(method.watching.package):
            return
        if isinstance(error, StopIteration | StopAsyncIteration | KeyboardInterrupt | SystemExit):
            return
        user = sites.user(frame, method.watching.package)
        while frame is not None and frame is not user:
            if frame.f_code.co_filename == INTERNAL and frame.f_locals.get("self") is instance:
                # The method that the user called tells of it.
                return
            frame = frame.f_back
        site = sites.site(user)
        journal.used_after(seen, method.shown, site, type(error).__name__)
    except Exception:
        return


def _closed(method: _Method, instance: Any, token: Any) -> None:
    _close_over(method, instance, frame_here(2))


def _close_over(method: _Method, instance: Any, frame: FrameType | None) -> None:
    try:
        seen = journal.seen.get(id(instance))
        user = sites.user(frame, method.watching.package)
        if seen is None:
            if frame is None or sites.ours(frame.f_code.co_filename) or in_del(frame):
                # Of an object whose `__init__` has raised this is the first that is heard.
                return
            seen = journal.enter(instance, method.watching.name, user, True)
            if seen is None:
                return
        if seen.closed and method.name != "close" and method.name not in method.watching.closers:
            return
        if frame is not None and frame.f_code.co_name == "__exit__" and seen.closed:
            # `close` in a block that closes: what everybody writes.
            return
        journal.close(seen, sites.site(user), frame)
    except Exception:
        return


def _close_failed(method: _Method, instance: Any, error: BaseException) -> None:
    # It was asked for: an object whose close raised is not one that was forgotten.
    _close_over(method, instance, frame_here(2))


# -- exchanging ----------------------------------------------------------------------------------------------

_covered: dict[type, Watching] = {}


def exchange(watching: Watching) -> str:
    """Watch a class. Returns why that cannot be done, empty where it was."""
    cls = watching.cls
    if cls.__weakrefoffset__ == 0:
        return "its objects take no weak references"
    try:
        # What does not take this takes nothing.
        setattr(cls, "_lifecycle_", None)  # noqa: B010 - a class is no place for a name that mypy knows
        delattr(cls, "_lifecycle_")
    except (TypeError, AttributeError):
        return "it is immutable"
    _covered[cls] = watching
    found: Any = cls
    init, new = found.__init__, found.__new__
    if init is not object.__init__:
        found.__init__ = _Init(watching, init)
    elif new is not object.__new__:
        # The original one refuses arguments where the class has another `__init__` than its own.
        found.__init__ = _Init(watching, _next_init(cls))
    for name in dir(cls):
        _exchange(cls, name, watching)
    return ""


def _next_init(cls: Any) -> Any:
    """The ``__init__`` that follows that of a class which has none: it may be that of another base."""

    @internal
    def __init__(self: Any, /, *args: Any, **more: Any) -> None:
        following = super(cls, self).__init__
        if getattr(following, "__objclass__", None) is not object:
            following(*args, **more)

    __init__.__doc__ = object.__init__.__doc__
    return __init__


def _exchange(cls: type, name: str, watching: Watching) -> None:
    special = name.startswith("__") and name.endswith("__")
    if special and name not in SPECIAL and name != "__exit__":
        return
    for owner in cls.__mro__:
        if name in vars(owner):
            break
    else:
        return
    original = vars(owner)[name]
    if not special and isinstance(original, _ATTRIBUTES):
        setattr(cls, name, _Attribute(watching, name, original))
        return
    if owner is object or not isinstance(original, _FUNCTIONS):
        return
    if name == "__exit__" and (isinstance(original, types.FunctionType) or watching.name in NO_CLOSE_AT_EXIT):
        return
    setattr(cls, name, _Method(watching, name, original, owner))


def cover(cls: type, watching: Watching) -> None:
    """Watch the closing methods of a subclass that has its own, at its first object."""
    if cls in _covered:
        return
    _covered[cls] = watching
    for name in watching.closers:
        for owner in cls.__mro__:
            if owner in (watching.cls, object):
                break
            original = vars(owner).get(name)
            if isinstance(original, types.FunctionType):
                setattr(owner, name, _Method(watching, name, original, owner))
