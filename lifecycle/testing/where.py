"""Which code an adversary works on: that of the library, or of whatever it is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType, MethodType, ModuleType

import lifecycle

Chooses = Callable[[CodeType], bool]
"""Says of a piece of code whether an adversary is to work on it."""

_LIBRARY = os.path.dirname(str(lifecycle.__file__)) + os.sep
_KIT = os.path.dirname(__file__) + os.sep


def library(code: CodeType) -> bool:
    """Return True if `code` is the library's own (this kit is not)."""
    name = code.co_filename
    return name.startswith(_LIBRARY) and not name.startswith(_KIT)


def code_of(*what: ModuleType | Callable[..., object]) -> Chooses:
    """A choice of code: that of modules, of packages with all below them, and of single functions; the
    library's is not among it unless it is named. ``every_line(gc.collect, of=code_of(my_adapter))`` is how an
    adapter is tried."""
    prefixes: list[str] = []
    files: set[str] = set()
    codes: set[CodeType] = set()
    for one in what:
        if isinstance(one, ModuleType):
            if hasattr(one, "__path__"):
                prefixes.extend(str(path) + os.sep for path in one.__path__)
            else:
                files.add(str(one.__file__))
        elif isinstance(one, (FunctionType, MethodType)):
            codes.add(one.__code__)
        else:
            raise TypeError(f"code_of() takes modules, packages and Python functions, not {one!r}")
    starts = tuple(prefixes)

    def chooses(code: CodeType) -> bool:
        name = code.co_filename
        return code in codes or name in files or (bool(starts) and name.startswith(starts))

    return chooses


def place_of(frame: FrameType) -> str:
    """``handle.py:209 _give_back``, for messages."""
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}"
