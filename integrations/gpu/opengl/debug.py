"""The driver's messages: a callback that stays valid until the driver knows of its end, and the driver's own
log."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import attrs

from lifecycle import Handle
from lifecycle.integrations.gpu._native import function
from lifecycle.integrations.gpu.errors import GLError

if TYPE_CHECKING:
    from lifecycle.integrations.gpu.opengl.domain import Domain

_SOURCES: Final = ("api", "window system", "shader compiler", "third party", "application", "other")
_TYPES: Final = ("error", "deprecated", "undefined", "portability", "performance", "other")
_SEVERITIES: Final = {0x9146: "high", 0x9147: "medium", 0x9148: "low", 0x826B: "notification"}
_OUTPUT, _SYNCHRONOUS, _CALLBACK = 0x92E0, 0x8242, 0x8244
_THUNK: Final = ctypes.CFUNCTYPE(
    None,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
)


@attrs.frozen
class DebugMessage:
    """One message of the driver."""

    source: str
    """The part of the system that sent the message, such as ``api``."""
    type: str
    """What kind of message it is, such as ``error``."""
    id: int
    """The driver's number of the message."""
    severity: str
    """From ``notification`` to ``high``."""
    text: str
    """The message."""


def _message(source: int, kind: int, number: int, severity: int, text: str) -> DebugMessage:
    at = source - 0x8246
    of = kind - 0x824C
    return DebugMessage(
        _SOURCES[at] if 0 <= at < len(_SOURCES) else hex(source),
        _TYPES[of] if 0 <= of < len(_TYPES) else hex(kind),
        number,
        _SEVERITIES.get(severity, hex(severity)),
        text,
    )


def _check(domain: Domain, what: str) -> None:
    domain.check_here(what)
    if not domain.facts.labels:
        raise GLError(
            f"{what}: {domain.facts.text!r} has no debug output (OpenGL 4.3 or KHR_debug): look at "
            "glGetError()"
        )


def install(domain: Domain, fn: Callable[[DebugMessage], object], synchronous: bool) -> Handle[Any]:
    """What `Domain.debug_callback` returns."""
    _check(domain, "debug_callback()")
    if not callable(fn):
        raise GLError(f"debug_callback() takes a function of one message, not {fn!r}")

    def told(source: int, kind: int, number: int, severity: int, length: int, text: int, _: object) -> None:
        # What is raised in here ctypes shows, and keeps from the driver.
        said = ctypes.string_at(text, length if length >= 0 else -1).decode(errors="replace")
        fn(_message(source, kind, number, severity, said))

    thunk = _THUNK(told)
    # Owned before the driver knows it: an interrupt in between leaves a thunk that is never called.
    handle = domain.manager.register(
        thunk, "gl.debug_callback", release=_take_out, release_on=domain.queue, size=0
    )
    function("glEnable")(_OUTPUT)
    function("glEnable" if synchronous else "glDisable")(_SYNCHRONOUS)
    function("glDebugMessageCallback")(ctypes.cast(thunk, ctypes.c_void_p), None)
    return handle


def _take_out(thunk: Any) -> None:
    """The release: the driver forgets the callback, if it is still ours."""
    installed = ctypes.c_void_p()
    function("glGetPointerv")(_CALLBACK, ctypes.byref(installed))
    if installed.value == ctypes.cast(thunk, ctypes.c_void_p).value:
        function("glDebugMessageCallback")(None, None)


def read_log(domain: Domain) -> list[DebugMessage]:
    """What `Domain.debug_log` returns."""
    _check(domain, "debug_log()")
    waiting = (ctypes.c_int * 1)()
    longest = (ctypes.c_int * 1)()
    get = function("glGetIntegerv")
    found: list[DebugMessage] = []
    while True:
        get(0x9145, waiting)
        get(0x8243, longest)  # of the message that is next
        if waiting[0] < 1:
            return found
        size = max(longest[0], 1)
        text = ctypes.create_string_buffer(size)
        words = [(ctypes.c_uint * 1)() for _ in range(4)]
        length = (ctypes.c_int * 1)()
        source, kind, number, severity = words
        if not function("glGetDebugMessageLog")(1, size, source, kind, number, severity, length, text):
            return found
        found.append(
            _message(
                source[0],
                kind[0],
                number[0],
                severity[0],
                text.raw[: max(0, length[0] - 1)].decode(errors="replace"),
            )
        )
