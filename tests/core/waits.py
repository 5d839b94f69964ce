"""What tests of waiting share: a state that changes, threads that wait for it, and when a wait was lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from lifecycle._core import runtime, waiting, waiting_list, waiting_loops
from lifecycle._core.waiting import WaitList
from tests.support import eventually

GIL = not runtime.free_threaded
WAITING = (waiting, waiting_list, waiting_loops)
NEVER = 60.0
"""Seconds: a wait that comes back only then was lost."""
LOST = 20.0
"""Seconds after which a test takes a wait to be lost. Less than `NEVER`, and much more than a loaded machine
takes."""


def started(fn: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=fn, daemon=True)
    thread.start()
    return thread


def woken(fn: Callable[..., Any], *args: Any) -> Any:
    """What a wait answers that is to end by being woken."""
    began = time.monotonic()
    result = fn(*args)
    assert time.monotonic() - began < LOST, "slept on"
    return result


class State:
    """Something that changes, and those who wait for it."""

    def __init__(self) -> None:
        self.value = 0
        self.waiters = WaitList()

    def change(self) -> None:
        self.value += 1
        self.waiters.wake()

    def change_by_a_call(self) -> None:
        try:
            self.count()
        finally:
            self.waiters.wake()

    def count(self) -> None:
        self.value += 1

    def wait(self, timeout: float | None = NEVER, value: int = 1) -> bool:
        return self.waiters.wait(lambda: self.value >= value, timeout)

    def others(self, number: int, came: list[bool], value: int = 1) -> list[threading.Thread]:
        """So many threads that wait."""
        before = len(self.waiters)
        threads = [started(lambda: came.append(woken(self.wait, NEVER, value))) for _ in range(number)]
        eventually(lambda: len(self.waiters) == before + number)
        time.sleep(0.002)
        return threads


def joined(threads: list[threading.Thread]) -> None:
    until = time.monotonic() + LOST
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
