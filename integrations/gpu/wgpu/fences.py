"""The device's timeline: fences by a callback of our own, polled without blocking.

The library's own promise costs some forty times more, and cannot be made at all by wgpu 0.32.0. One callback
serves all fences, each known by a number; its type is taken from the header's typedef, so that it fits
whatever the version has.
"""

from __future__ import annotations

import itertools
import time
from functools import cache
from typing import Any, Final

from lifecycle import SafetyManager, Timeline
from lifecycle.integrations.gpu.errors import DeviceError
from lifecycle.integrations.gpu.wgpu.guard import state_of
from lifecycle.lowlevel import monotonic

_answers: Final[dict[int, int]] = {}
_numbers: Final = itertools.count(1)
SELF_TEST: Final = 5.0
"""Seconds within which a fence on an idle queue must signal."""


@cache
def _native() -> tuple[Any, Any, Any, Any]:
    """``(ffi, lib, calls, callback)`` of wgpu-native."""
    try:
        from wgpu.backends.wgpu_native import _api
        from wgpu.backends.wgpu_native._ffi import ffi, lib

        calls = _api.libf

        @ffi.callback("WGPUQueueWorkDoneCallback")  # type: ignore[untyped-decorator]
        def done(status: int, *rest: Any) -> None:
            _answers[int(ffi.cast("uintptr_t", rest[-2]))] = status

        return ffi, lib, calls, done
    except Exception as error:
        raise DeviceError(f"this version of wgpu cannot tell when work is done: {error}") from error


class QueueFence:
    """Behind all that was submitted to a device. May be asked on any thread."""

    __slots__ = ("_device", "_number", "timeline")

    def __init__(self, device: Any, timeline: Timeline | None = None) -> None:
        ffi, lib, calls, done = _native()
        self._device = device
        self._number = next(_numbers)
        if timeline is not None:
            self.timeline: Timeline = timeline
        info = ffi.new("WGPUQueueWorkDoneCallbackInfo *")
        info.mode = lib.WGPUCallbackMode_AllowProcessEvents
        info.callback = done
        info.userdata1 = ffi.cast("void *", self._number)
        calls.wgpuQueueOnSubmittedWorkDone(device.queue._internal, info[0])

    def signalled(self) -> Any:
        """True or False; any other status of wgpu as it is. Polls the device, without blocking."""
        status = _answers.get(self._number)
        if status is None:
            self._device._poll(False)
            status = _answers.get(self._number)
            if status is None:
                return False
        return True if status == _native()[1].WGPUQueueWorkDoneStatus_Success else status

    def delete(self) -> None:
        """Forget its answer."""
        _answers.pop(self._number, None)

    def __repr__(self) -> str:
        return f"<QueueFence {self._number}>"


def timeline(device: Any, *, manager: SafetyManager | None = None) -> Timeline:
    """The timeline of a guarded device; the same one when asked again. Its fences may be asked anywhere, and
    a thread waits for them while something is in flight. `manager` is the one in whose metrics it stands, as
    for `Timeline`.

    Raises `DeviceError` for a device that is not guarded, and where a fence on the idle queue does not
    signal: then the library has changed.
    """
    state = state_of(device)
    made: Timeline | None = device.__dict__.get("_lifecycle_timeline")
    if made is not None:
        return made
    state.check("timeline()")
    test = QueueFence(device)
    until = monotonic() + SELF_TEST
    while (said := test.signalled()) is False and monotonic() < until:
        time.sleep(0.0005)
    if said is not True:
        raise DeviceError(f"a fence on the device's queue said {said!r}: this version of wgpu is not known")
    test.delete()
    line: Timeline = Timeline(
        f"wgpu {device.label}".strip(), fence=lambda: QueueFence(device), waiter=True, manager=manager
    )
    result: Timeline = device.__dict__.setdefault("_lifecycle_timeline", line)
    return result
