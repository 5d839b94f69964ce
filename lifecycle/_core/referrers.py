"""Who refers to a Python object, in words: frames by line, closures, tracebacks, containers, attributes,
globals.

For reports, so it may be slow: it looks through the whole heap. The collector knows every container that
refers to something, but not the running frames, whose locals are asked instead: of every thread with the GIL,
of the asking one without it (the others go on running meanwhile). Nothing that was found is kept alive by
having been looked for.
"""

from __future__ import annotations

import gc
import inspect
import os
import sys
from collections import deque
from collections.abc import Iterator
from types import (
    AsyncGeneratorType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
    TracebackType,
)
from typing import Any

from lifecycle._core import runtime

DEPTH = 3
"""How many containers are looked through for a referrer that can be named."""
MOST = 8
"""How many referrers are named."""
REACH = 20_000
"""How many objects are looked through for a way from one object to another."""

_OURS = os.path.dirname(__file__) + os.sep


def named_referrers(target: object, skip: frozenset[int] = frozenset()) -> tuple[str, ...]:
    """Who refers to `target`, at most `MOST` of them; the library's own frames are left out, and those in
    `skip` (identities)."""
    try:
        names: dict[str, None] = {}
        for name in _running(target):
            names[name] = None
        for name in _globals(target):
            names[name] = None
        _add_names(target, names, DEPTH, set(skip))
        return tuple(names)[:MOST]
    finally:
        target = None


def _globals(target: object) -> Iterator[str]:
    """The modules that have `target` as a global: the collector does not know them all (3.13 without the
    GIL)."""
    for module_name, module in runtime.snapshot(sys.modules.items()):
        values = getattr(module, "__dict__", None)
        if isinstance(values, dict):
            for name, value in runtime.snapshot(values.items()):
                if value is target:
                    yield f"global {name!r} of module {module_name!r}"
    values = value = target = None


def _running(target: object) -> Iterator[str]:
    """The running frames that have `target` in a local variable."""
    me = runtime.get_ident()
    threads = {thread.ident: thread.name for thread in runtime.running_threads()}
    for ident, innermost in sys._current_frames().items():
        if runtime.free_threaded and ident != me:
            continue
        above: FrameType | None = None
        frame: FrameType | None = innermost
        on = "" if ident == me else f" on thread {threads.get(ident, ident)!r}"
        while frame is not None:
            if frame.f_code.co_flags & inspect.CO_OPTIMIZED and not frame.f_code.co_filename.startswith(
                _OURS
            ):
                for name in _locals_that_are(frame, above, target):
                    yield f"{name} of {_line(frame)}{on}"
            above, frame = frame, frame.f_back
    above = frame = innermost = None  # type: ignore[assignment]
    target = None


def _locals_that_are(frame: FrameType, above: FrameType | None, target: object) -> list[str]:
    stays = runtime.copy_stays(frame, above)
    values = frame.f_locals
    try:
        found = [f"local {name!r}" for name, value in list(values.items()) if value is target]
        for name, value in list(values.items()):
            if type(value) is MethodType and value.__self__ is target:
                found.append(f"local {name!r}")
        return found
    finally:
        if not stays:
            values.clear()
        values = value = target = None  # type: ignore[assignment]


def _line(frame: FrameType) -> str:
    code = frame.f_code
    name = getattr(code, "co_qualname", code.co_name)
    return f"{name}() at {os.path.basename(code.co_filename)}:{frame.f_lineno}"


def _add_names(target: object, names: dict[str, None], depth: int, skip: set[int]) -> None:
    """Name what the collector knows to refer to `target`; containers are followed to who holds them."""
    referrers = gc.get_referrers(target)
    skip.add(id(referrers))
    try:
        for referrer in referrers:
            if len(names) >= MOST:
                return
            if id(referrer) in skip or _is_ours(referrer):
                continue
            skip.add(id(referrer))
            name = _name(referrer, target)
            if name:
                names[name] = None
            elif depth > 1:
                before = len(names)
                _add_names(referrer, names, depth - 1, skip)
                if len(names) == before and not isinstance(referrer, FrameType):
                    for running in _running(referrer):
                        names[f"{_container(referrer)} in {running}"] = None
                if len(names) == before:
                    for held in _globals(referrer):
                        names[held] = None
                if len(names) == before:
                    names[_container(referrer)] = None
            else:
                names[_container(referrer)] = None
    finally:
        referrers.clear()
        referrer = target = None


def _is_ours(referrer: object) -> bool:
    if isinstance(referrer, FrameType):
        return referrer.f_code.co_filename.startswith(_OURS)
    return False


