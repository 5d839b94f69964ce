"""Functions that C calls, made so that nothing they do can harm the caller.

An exception cannot pass through C: `ctypes` prints it and returns whatever lies in memory. Here it is counted
and reported, and C gets the value that says «failed». A bound method is kept weakly: an object that is called
back by its own native would live for ever otherwise.
"""

from __future__ import annotations

import _thread
import ctypes
import functools
import operator
import signal
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.checks import DEFERRED, check_callback, refuse_deferred
from lifecycle.config import exception_types
from lifecycle.errors import RegistrationError, shown

TYPE_NAME = "callback"
FUNCTION: type = ctypes._CFuncPtr  # type: ignore[attr-defined]


class Callback:
    """What C calls in the end."""

    __slots__ = ("_errors", "_fn", "_name", "_on_error", "_report", "_result")

    def __init__(
        self,
        fn: Callable[..., Any],
        result: Any,
        errors: tuple[type[BaseException], ...],
        on_error: Any,
        report: Callable[..., object],
    ) -> None:
        self._name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
        self._fn: Callable[[], Any] = weakref.WeakMethod(fn) if type(fn) is MethodType else lambda: fn
        self._result = result
        self._errors = errors
        self._on_error = on_error
        self._report = report

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns, or `on_error`. Raises nothing."""
        fn = None
        try:
            fn = self._fn()
            if fn is None:
                return self._on_error
            value = fn(*arguments)
            if type(value) in DEFERRED:
                refuse_deferred(value, f"callback {self._name}")
            if self._result is not None:
                self._result(value)  # what C cannot be given is told here, where it can be
            return value
        except BaseException as error:
            try:
                behind = self._contain(error)
            except BaseException:  # Ctrl-C in there
                behind = _interrupt_behind()  # noqa: F841
            return self._on_error
        finally:
            fn = None
            arguments = ()

    def _contain(self, error: BaseException) -> object:
        if isinstance(error, KeyboardInterrupt) and runtime.on_main_thread():
            return _interrupt_behind()
        self._report(f"callback {self._name}", error, type_name=TYPE_NAME, errors=self._errors)
        return None


class _Bell(weakref.ref[Any]):
    """Its callback calls `strike`, in C."""

    __slots__ = ("strike",)
    strike: Callable[[], object]


class _Behind:
    """What interrupts the main thread as it goes."""

    __slots__ = ("__weakref__", "bell")
    bell: _Bell


def _interrupt_behind() -> object:
    """Ctrl-C again once the frame that holds the result has gone: called in there it would be raised there,
    on its way to C, where it is printed and lost."""
    behind = _Behind()
    bell = _Bell(behind, operator.methodcaller("strike"))
    bell.strike = functools.partial(_thread.interrupt_main, signal.SIGINT)
    behind.bell = bell
    return behind


def _checker(result: Any) -> Any:
    """What raises for a value that cannot be given to C as `result`; None where all may be."""
    if result is None or not isinstance(result, type) or issubclass(result, ctypes.py_object):
        return None
    if not issubclass(result, ctypes._SimpleCData) or getattr(result, "_type_", "") not in WHOLE:
        return result
    bits = 8 * ctypes.sizeof(result)
    least, above = -1 << (bits - 1), 1 << bits

    def check(value: Any) -> None:
        result(value)
        # ctypes cuts off what is too large. A negative one is the usual way to write all bits.
        if type(value) is int and not least <= value < above:
            raise OverflowError(f"{value} does not fit into {result.__name__}")

    return check


WHOLE = frozenset("bBhHiIlLqQP")
"""The types of whole numbers and addresses, as ctypes calls them."""


def make_callback(
    fn: Callable[..., Any], ctype: Any, errors: Any, on_error: Any, report: Callable[..., object]
) -> Any:
    """What `SafetyManager.callback` returns."""
    check_callback(fn, "callback")
    if not (isinstance(ctype, type) and issubclass(ctype, FUNCTION)):
        raise RegistrationError(
            "callback() takes a type of C functions, as ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p), "
            f"not {shown(ctype)}"
        )
    result = ctype._restype_  # type: ignore[attr-defined]
    checker = _checker(result)
    if checker is not None:
        try:
            checker(on_error)
        except (TypeError, ValueError, OverflowError) as error:
            raise RegistrationError(
                f"callback(on_error={shown(on_error)}) cannot be given to C as {result.__name__}: {error}"
            ) from None
    make: Callable[[Any], Any] = ctype
    return make(Callback(fn, checker, exception_types(errors, "callback(errors=)"), on_error, report))
