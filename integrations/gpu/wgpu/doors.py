"""What the guard knows of each object: its door, and what a recording uses.

A recording holds the pin of each resource that it uses. `destroy` shuts the door at once, so that nothing new
uses the resource, and the native destroy follows when the last pin is gone: when the recordings that use it
are submitted (from there on wgpu keeps its own count) or dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

import wgpu

from lifecycle import LifecycleError

if TYPE_CHECKING:
    # wgpu has no types: a class made from its own would have none either.
    _ValidationError = Exception
else:
    _ValidationError = wgpu.GPUValidationError

KEY: Final = "_lifecycle"


class GPUMisuseError(LifecycleError, _ValidationError):
    """A call was refused that would abort the process, or fail late. It has not reached native code, and
    every object is as it was.

    `reason` is one of ``destroyed``, ``mapped``, ``foreign``, ``finished``, ``submitted``, ``device``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def refuse(reason: str, message: str) -> NoReturn:
    """Raise `GPUMisuseError`."""
    raise GPUMisuseError(reason, message)


class DeviceState:
    """Of a guarded device. `lock` is held over a check and the native call that it is for: submitting,
    mapping, unmapping and destroying."""

    __slots__ = ("__weakref__", "dead", "label", "lock")

    def __init__(self, label: str) -> None:
        self.label: str = label
        self.lock: Any = threading.RLock()
        self.dead: bool = False

    def check(self, what: str) -> None:
        """Refuse where the device was destroyed."""
        if self.dead:
            refuse("device", f"{what}: the device was destroyed; make another")


class Pin:
    """Held by the door of a resource, by recordings that use it, and by views of its mapped memory. It dies
    with the last of them, and then does what `destroy` had to put off: the library's own method, which
    asks whether the wrapper has ended meanwhile (in a garbage cycle that may come first)."""

    __slots__ = ("__del__", "__weakref__", "keeps")
    __del__: Callable[[], object]

    def __init__(self) -> None:
        self.__del__ = int
        self.keeps: Any = None  # the wrapper, once it is to be destroyed


class Door:
    """Of a buffer, texture or query set."""

    __slots__ = ("device", "mapped", "pin")

    def __init__(self, device: DeviceState) -> None:
        self.device: DeviceState = device
        self.pin: Pin | None = Pin()  # None once it was destroyed
        self.mapped: list[Any] = []  # weak references on the memory that was given out


class Part:
    """Of what stands for other resources: a view for its texture, a bind group or bundle for all that it
    binds."""

    __slots__ = ("device", "uses")

    def __init__(self, device: DeviceState, uses: dict[Any, Pin | None]) -> None:
        self.device: DeviceState = device
        self.uses: dict[Any, Pin | None] = uses


class Recording:
    """Of an encoder, its passes, and the command buffer that comes of it."""

    __slots__ = ("device", "over", "uses")

    def __init__(self, device: DeviceState) -> None:
        self.device: DeviceState = device
        self.uses: dict[Any, Pin | None] = {}  # the resource, and its pin
        self.over: str = ""  # finished, submitted


def shown(one: Any) -> str:
    """An object in messages."""
    try:
        label = one.label
    except Exception:
        label = ""
    name = type(one).__name__
    return f"{name} {label!r}" if label else f"a {name}"
