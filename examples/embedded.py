"""A camera for machines without GStreamer: frames in memory that is really mapped, and really unmapped when
they are released.

Each frame is an ``mmap`` of its own, made through the C library, and its release is ``munmap``. So nothing is
simulated where it matters: an array that was read after its frame had been released too early would end this
process with a SIGSEGV.

It is also how a small adapter of your own looks: register, view, release.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from lifecycle import ANY_THREAD, AccessPanicError, Handle, SafetyManager
from lifecycle.stats import Histogram

WIDTH, HEIGHT, RATE = 1920, 1080, 30
TYPE_NAME = "demo.MappedFrame"
SIZE = WIDTH * HEIGHT * 3
BOUNDS = (1e-5, 1e-4, 1e-3, 5e-3, 0.0166, 0.0333, 0.1, 0.5, 1.0, 5.0, 30.0)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_ssize_t,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


calls = {"mmap": 0, "munmap": 0}
"""How often each was called here and succeeded."""


def map_memory() -> int:
    """The address of fresh memory for one frame."""
    address: int | None = _libc.mmap(
        None, SIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0
    )
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    calls["mmap"] += 1
    return address


def unmap_memory(address: int) -> None:
    """Give the memory back: from here on its addresses are a SIGSEGV."""
    if _libc.munmap(address, SIZE) != 0:
        raise OSError(ctypes.get_errno(), "munmap")
    calls["munmap"] += 1


class EmbeddedFrame:
    """What the demo's callback gets, with the part of `lifecycle.integrations.gstreamer.Frame` that it
    uses."""

    def __init__(self, handle: Handle[int], pts: int) -> None:
        self.handle = handle
        self.pts = pts

    def __enter__(self) -> EmbeddedFrame:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.close()

    def array(self) -> np.ndarray[Any, Any]:
        """Height × width × 3, uint8, read-only; it keeps the memory mapped for as long as it lives."""
        with self.handle.lease() as address:
            view = self.handle.view(address, SIZE)
        return np.frombuffer(view, np.uint8).reshape(HEIGHT, WIDTH, 3)


@attrs.frozen
class EmbeddedStats:
    """As `lifecycle.integrations.gstreamer.CaptureStats`."""

    name: str
    results: dict[str, int]
    last_frame: float
    callback_duration: Histogram
    frames_held: int


def frame_factory(manager: SafetyManager) -> Callable[[], Handle[int]]:
    """Makes frames' memory and registers it, with no moment in between at which an interrupt could lose
    it."""
    return manager.factory(map_memory, TYPE_NAME, release=unmap_memory, release_on=ANY_THREAD)


class EmbeddedCapture:
    """As `lifecycle.integrations.gstreamer.Capture`, with a thread that draws a moving picture."""

    kind = "capture"

    def __init__(self, manager: SafetyManager, name: str) -> None:
        self.name = name
        self.manager = manager
        self._make = frame_factory(manager)
        self._callback: Callable[[Any], object] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"capture-{name}", daemon=True)
        self._results = {"ok": 0, "error": 0, "panic": 0, "dropped": 0}
        self._durations = [0] * (len(BOUNDS) + 1)
        self._duration_sum = 0.0
        self._last_frame = 0.0
        self._held: list[Handle[int]] = []
        manager.add_component(self)
        manager.on_close(self.close)

    def on_frame(self, callback: Callable[[Any], object]) -> Callable[[Any], object]:
        """Begin to call `callback` for each frame."""
        self._callback = callback
        self._thread.start()
        return callback

    def close(self) -> bool:
        """Stop, and wait for a callback that is running."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(5)
        return not self._thread.is_alive()

    def stats(self) -> EmbeddedStats:
        """The figures at this moment."""
        durations = Histogram(BOUNDS, tuple(self._durations), self._duration_sum)
        held = sum(1 for handle in self._held if handle.state not in ("released", "failed"))
        return EmbeddedStats(self.name, dict(self._results), self._last_frame, durations, held)

    def _run(self) -> None:
        began = time.monotonic()
        number = 0
        while not self._stop.wait(max(0.0, began + number / RATE - time.monotonic())):
            frame = EmbeddedFrame(self._make(), number * 1_000_000_000 // RATE)
            with frame.handle.lease() as address:
                draw(address, number)
            self._deliver(frame)
            number += 1

    def _deliver(self, frame: EmbeddedFrame) -> None:
        began = time.perf_counter()
        try:
            assert self._callback is not None
            self.manager.safe_access(frame.handle, lambda _: self._callback(frame))  # type: ignore[misc]
            result = "ok"
        except (AccessPanicError, SystemExit) as error:
            result = "panic"
            cause = error.__cause__ or error
            if isinstance(error, SystemExit):
                self.manager.report_panic(self.name, error, type_name=TYPE_NAME)
            cause.__traceback__ = error.__traceback__ = None  # or they would keep the frame
        if not frame.handle.close():
            self._held.append(frame.handle)
        seconds = time.perf_counter() - began
        self._results[result] += 1
        self._durations[bisect_left(BOUNDS, seconds)] += 1
        self._duration_sum += seconds
        self._last_frame = time.time()


def draw(address: int, number: int) -> None:
    """A bright bar that wanders over a gradient."""
    memory = memoryview((ctypes.c_ubyte * SIZE).from_address(address)).cast("B")
    picture = np.frombuffer(memory, np.uint8).reshape(HEIGHT, WIDTH, 3)
    picture[:, :, 0] = np.linspace(20, 120, WIDTH, dtype=np.uint8)
    picture[:, :, 2] = np.linspace(160, 30, HEIGHT, dtype=np.uint8)[:, None]
    left = (number * 16) % (WIDTH - 160)
    picture[:, left : left + 160] = (255, 220, 90)
