"""What every public call asks of its arguments before it changes anything."""

from __future__ import annotations

import functools
import inspect
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


def is_control_flow(error: BaseException) -> bool:
    """Return True if `error` is not about the object at all: an interrupt, an exit, a cancellation."""
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


def check_facts(name: Any, size: Any) -> None:
    """Refuse a name that is no text and a size that is no number of bytes."""
    if name is not None and not isinstance(name, str):
        raise RegistrationError(f"name= is a text, not {shown(name)}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise RegistrationError(f"size= is a number of native bytes, 0 or more, not {shown(size)}")


def check_timeout(timeout: Any) -> None:
    """A timeout is None or a number of seconds, 0 or more."""
    if timeout is None or (
        isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 <= timeout < float("inf")
    ):
        return
    raise LifecycleError(f"timeout= takes seconds, 0 or more, or None for ever, not {shown(timeout)}")
