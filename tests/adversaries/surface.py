"""Every public operation that there is, by introspection: what the table of scenes must name."""

from __future__ import annotations

import contextlib
import enum
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import attrs

CORE = (
    "lifecycle",
    "lifecycle.distribution",
    "lifecycle.errors",
    "lifecycle.fences",
    "lifecycle._core.fence",
    "lifecycle.lowlevel",
    "lifecycle.memory",
    "lifecycle.objects",
    "lifecycle.pools",
    "lifecycle.stats",
)
"""Modules whose public names are tried everywhere."""
OURS = ("lifecycle.",)

NO_OPERATIONS = {
    "__init_subclass__",
    "__class_getitem__",
    "__subclasshook__",
    "__set_name__",
}


def public_names(module_name: str) -> dict[str, Any]:
    """What a module shows: its ``__all__``, else what it defines itself under a name without an underscore."""
    module = importlib.import_module(module_name)
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module_name
    ]
    return {name: getattr(module, name) for name in names}


def is_data(cls: type) -> bool:
    """Whether a class only holds figures or facts: an exception, an enumeration, a frozen attrs class, a
    protocol."""
    return (
        issubclass(cls, (BaseException, enum.Enum))
        or bool(getattr(cls, "_is_protocol", False))
        or (attrs.has(cls) and all(base.__setattr__ is not object.__setattr__ for base in [cls]))
    )


def is_operation(name: str, value: object) -> bool:
    """Whether an attribute of a class is something that a user may call or read."""
    if name in NO_OPERATIONS or (
        name.startswith("_") and not (name.startswith("__") and name.endswith("__"))
    ):
        return False
    if isinstance(value, (property, classmethod, staticmethod)):
        return True
    return isinstance(value, FunctionType)


def operations_of(cls: type) -> dict[str, Callable[..., Any]]:
    """By ``Class.method``, named after the class that defines it: the functions behind the public operations
    of `cls`."""
    found: dict[str, Callable[..., Any]] = {}
    seen: set[str] = set()
    for base in cls.__mro__:
        if not base.__module__.startswith(OURS) and base.__module__ != "lifecycle":
            continue
        for name, value in vars(base).items():
            if name in seen or not is_operation(name, value):
                continue
            seen.add(name)
            found[f"{base.__name__}.{name}"] = function_of(value)
            if isinstance(value, property) and value.fset is not None:
                found[f"{base.__name__}.{name}="] = value.fset
    return found


def function_of(value: Any) -> Any:
    """The function that is behind a method, a property, a context manager."""
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, (classmethod, staticmethod)):
        value = value.__func__
    return inspect.unwrap(value)


def operations(module_names: tuple[str, ...] = CORE) -> dict[str, Any]:
    """Every public operation of these modules: by its name, the function behind it. A function of an integration goes by that of
    its module too (``glib.release_queue``)."""
    found: dict[str, Any] = {}
    for module_name in module_names:
        of = "" if module_name in CORE else f"{module_name.rpartition('.')[2]}."
        for name, value in public_names(module_name).items():
            if inspect.isclass(value):
                if not is_data(value):
                    found.update(operations_of(value))
            elif isinstance(value, FunctionType):
                found[of + name] = function_of(value)
    return found


@contextlib.contextmanager
def called() -> Iterator[set[CodeType]]:
    """Within the block, notes every piece of Python code that is entered on this thread."""
    seen: set[CodeType] = set()

    def note(frame: types.FrameType, event: str, arg: object) -> None:
        if event == "call":
            seen.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(before)
