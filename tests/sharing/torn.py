"""Torn reads, with real memory: a producer that writes frames into a few slots, and a consumer that is slower
than it. Without a fence a slot is written again while it is being read; with the fence it is not. The
consumer is another thread, or another process over shared memory.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import threading
import time
from collections import deque
from functools import partial
from multiprocessing import shared_memory
from queue import SimpleQueue
from typing import Any

from lifecycle import EventFence, Handle, ReleaseQueue, SafetyManager

SLOTS = 3
FRAME = 1 << 20
PIECES = 16
"""In how many pieces a frame is read, with a pause after each: the slow consumer."""


class Producer:
    """Writes frame after frame, each byte its number, into slots of `memory`. A slot is free when its release
    has run; the release waits for the consumer's fence, if there is one."""

    def __init__(self, address: int, manager: SafetyManager, fenced: bool) -> None:
        self.address = address
        self.manager = manager
        self.fenced = fenced
        self.free: deque[int] = deque(range(SLOTS))
        self.queue = ReleaseQueue("slots")

    def lend(self, number: int, fence: Any) -> int | None:
        """Write frame `number` and give it away until `fence` signals; its slot, None when no slot is free."""
        self.queue.drain()
        if not self.free:
            return None
        slot = self.free.popleft()
        ctypes.memset(self.address + slot * FRAME, number % 251, FRAME)
        handle: Handle[int] = self.manager.register(
            slot, "slot", release=self.free.append, release_on=self.queue, size=FRAME
        )
        if self.fenced:
            handle.close(after=fence)
        else:
            handle.close()
        return slot


def read_slowly(address: int, number: int) -> bool:
    """Read a frame piece by piece; whether it was torn, that is, anything but `number` all over."""
    wanted = bytes((number % 251,)) * (FRAME // PIECES)
    torn = False
    for piece in range(PIECES):
        found = ctypes.string_at(address + piece * (FRAME // PIECES), FRAME // PIECES)
        torn = torn or found != wanted
        time.sleep(0.0005)
    return torn


def _produce(producer: Producer, frames: int, give: Any, make_fence: Any) -> None:
    number = 0
    while number < frames:
        fence = make_fence(number)
        slot = producer.lend(number, fence)
        if slot is None:
            time.sleep(0.0002)
            continue
        give(slot, number, fence)
        number += 1
        if not producer.fenced:
            time.sleep(0.001)


def by_thread(fenced: bool, frames: int = 30) -> int:
    """How many frames another thread has read torn."""
    memory = (ctypes.c_ubyte * (SLOTS * FRAME))()
    address = ctypes.addressof(memory)
    ready: SimpleQueue[Any] = SimpleQueue()
    torn: list[bool] = []

    def consume() -> None:
        while (item := ready.get()) is not None:
            slot, number, fence = item
            torn.append(read_slowly(address + slot * FRAME, number))
            fence._event.set()

    with SafetyManager(name="torn") as manager:
        consumer = threading.Thread(target=consume)
        consumer.start()
        producer = Producer(address, manager, fenced)
        _produce(
            producer, frames, lambda *item: ready.put(item), lambda number: EventFence(threading.Event())
        )
        ready.put(None)
        consumer.join()
        _drain(producer, manager)
    assert len(torn) == frames
    return sum(torn)


class SharedFence:
    """Signalled once the other process has counted so many frames as read: a number in the shared memory
    itself."""

    timeline = "the other process reads in order"

    def __init__(self, counter: Any, number: int) -> None:
        self.counter = counter
        self.number = number

    def signalled(self) -> bool:
        """Whether the consumer is past this frame."""
        return bool(self.counter.value > self.number)


def _consume_in_process(name: str, pipe: Any, done: Any) -> None:
    memory = shared_memory.SharedMemory(name=name)
    array = (ctypes.c_ubyte * (SLOTS * FRAME)).from_buffer(memory.buf)  # type: ignore[arg-type]
    address = ctypes.addressof(array)
    torn = 0
    while (item := pipe.recv()) is not None:
        slot, number = item
        torn += read_slowly(address + slot * FRAME, number)
        done.value = number + 1
    pipe.send(torn)
    del array
    memory.close()


def by_process(fenced: bool, frames: int = 30) -> int:
    """How many frames another process has read torn."""
    context = multiprocessing.get_context("spawn")
    memory = shared_memory.SharedMemory(create=True, size=SLOTS * FRAME)
    done = context.Value("q", 0)
    ours, theirs = context.Pipe()
    consumer = context.Process(target=_consume_in_process, args=(memory.name, theirs, done))
    array = (ctypes.c_ubyte * (SLOTS * FRAME)).from_buffer(memory.buf)  # type: ignore[arg-type]
    try:
        with SafetyManager(name="torn") as manager:
            consumer.start()
            producer = Producer(ctypes.addressof(array), manager, fenced)
            _produce(
                producer,
                frames,
                lambda slot, number, _: ours.send((slot, number)),
                partial(SharedFence, done),
            )
            ours.send(None)
            torn = int(ours.recv())
            consumer.join()
            _drain(producer, manager)
        return torn
    finally:
        del array
        memory.close()
        memory.unlink()


def _drain(producer: Producer, manager: SafetyManager) -> None:
    until = time.monotonic() + 20
    while manager.stats().active_objects and time.monotonic() < until:
        producer.queue.drain()
        time.sleep(0.001)
    assert sorted(producer.free) == list(range(SLOTS))
