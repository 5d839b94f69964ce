"""What the adversaries have in common: the draw, garbage that acts at its end, one deed in the middle of a
scene, a forked child."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable

from lifecycle import LifecycleError
from tests.adversaries.stage import PATIENCE
from tests.core.adversary import STORM

SEED = os.environ.get("LIFECYCLE_SEED", "1")
ALL = STORM >= 10


def some(number: int, of: int, *what: object) -> list[int]:
    """`number` of the numbers from 1 to `of`, drawn by the seed, in order; all of them when all are wanted."""
    if ALL or of <= number:
        return list(range(1, of + 1))
    return sorted(random.Random("/".join(map(str, (SEED, *what)))).sample(range(1, of + 1), number))


class Garbage:
    """What is found by the collector, and does something when it is."""

    def __init__(self, last_deed: Callable[[], object]) -> None:
        self.last_deed = last_deed
        self.me = self

    def __del__(self) -> None:
        self.last_deed()


def on_another_thread(deed: Callable[[], object]) -> threading.Thread:
    """`deed` on another thread, which is let run as far as it comes in a moment."""
    thread = threading.Thread(target=deed, daemon=True)
    thread.start()
    thread.join(0.05)
    return thread


class Once:
    """Called at each point or line: does `deed` the `at`-th time, `here` or on another thread."""

    def __init__(self, deed: Callable[[], object], at: int, *, here: bool = True) -> None:
        self.deed = deed
        self.at = at
        self.here = here
        self.passed = 0
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        self.passed += 1
        if self.passed != self.at:
            return
        if self.here:
            self.deed()
        else:
            self.thread = on_another_thread(self.deed)

    def comes_back(self, what: str) -> None:
        """The other thread, which may have waited for a lock that the line holds, ends now."""
        if self.thread is not None:
            self.thread.join(PATIENCE)
            assert not self.thread.is_alive(), f"{what}: it does not come back"


def look_at(things: Iterable[object]) -> None:
    """Ask each of them whatever can be asked."""
    for thing in things:
        repr(thing)
        for name, value in vars(type(thing)).items():
            if isinstance(value, property) and not name.startswith("_"):
                try:
                    getattr(thing, name)
                except LifecycleError:
                    # Closed under whoever asks.
                    continue


def in_a_forked_child(check: Callable[[], object]) -> str:
    """What is wrong with a child that is forked here and calls `check`; empty where nothing is."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            sys.settrace(None)
            check()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    until = time.monotonic() + PATIENCE
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.0005)
    return f"the forked child ended with {os.waitstatus_to_exitcode(ended[1])}" if ended[1] else ""
