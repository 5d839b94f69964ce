"""A call that something is done around, without a trace of it in the program's tracebacks.

**The problem.** A wrapper written in Python stands in the traceback of each exception that passes through it,
and in the way of ``warnings.warn(stacklevel=2)``.

**The idea.** The call is made by `Unseen.__new__`, which gives back its result. An exception is caught there,
loses the wrapper's entry, and is raised again by C: a finished generator's ``throw`` has no frame. What leads
there is C as well: `type.__call__` finds an instance and initialises it; ``__init__`` is ``str.format``,
which takes any arguments, and asks for a ``repr`` that raises. The wrapper's file name is one that `warnings`
counts as internal, so that it skips the frame.

Checked on CPython 3.10 to 3.14, with and without the GIL (tests/watch/test_unseen.py).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

INTERNAL = "<frozen importlib._bootstrap> lifecycle"
"""A file name whose frames `warnings` skips: it has «importlib» and «_bootstrap» in it."""


def _finished() -> Iterator[None]:
    yield


def _make_raise() -> Callable[[BaseException], Any]:
    generator: Any = _finished()
    list(generator)
    raiser: Callable[[BaseException], Any] = generator.throw
    return raiser


_raise = _make_raise()


class _Raises:
    __slots__ = ("error",)
    error: BaseException | None

    @property
    def __repr__(self) -> Any:
        error: Any
        error, self.error = self.error, None
        return functools.partial(_raise, error)


def _new(
    cls: type[Unseen],
    before: Any,
    after: Any,
    failed: Any,
    original: Any,
    /,
    *args: Any,
    **more: Any,
) -> Any:
    made: Any = None
    self = args[0] if args else None
    try:
        token = before(self)
        result = original(*args, **more)
        after(self, token)
        return result
    except BaseException as error:
        trace = error.__traceback__
        error.__traceback__ = None if trace is None else trace.tb_next
        failed(self, error)
        made = object.__new__(cls)
        made.error = error
        return made
    finally:
        self = args = more = made = None  # type: ignore[assignment]  # K3


def internal(function: Any) -> Any:
    """`function` again, from a file that `warnings` skips."""
    code: CodeType = function.__code__.replace(co_filename=INTERNAL)
    return FunctionType(code, function.__globals__, function.__name__, None, function.__closure__)


class Unseen:
    """``Unseen(before, after, failed, original, *args, **more)`` is ``original(*args, **more)``.

    `self` is the first of the arguments. `before(self)` is called first, and `after(self, token)` with its
    result behind a call that returned; `failed(self, error)` behind one that raised. None of the three may
    raise.
    """

    __slots__ = ("error",)
    error: BaseException | None

    __new__: Any = staticmethod(internal(_new))

    @property
    def __init__(self) -> Any:  # type: ignore[misc]
        raises = _Raises()
        raises.error, self.error = self.error, None
        return functools.partial("{__lifecycle!r}".format, __lifecycle=raises)


def unseen(before: Any, after: Any, failed: Any, original: Any) -> Any:
    """A callable that is called as `original` is, with the three around it, and says of itself what
    `original` does."""
    made = functools.partial(Unseen, before, after, failed, original)
    functools.update_wrapper(made, original)
    for name in ("__code__", "__defaults__", "__kwdefaults__", "__globals__", "__text_signature__"):
        value = getattr(original, name, sys)
        if value is not sys:
            made.__dict__[name] = value
    return made
