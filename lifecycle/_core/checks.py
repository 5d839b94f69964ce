"""What every public call asks of its arguments before it changes anything."""

from __future__ import annotations

import builtins
import functools
import inspect
import operator
import sys
from types import AsyncGeneratorType, CellType, CodeType, CoroutineType, GeneratorType
from typing import Any, NoReturn

from lifecycle.errors import CallbackError, LifecycleError, RegistrationError, shown

DEFERRED_BODY = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


DEFERRED = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType})
"""What a function returns instead of running its body."""


def refuse_deferred(
    result: Any, who: str, but: str = "nothing was done, since its body has not run; give a plain function"
) -> NoReturn:
    """`who` returned one of `DEFERRED`. Raises `CallbackError`, and no warning of a coroutine that was never
    awaited follows."""
    raise deferred_error(result, who, but)


def deferred_error(result: Any, who: str, but: str) -> CallbackError:
    """What `refuse_deferred` raises."""
    close = getattr(result, "close", None)
    if close is not None:
        close()
    return CallbackError(f"{who} returned a {type(result).__name__}: {but}")


def check_callback(fn: Any, what: str) -> None:
    """Refuse what is not a plain callable: the body of a coroutine or generator function would run at another
    time."""
    if not callable(fn):
        raise RegistrationError(f"{what} must be callable, not {shown(fn)}")
    plain = fn
    while isinstance(plain, functools.partial):
        plain = plain.func
    code = _code_of(plain) or _code_of(type(plain).__call__)
    if code is not None and code.co_flags & DEFERRED_BODY:
        raise CallbackError(
            f"{what} {shown(fn)} is a coroutine or generator function: its body would not run when it is "
            "called; give a plain function"
        )


def _code_of(fn: Any) -> CodeType | None:
    """The code of a function or method; None where there is none, or what is called answers no questions."""
    try:
        code = getattr(fn, "__code__", None)
    except Exception:
        return None
    return code if isinstance(code, CodeType) else None


def cell_filled(cell: CellType) -> bool:
    """Return True if the variable of a closure has a value."""
    try:
        cell.cell_contents  # noqa: B018 - the access is the question
    except ValueError:
        return False
    return True


def refuses(answer: Any) -> bool:
    """Return True if the `answer` of a validator, a ``check=`` or a ``reset=`` is a no: what is false, of
    whatever type, and not None, which is no answer. NumPy's False is one. Raises what asking for its truth
    raises."""
    return answer is not None and not answer


def leaves_of(error: BaseException) -> list[BaseException]:
    """What is in a group of exceptions, and in groups within it: task groups raise one also of a single
    exception. `error` itself where it is none."""
    where = builtins if sys.version_info >= (3, 11) else sys.modules.get("exceptiongroup")
    group = getattr(where, "BaseExceptionGroup", None)
    if group not in type(error).__mro__:
        return [error]
    return [leaf for one in error.exceptions for leaf in leaves_of(one)]  # type: ignore[attr-defined]


def is_control_flow(error: BaseException) -> bool:
    """Return True if `error` is not about the object at all: an interrupt, an exit, a cancellation, or a
    group of nothing else."""
    return all(map(_is_control_flow, leaves_of(error)))


def _is_control_flow(error: BaseException) -> bool:
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        return True
    for module, name in (("asyncio", "CancelledError"), ("trio", "Cancelled")):
        cancelled = getattr(sys.modules.get(module), name, None)
        if isinstance(cancelled, type) and isinstance(error, cancelled):
            return True
    return False


NO_BYTES = 0
"""What `size` is when it was not given: by identity, since what is merely equal to it may be False or None's
kin."""


def whole(value: Any) -> int | None:
    """`value` as an int: also one of NumPy, as ``numpy.prod`` of a shape gives it. None for what is no whole
    number: a bool, a float, a text."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        return None
    try:
        return int(operator.index(value))
    except Exception:
        return None


MOST_SECONDS = sys.float_info.max
"""What no time is longer than: whoever adds it to a clock gets a float."""


def is_seconds(value: Any) -> bool:
    """Return True for a number of seconds, 0 or more, that can be added to a clock."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MOST_SECONDS


def not_seconds(value: Any) -> str:
    """What an error says of a value that is no time."""
    other = not isinstance(value, (int, float, str)) and hasattr(type(value), "__float__")
    return f"not {shown(value)}{': write float(...)' if other else ''}"


def check_facts(name: Any, size: Any) -> int:
    """Refuse a name that is no text and a size that is no number of bytes. Returns the size as an int."""
    if name is not None and not isinstance(name, str):
        raise RegistrationError(f"name= is a text, not {shown(name)}")
    number = whole(size)
    if number is None or number < 0:
        raise RegistrationError(f"size= is a number of native bytes, 0 or more, not {shown(size)}")
    return number


def check_timeout(timeout: Any) -> None:
    """A timeout is None or a number of seconds, 0 or more."""
    if timeout is not None and not is_seconds(timeout):
        raise LifecycleError(f"timeout= takes seconds, 0 or more, or None for ever, {not_seconds(timeout)}")
