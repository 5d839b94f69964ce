"""The line that a user knows: the innermost one outside the standard library, this library, and the package
of the class that is watched."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from types import FrameType

from lifecycle.watch.unseen import INTERNAL

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY = tuple(
    {
        os.path.join(path, "")
        for path in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
        if path
    }
)
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def ours(name: str) -> bool:
    """Return True for a file of this library."""
    return name.startswith(_OURS) or name == INTERNAL


@functools.lru_cache(maxsize=4096)
def foreign(name: str, package: str) -> bool:
    """Return True for a file that a user does not know: of `package`, the standard library, or this one."""
    if package and name.startswith(package):
        return True
    if name.startswith("<frozen ") or ours(name):
        return True
    return name.startswith(_LIBRARY) and not any(part in name for part in _PACKAGES)


def user(frame: FrameType | None, package: str) -> FrameType | None:
    """The innermost frame of the user's from `frame` up; the first that is not this library's where there is
    none, as in the standard library's own programs."""
    first = None
    while frame is not None:
        name = frame.f_code.co_filename
        if not foreign(name, package):
            return frame
        if first is None and not ours(name):
            first = frame
        frame = frame.f_back
    return first


Site = tuple[str, int]
"""File and line."""


def site(frame: FrameType | None) -> Site:
    """The file and the line of a frame; an empty file for None."""
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def text(where: Site) -> str:
    """``file.py:31``, the path from the current folder where it lies there; «an unknown line» for none."""
    name, line = where
    if not name:
        return "an unknown line"
    try:
        here = os.path.join(os.getcwd(), "")
    except OSError:
        here = ""
    if here and name.startswith(here):
        name = name[len(here) :]
    return f"{name}:{line}"


def package_of(module: object) -> str:
    """What the paths begin with that are a class's own: of its package the folder, or its module's file.
    Empty for what is installed nowhere: that is the user's."""
    file = getattr(module, "__file__", None)
    name = getattr(module, "__name__", "")
    top = sys.modules.get(name.partition(".")[0], module) if isinstance(name, str) else module
    try:
        folders = list(getattr(top, "__path__", ()))
    except TypeError:
        folders = []
    own = os.path.join(folders[0], "") if folders and isinstance(folders[0], str) else file
    if not isinstance(own, str):
        return ""
    installed = own.startswith(_LIBRARY) or any(part in own for part in _PACKAGES)
    return own if installed else ""
