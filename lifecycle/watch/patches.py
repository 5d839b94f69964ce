"""Functions of a library that is not a class with a close: each is exchanged for one that does something
around the original, and leaves no trace in tracebacks (`unseen`)."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from lifecycle.watch import sites
from lifecycle.watch.journal import journal
from lifecycle.watch.unseen import Unseen, internal, unseen

Around = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""Called as ``around(original, args, more)``: it calls ``original(*args, **more)`` once, and returns what
that returns. What it does besides raises nothing."""


P = ParamSpec("P")
T = TypeVar("T")


def quiet(function: Callable[P, T]) -> Callable[P, T | None]:
    """What looks at a call, so that the program never fails of it (R9): an `Exception` in it is counted, and
    said at the end."""

    @functools.wraps(function)
    def call(*args: P.args, **more: P.kwargs) -> T | None:
        try:
            return function(*args, **more)
        except Exception:
            journal.unseen += 1
            return None

    return call


def _nothing(_: object, __: object = None) -> None:
    return None


def _failed(_: object, error: BaseException) -> None:
    """Take the entries of what is around the call off a traceback."""
    trace = error.__traceback__
    while trace is not None and sites.ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    error.__traceback__ = trace


def hidden(around: Around, original: Any) -> Any:
    """A callable that is called as `original` is, with `around` about it."""
    inner = internal(around)

    @internal
    def call(*args: Any, **more: Any) -> Any:
        return inner(original, args, more)

    made = unseen(_nothing, _nothing, _failed, call)
    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        made.__dict__[name] = getattr(original, name, None)
    made.__dict__["__wrapped__"] = original
    return made


class Patched:
    """In the place of a method."""

    original: Any
    around: Around
    bare: bool
    call: Any

    def __init__(self, original: Any, owner: type, name: str, around: Around) -> None:
        self.original, self.around = original, around
        kind = getattr(original, "is_method", None)
        self.bare = isinstance(original, staticmethod | classmethod) or (kind is not None and not kind())
        """True if it is called without an object, so bound to a class each time."""
        self.call = None if self.bare else hidden(around, getattr(owner, name))
        self.__doc__ = getattr(original, "__doc__", None)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if self.bare:
            return hidden(self.around, self.original.__get__(instance, owner))
        return self.call if instance is None else types.MethodType(self.call, instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


def patch(owner: Any, name: str, around: Around) -> bool:
    """Exchange the function `name` of a class or a module, where it has one. Exchanging twice is exchanging
    once. Returns False where there is none, or it cannot be exchanged."""
    if not isinstance(owner, type):
        original = getattr(owner, name, None)
        if original is None:
            return False
        if getattr(original, "func", None) is not Unseen:
            setattr(owner, name, hidden(around, original))
        return True
    for cls in owner.__mro__:
        if name in vars(cls):
            found = vars(cls)[name]
            if isinstance(found, Patched):
                return True
            try:
                setattr(owner, name, Patched(found, owner, name, around))
            except (TypeError, AttributeError):
                return False
            return True
    return False
