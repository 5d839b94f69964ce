"""What few registrations ask for, out of the way of all the others: releases that are no plain functions,
what is kept alive, how long to retry.

**Releases.** A bound method of the object itself would keep it alive and be given it twice: what is kept is
the function or the name behind it. What cannot work is refused at once, with the line to write instead, and
not as a failed release at the end. The same holds for ``alive=`` of observed objects.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType, WrapperDescriptorType
from typing import Any, NoReturn

from lifecycle._core.checks import cell_filled, check_callback, is_seconds, not_seconds
from lifecycle._core.dropped import DROPPED
from lifecycle._core.numbers import NO_IDENTITY
from lifecycle._core.record import Extra
from lifecycle.config import exception_types
from lifecycle.errors import RegistrationError, shown

ANY_OBJECT = object()
"""In place of the object, where releases are checked before there is one."""
NOTHING: Any = ()
"""The default of ``register(keep_alive=)``, known by its identity."""


def plan_release(release: Any, obj: Any) -> Callable[[Any], object]:
    """What is called as ``release(obj)``. Raises `RegistrationError` for what cannot work with one argument,
    or would keep the object alive by itself."""
    if release is DROPPED:
        if type(obj) in NO_IDENTITY:
            raise RegistrationError(
                f"release=DROPPED takes an object that frees its native in its own deallocation, not "
                f"{shown(obj)}: give a function that takes it"
            )
        return release  # type: ignore[no-any-return, unused-ignore]
    return plan_call(release, obj, "release")


def check_release(release: Any, obj: Any = ANY_OBJECT, what: str = "release") -> None:
    """Raise for a release, given as `what`, that cannot work, or would keep `obj` alive: a function that does
    not take one argument, a partial of the object, a class of exceptions. A method's name needs the
    object."""
    try:
        if release is not None and release is not DROPPED:
            plan_call(release, obj, what)
        elif release is not None:
            plan_release(release, obj)
    finally:
        obj = None


def plan_call(release: Any, obj: Any, what: str) -> Callable[[Any], object]:
    """As `plan_release`, for the function that is given as `what`, such as ``alive=``."""
    kind = type(release)
    if kind is MethodDescriptorType or kind is WrapperDescriptorType:  # list.clear
        return release  # type: ignore[no-any-return]
    if kind is str:
        return _by_name(release, obj, what)
    check_callback(release, what)
    if isinstance(release, type) and issubclass(release, BaseException):
        raise RegistrationError(
            f"{what}={release.__name__} is a class of exceptions: calling it would make one, and do nothing. "
            "Give the function that does it"
        )
    if obj is not ANY_OBJECT and obj is not None:
        if getattr_or_none(release, "__self__") is obj:
            return _own_method(release, obj, what)
        if kind is functools.partial:
            _check_partial(release, obj, what)
    check_arguments(release, what)
    return release  # type: ignore[no-any-return]


def getattr_or_none(thing: Any, name: str) -> Any:
    """An attribute, also of what answers no questions."""
    try:
        return getattr(thing, name, None)
    except Exception:
        return None


def _by_name(name: str, obj: Any, what: str) -> Callable[[Any], object]:
    if not name.isidentifier():
        raise RegistrationError(f"{what}= takes a function or the name of a method, not {name!r}")
    if obj is not ANY_OBJECT:
        method = getattr_or_none(type(obj), name) or getattr_or_none(obj, name)
        if not callable(method):
            known = sorted(
                each
                for each in dir(type(obj))
                if not each.startswith("_") and callable(getattr_or_none(type(obj), each))
            )
            few = ", ".join(known[:12])
            raise RegistrationError(
                f"{what}={name!r}: a {type(obj).__name__} has no method of that name"
                f"{f' (it has {few})' if few else ''}. Give the name of one, or a function that takes the "
                "object."
            )
        check_callback(method, f"{what}={name!r}:")
        check_arguments(method, what, bound=not isinstance(method, (FunctionType, MethodDescriptorType)))
    return operator.methodcaller(name)


def _own_method(release: Any, obj: Any, what: str) -> Callable[[Any], object]:
    """The same call without a reference to the object."""
    if type(release) is MethodType:
        check_arguments(release.__func__, what)
        return release.__func__
    name = release.__name__
    if not callable(getattr_or_none(type(obj), name)):
        raise RegistrationError(
            f"{what}={shown(release)} keeps the object itself alive: give a function that takes it, as "
            f"{what}=lambda obj: obj.{name}()"
        )
    return operator.methodcaller(name)


def _check_partial(release: functools.partial[Any], obj: Any, what: str) -> None:
    given = [*release.args, *release.keywords.values()]
    method = getattr_or_none(release.func, "__self__") is obj
    if not method and not any(each is obj for each in given):
        return
    name = getattr_or_none(release.func, "__name__") or "close"
    rest = [repr(each) for each in release.args if each is not obj]
    rest += [f"{key}={shown(value)}" for key, value in release.keywords.items() if value is not obj]
    call = f"obj.{name}({', '.join(rest)})" if method else f"{name}({', '.join(['obj', *rest])})"
    raise RegistrationError(
        f"{what}= is a functools.partial of the object itself, which it would keep alive, and it would be "
        f"given the object as well. Write {what}=lambda obj: {call}"
    )


def check_arguments(release: Any, what: str, bound: bool = False) -> None:
    """Refuse a function in Python, given as `what`, that cannot be called with one argument (a method: with
    none beside its object)."""
    fn: Any = release
    own = 0
    filled: set[str] = set()
    if type(fn) is functools.partial and not bound:  # one of a partial is one partial
        filled.update(fn.keywords)
        fn, own = fn.func, len(fn.args)
    if type(fn) is MethodType:
        fn, own = fn.__func__, own + 1
    elif type(fn) is not FunctionType:
        if isinstance(fn, (type, BuiltinFunctionType, functools.partial)):
            return  # what they take is not known here
        fn, own = getattr_or_none(type(fn), "__call__"), own + 1
    if type(fn) is not FunctionType:
        return
    code = fn.__code__
    given = own + (0 if bound and own else 1)
    most, least = code.co_argcount, code.co_argcount - len(fn.__defaults__ or ())
    names = code.co_varnames
    by_name = {*names[most : most + code.co_kwonlyargcount]} - {*(fn.__kwdefaults__ or ())}
    missing = {*names[given:least], *by_name} - filled
    fits = most >= given or code.co_flags & inspect.CO_VARARGS
    if fits and not missing and filled.isdisjoint(names[: min(given, most)]):
        return
    _refuse_arguments(release, what, most - own - len(filled), least - own - len(filled))


def _refuse_arguments(release: Any, what: str, takes: int, least: int) -> NoReturn:
    plain = release.func if type(release) is functools.partial else release
    name = getattr_or_none(plain, "__name__") or "close"
    if takes <= 0:
        how = "takes no argument"
        write = "lambda obj: ..." if name == "<lambda>" else f"lambda obj: {name}()"
    else:
        how = f"takes {least} arguments" if least > 1 else "takes arguments that must be named"
        write = f"lambda obj: {'f' if name == '<lambda>' else name}(obj, ...)"
    raise RegistrationError(
        f"{what}={shown(release)} {how}, but it is called with the object, as {what}(obj). Write "
        f"{what}={write}"
    )


def plan_question(alive: Any, obj: Any) -> Callable[[Any], object]:
    """What is called as ``alive(obj)`` of an observed object, as `plan_release`. A function that has the
    object in its closure or defaults is refused: it would keep the object alive, so its end would never be
    seen."""
    plan = plan_call(alive, obj, "alive")
    if type(plan) is FunctionType:
        cells = [cell.cell_contents for cell in plan.__closure__ or () if cell_filled(cell)]
        if any(each is obj for each in (*cells, *(plan.__defaults__ or ()))):
            raise RegistrationError(
                f"alive={shown(alive)} keeps the object itself alive, so its end would never be seen: use "
                "what it is given, as alive=lambda obj: ..."
            )
    return plan


def rare_facts(retry_on: Any, retry_for: Any, keep_alive: Any, extra: Extra | None = None) -> Extra:
    """The `Extra` of a registration that says how often to try, or what to keep; `extra` where it has one."""
    extra = extra or Extra()
    if retry_on:
        extra.retry_on = exception_types(retry_on, "register(retry_on=)")
    if retry_for is not None:
        if not is_seconds(retry_for):
            raise RegistrationError(
                f"register(retry_for=) takes seconds, 0 or more, or None for as long as there is time, "
                f"{not_seconds(retry_for)}"
            )
        extra.retry_for = float(retry_for)
    extra.keep_alive = keep_alive if type(keep_alive) is tuple else (keep_alive,)
    return extra
