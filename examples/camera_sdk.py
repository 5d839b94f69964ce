"""An adapter for a camera SDK in C (examples/camera_sdk.c), in one file, on public names alone.

The SDK lends buffers of a ring to a callback on its own thread, and insists on the order of its end: stop,
every buffer back, close, then the descriptor. Here that order is who holds whom: the stream and each
frame, also one that some array reads, hold the device, and that holds the descriptor.
"""

from __future__ import annotations

import ctypes
import os
import queue
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

from lifecycle import ANY_THREAD, BACKGROUND, ClosedError, Handle, LifecycleError, SafetyManager, never_wait
from lifecycle.lowlevel import Inbox, Uncopied, after_fork, forgets, pin, raw, recipe, taking, weakly


class Buffer(ctypes.Structure):
    _fields_ = [("number", ctypes.c_uint64), ("data", ctypes.c_void_p), ("length", ctypes.c_size_t)]


CALLBACK = ctypes.CFUNCTYPE(None, ctypes.POINTER(Buffer), ctypes.c_void_p)


def load(path: str) -> Any:
    """Load the SDK. What fails in it raises `OSError`, so that a release that fails is reported."""
    sdk: Any = ctypes.CDLL(path)

    def check(result: int, call: Any, _: Any) -> None:
        if result:
            raise OSError(f"{call.__name__} failed")

    sdk.cam_open.restype = ctypes.c_void_p
    sdk.cam_open.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
    sdk.cam_start.argtypes = [ctypes.c_void_p, CALLBACK, ctypes.c_void_p]
    for call in (sdk.cam_start, sdk.cam_stop, sdk.cam_requeue, sdk.cam_close, sdk.cam_unplug):
        call.argtypes = call.argtypes or [ctypes.c_void_p]
        call.errcheck = check
    return sdk


class Frame(Handle[Any]):
    """One filled buffer: close it, or `with` it, and the SDK has it back when nobody reads it any more."""

    __slots__ = ()

    def memory(self) -> memoryview:
        """The SDK's memory without a copy. It, and every array made of it, may outlive this handle."""
        return self.view(self.native, self.size)


class Device:  # all that must last as long as callbacks may come
    def __init__(self, sdk: Any, callback: Any) -> None:
        self.sdk, self.callback = sdk, callback
        self.opened: Any = None

    def stop(self) -> None:
        if self.opened is not None:
            self.sdk.cam_stop(self.opened)

    def close(self) -> None:
        if self.opened is not None:
            self.sdk.cam_close(self.opened)


class Camera(Uncopied):
    """Frames of one device, for one thread that asks for them. A context manager that closes itself."""

    def __init__(
        self, manager: SafetyManager, sdk: Any, *, buffers: int = 4, nbytes: int = 1 << 16, pause: int = 1000
    ) -> None:
        self._inbox: Inbox[Frame | None] = Inbox()
        self._frames = recipe(manager, "sdk.Frame", release=sdk.cam_requeue, release_on=ANY_THREAD)
        self._events = manager.factory(os.pipe, "sdk.Events", release=lambda ends: [*map(os.close, ends)])()
        take = weakly(self._take)
        # Nobody takes what comes for a camera that was dropped.
        device = Device(sdk, CALLBACK(lambda one, _: None if take(one) else sdk.cam_requeue(one)))
        # Registered before it is opened: from here on it will be stopped and closed, whatever happens.
        self._device = manager.register(device, "sdk.Device", release=Device.close, parent=self._events)
        streams = recipe(manager, "sdk.Stream", release=Device.stop, release_on=BACKGROUND)
        self._stream = streams.register(device, parent=self._device)
        self._leave = manager.on_close(weakly(self.close))
        after_fork(self._after_fork)
        try:
            opening = partial(sdk.cam_open, raw(pin(self._events))[1], buffers, nbytes, pause)
            # K2: opened and stored in one step, so that no Ctrl-C loses an open device.
            for device.opened in taking(opening):
                break
            sdk.cam_start(device.opened, device.callback, None)
        except BaseException:
            self.close()
            raise

    def _take(self, buffer: Any) -> bool:
        """On the SDK's thread: True if the buffer is the manager's from now on."""
        taken = [False]
        # Refused where it is closed, or the type is at a limit: `taken` says whose the buffer is then.
        with never_wait(), suppress(LifecycleError):
            its, device = buffer.contents, self._device
            new = self._frames.register(buffer, its.data, its.length, None, device, Frame, taken=taken)
            self._inbox.put(new)
        if not self._device.valid:
            self._empty()
        return taken[0]

    def frame(self, timeout: float | None = None) -> Frame:
        """The next frame, which is yours to close. Waits up to `timeout` seconds (None: for ever). Raises
        `TimeoutError`, and `ClosedError` once the camera is closed."""
        try:
            frame = self._inbox.get(timeout)
        except queue.Empty:
            raise TimeoutError(f"no frame within {timeout} s: is the camera still plugged in?") from None
        if frame is None:
            self._inbox.put(None)
            raise ClosedError("the camera is closed, so no frame will come; open another")
        return frame

    def fileno(self) -> int:
        """For `select`: readable when the device was unplugged. Raises once the camera is closed."""
        return int(raw(pin(self._events))[0])

    def close(self, timeout: float | None = 0) -> bool:
        """Take no more frames. True: the device is closed. `timeout` seconds are waited for held frames."""
        self._leave()
        for handle in (self._device, self._stream, self._events):
            handle.close(timeout=0)
        self._empty()
        return self._device.close(timeout=timeout)

    @forgets  # K3: a kept exception keeps no frame
    def _empty(self) -> None:
        rest: deque[Frame | None] = deque()
        self._inbox.take(rest)
        for frame in filter(None, rest):
            frame.close(timeout=0)
        self._inbox.put(None)

    def _after_fork(self) -> None:
        self._inbox = Inbox()
        self._inbox.put(None)

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(timeout=5.0)