def _name(referrer: Any, target: object) -> str:
    """The name of a referrer; empty for a container, whose own holders say more."""
    if isinstance(referrer, FrameType):
        kept = any(isinstance(each, TracebackType) for each in gc.get_referrers(referrer))
        return f"{'a kept traceback through' if kept else 'the suspended'} {_line(referrer)}"
    if isinstance(referrer, (GeneratorType, CoroutineType, AsyncGeneratorType)):
        frame = (
            getattr(referrer, "gi_frame", None)
            or getattr(referrer, "cr_frame", None)
            or getattr(referrer, "ag_frame", None)
        )
        return f"the suspended {_line(frame)}" if frame is not None else f"a {type(referrer).__name__}"
    if isinstance(referrer, CellType):
        return _closure(referrer)
    if isinstance(referrer, FunctionType):
        return f"function {referrer.__qualname__}()"
    if isinstance(referrer, TracebackType):
        return f"a traceback through {_line(referrer.tb_frame)}"
    if isinstance(referrer, ModuleType):
        return f"module {referrer.__name__!r}"
    if isinstance(referrer, dict):
        return _owner_of_dict(referrer, target)
    if (
        isinstance(referrer, (list, tuple, set, frozenset, deque, MethodType))
        or type(referrer).__module__ == "builtins"
    ):
        return ""
    return _attribute(referrer, target)


def _container(referrer: Any) -> str:
    if isinstance(referrer, MethodType) and referrer.__name__ == "__exit__":
        return "a `with` block"  # up to 3.13 its frame keeps the bound method for the block's end
    try:
        return f"a {type(referrer).__name__} of {len(referrer)}"
    except Exception:
        return f"a {type(referrer).__name__}"


def _closure(cell: CellType) -> str:
    for cells in gc.get_referrers(cell):
        if isinstance(cells, tuple):
            for function in gc.get_referrers(cells):
                if isinstance(function, FunctionType) and function.__closure__ is cells:
                    code = function.__code__
                    at = f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"
                    return f"the closure of {function.__qualname__}() at {at}"
    return "a closure"


def _owner_of_dict(values: dict[Any, Any], target: object) -> str:
    key = next((key for key, value in list(values.items()) if value is target), None)
    if key is None:
        return ""
    if "__name__" in values and "__spec__" in values and "__loader__" in values:
        return f"global {key!r} of module {_module_of(values)!r}"
    for owner in gc.get_referrers(values):
        if isinstance(owner, FrameType) or not hasattr(owner, "__dict__"):
            continue
        if getattr(owner, "__dict__", None) is values:
            return f"attribute {key!r} of a {type(owner).__qualname__}"
    return ""


def _module_of(values: dict[Any, Any]) -> object:
    """Under which name a module's namespace is known: ``__main__`` calls itself otherwise now and then."""
    for name, module in runtime.snapshot(sys.modules.items()):
        if getattr(module, "__dict__", None) is values:
            return name
    return values["__name__"]


def _attribute(owner: Any, target: object) -> str:
    """Which attribute of an object with slots, or with its values inline, it is."""
    names = [name for cls in type(owner).__mro__ for name in _slots(cls)]
    for name in names:
        try:
            if getattr(owner, name, None) is target:
                return f"attribute {name!r} of a {type(owner).__qualname__}"
        except Exception:  # noqa: S112 - somebody's own descriptor; the name is all that is lost
            continue
    values = getattr(owner, "__dict__", None)
    for name, value in list(values.items()) if isinstance(values, dict) else ():
        if value is target:
            return f"attribute {name!r} of a {type(owner).__qualname__}"
    return f"a {type(owner).__qualname__}"


def _slots(cls: type) -> tuple[str, ...]:
    slots = cls.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def reaches(start: object, targets: list[object]) -> bool:
    """Return True if there is a way from `start` to one of `targets`, by attributes, items and closures.
    Modules and classes are no way: everything reaches everything through them."""
    wanted = {id(target) for target in targets}
    seen = {id(start)}
    queue: deque[object] = deque((start,))
    try:
        while queue and len(seen) < REACH:
            for each in gc.get_referents(queue.popleft()):
                if id(each) in wanted:
                    return True
                if id(each) in seen or isinstance(each, (type, ModuleType, FrameType)) or _is_namespace(each):
                    continue
                seen.add(id(each))
                queue.append(each)
        return False
    finally:
        queue.clear()
        each = start = None


def _is_namespace(each: object) -> bool:
    return isinstance(each, dict) and "__builtins__" in each
