"""Immutable classes, by `sys.monitoring` of CPython 3.12: each call of one of their methods from Python code
is seen, and nothing of them is touched.

Not seen: ``with`` entry and a block that ends in an exception, ``for``, ``x[i]``, attributes, and calls from
C (`map`, `functools.partial`). So an object that was never seen to be closed is a risk, not a mistake.

A callback's exception would be raised in the program, so everything is caught, and no object of the program
is compared or hashed: ``type(fn)`` is looked at first.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from lifecycle.watch import sites
from lifecycle.watch.journal import frame_here, journal
from lifecycle.watch.methods import NO_CLOSE_AT_EXIT, Watching

_classes: dict[type, Watching] = {}
_names: set[str] = set()
_tool = -1
_DISABLE: Any = None


def watch_calls(watching: Watching) -> str:
    """Watch a class. Returns why that cannot be done, empty where it was."""
    global _tool, _DISABLE
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:
        return "it is immutable, which needs Python 3.12"
    if watching.cls.__weakrefoffset__ == 0:
        return "its objects take no weak references"
    if _tool < 0:
        _DISABLE = monitoring.DISABLE
        for number in (4, 3, 1):
            if monitoring.get_tool(number) is None:
                monitoring.use_tool_id(number, "lifecycle")
                break
        else:
            return "it is immutable, and other tools have all that sys.monitoring can give"
        _tool = number
        events = monitoring.events
        monitoring.register_callback(number, events.CALL, _call)
        monitoring.register_callback(number, events.C_RETURN, _returned)
        monitoring.register_callback(number, events.C_RAISE, _raised)
        monitoring.set_events(number, events.CALL)
    _classes[watching.cls] = watching
    _names.update(name for name in dir(watching.cls) if not name.startswith("__"))
    _names.update(watching.closers)
    if watching.name not in NO_CLOSE_AT_EXIT:
        _names.add("__exit__")
    # Sites that were left out so far may call one of these.
    monitoring.restart_events()
    return ""


def _what(function: Any, first: Any) -> tuple[str, Any] | None:
    """The method's name and its object, None where it is another's."""
    kind = type(function)
    if kind is types.MethodDescriptorType:
        return function.__name__, first
    if kind is types.BuiltinFunctionType:
        return function.__name__, function.__self__
    return None


def _watching(instance: Any) -> Watching | None:
    for cls in type(instance).__mro__:
        found = _classes.get(cls)
        if found is not None:
            return found
    return None


def _call(code: Any, offset: int, function: Any, first: Any) -> Any:
    try:
        what = _what(function, first)
        if what is None or what[0] not in _names:
            return _DISABLE
        watching = _watching(what[1])
        if watching is None:
            return None
        seen = journal.seen.get(id(what[1]))
        frame = frame_here(1)
        if seen is None:
            if sites.ours(code.co_filename):
                return None
            seen = journal.enter(what[1], watching.name, sites.user(frame, watching.package), True)
            if seen is None:
                return None
            seen.certain = False
        closes = what[0] in watching.closers or what[0] == "__exit__"
        if closes and not seen.closed and not seen.closing:
            journal.closing(seen, f"{what[0]}()", frame, sites.user(frame, watching.package))
        elif seen.closed and what[0] not in watching.closers:
            journal.about_to(seen, f"{what[0]}()", sites.user(frame, watching.package))
    except Exception:
        return None
    return None


def _over(function: Any, first: Any, raised: bool) -> None:
    try:
        what = _what(function, first)
        if what is None or what[0] not in _names:
            return
        watching = _watching(what[1])
        seen = None if watching is None else journal.seen.get(id(what[1]))
        if watching is None or seen is None:
            return
        frame = frame_here(2)
        site = sites.site(sites.user(frame, watching.package))
        if what[0] in watching.closers or what[0] == "__exit__":
            if what[0] != "__exit__" or not seen.closed:
                journal.close(seen, site, frame)
        elif seen.closed and not raised:
            journal.came_back(seen)
        elif seen.closed:
            journal.used_after(seen, f"{what[0]}()", site, "an exception")
    except Exception:
        return


def _returned(code: Any, offset: int, function: Any, first: Any) -> Any:
    _over(function, first, False)


def _raised(code: Any, offset: int, function: Any, first: Any) -> Any:
    _over(function, first, True)
