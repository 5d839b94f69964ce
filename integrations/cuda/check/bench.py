"""What the checks have in common: a device with two streams, ways to hold a stream up, and assertions.

A stream is held up by a function of the C library that waits for a semaphore (`Gate`), so that what is
pending is pending for as long as a check wants, on a device of any speed.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from lifecycle import Handle, SafetyConfig, SafetyManager
from lifecycle.integrations.cuda import _driver
from lifecycle.integrations.cuda.devices import Device, device
from lifecycle.integrations.cuda.memory import Memory
from lifecycle.integrations.cuda.streams import CUDATimeline, Stream, stream_of, timeline

SOON: Final = 20.0
MIB: Final = 1 << 20


class NotHere(Exception):
    """A check cannot be made on this machine."""


class Gate:
    """Holds a stream up until it is opened."""

    def __init__(self, of: Any) -> None:
        libc = ctypes.CDLL(None)
        # A semaphore of the C library is at most 64 bytes; the device's thread may look at it after us.
        self._semaphore = ctypes.create_string_buffer(256)
        _kept.append(self._semaphore)
        self._at = ctypes.addressof(self._semaphore)
        libc.sem_init(ctypes.c_void_p(self._at), 0, 0)
        self._post = libc.sem_post
        wait = ctypes.cast(libc.sem_wait, ctypes.c_void_p)
        stream = stream_of(of)
        step = partial(_driver.function("cuLaunchHostFunc"), stream.number, wait, self._at)
        _driver.checked(_driver.run_in(stream.context, step), "a stream was to be held up")
        self.opened: bool = False

    def open(self) -> None:
        """Let the stream go on."""
        if not self.opened:
            self.opened = True
            self._post(ctypes.c_void_p(self._at))


_kept: list[Any] = []


@contextmanager
def held_up(of: Any) -> Iterator[Gate]:
    """A stream that stands still for a block, or until the gate is opened in it."""
    gate = Gate(of)
    try:
        yield gate
    finally:
        gate.open()


def expect(condition: object, what: str) -> None:
    """Fail the check unless `condition` is true."""
    if not condition:
        raise AssertionError(what)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Fail the check unless `condition` becomes true soon."""
    until = time.monotonic() + SOON
    while not condition():
        expect(time.monotonic() < until, f"not so within {SOON:.0f} s: {what}")
        time.sleep(0.0005)


def refused(kind: type[BaseException], call: Callable[[], object], what: str) -> None:
    """Fail the check unless ``call()`` raises an exception of `kind`."""
    try:
        call()
    except kind:
        return
    raise AssertionError(f"not refused: {what}")


class Bench:
    """What every check has: a device, a manager, two streams with their timelines."""

    def __init__(self) -> None:
        self.device: Device = device(0)
        patient = SafetyConfig(finalizer_timeout=SOON, shutdown_timeout=SOON)
        self.manager: SafetyManager = SafetyManager(patient, name="cuda-check")
        self.first: Handle[Stream] = self.device.stream(name="first", manager=self.manager)
        self.second: Handle[Stream] = self.device.stream(name="second", manager=self.manager)
        self.line: CUDATimeline = timeline(self.first, name="first")
        self.other: CUDATimeline = timeline(self.second, name="second")

    def memory(self, nbytes: int) -> Handle[Memory]:
        """Memory of the device."""
        return self.device.allocate(nbytes, manager=self.manager)

    def pinned(self, nbytes: int) -> Handle[Memory]:
        """Pinned memory of the host."""
        return self.device.pinned(nbytes, manager=self.manager)

    def view(self, handle: Handle[Memory]) -> memoryview:
        """Pinned memory, as bytes."""
        with handle.lease() as memory:
            return memory.view(handle)

    def read(self, handle: Handle[Memory], nbytes: int) -> bytes:
        """What a device's memory has in it."""
        host = self.pinned(nbytes)
        with self.line.submission() as work:
            work.copy(host, handle, nbytes)  # type: ignore[attr-defined]
        expect(self.line.wait(SOON), "a copy to the host ended")
        found = bytes(self.view(host))
        host.close()
        return found

    def close(self) -> str:
        """Close all of it; what was left, in words."""
        self.line.wait(SOON)
        self.other.wait(SOON)
        del self.line, self.other
        self.first.close()
        self.second.close()
        gc.collect()
        report = self.manager.close(timeout=SOON)
        return "" if report.ok else str(report)
