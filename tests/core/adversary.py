"""Adversaries of the core's own tests: those of `lifecycle.testing`, and what only makes sense inside this
repository.

- `NativeMemory` is memory that is really mapped and really unmapped, so that a use after release is a SIGSEGV
  and no opinion. What may crash runs `in_own_process`.
- `assert_nothing_left` says what has to be true of a manager when everything is over.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import sys
import time
from collections import deque
from collections.abc import Callable

import lifecycle
from lifecycle import SafetyManager
from lifecycle.states import ENDED
from lifecycle.testing import (
    EveryLine,
    Interrupt,
    Signals,
    Standing,
    Struck,
    at_once,
    each_interrupt,
    every_line,
    library,
    line_of,
    run_interrupted,
    switching,
)
from tests.support import run_python

__all__ = [
    "STORM",
    "TRACING_KEEPS_LOCALS",
    "EveryLine",
    "Interrupt",
    "NativeMemory",
    "Signals",
    "Standing",
    "Struck",
    "assert_adds_up",
    "assert_nothing_left",
    "at_once",
    "each_interrupt",
    "every_line",
    "in_own_process",
    "library",
    "line_of",
    "run_interrupted",
    "switching",
    "unmapped_twice",
]

TRACING_KEEPS_LOCALS = sys.version_info < (3, 11)
"""Up to 3.10 a frame that is traced holds what it has in its locals once more: a count of holders counts that
too."""
STORM = float(os.environ.get("LIFECYCLE_STORM", "1"))
"""By how much the storms are larger than they have to be."""


def in_own_process(
    function: Callable[..., object], *args: object, timeout: float = 90, options: tuple[str, ...] = ()
) -> str:
    """Call a module's function in a process of its own, and fail with all it said unless it ends well; its
    standard output. The arguments are passed by their repr, `options` to the interpreter."""
    call = f"{function.__name__}({', '.join(map(repr, args))})"
    return run_python(
        f"from {function.__module__} import {function.__name__}\n{call}\n", timeout=timeout, args=options
    ).check()


# -- memory that crashes -------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
PROT_NONE = 0
MAP_FIXED = 0x10
MAP_NORESERVE = 0x4000
GRAVES = 2000

_graves: deque[tuple[int, int]] = deque()
_unmapped_twice: deque[int] = deque()


def _map(address: int | None, nbytes: int, protection: int, flags: int) -> int:
    mapped = _libc.mmap(address, nbytes, protection, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags, -1, 0)
    if mapped in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), f"mmap of {nbytes} bytes")
    return int(mapped)


class NativeMemory:
    """`nbytes` of memory, each byte `fill`. `unmap` gives it back to the system; from then on every access is
    a SIGSEGV, since nothing else is mapped at its address until some two thousand others were unmapped."""

    __slots__ = ("__weakref__", "address", "fill", "nbytes", "unmapped")

    def __init__(self, nbytes: int = mmap.PAGESIZE, fill: int = 0x5A) -> None:
        self.nbytes = nbytes
        self.fill = fill
        self.unmapped = 0
        self.address = _map(None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, 0)
        ctypes.memset(self.address, fill, nbytes)

    def unmap(self) -> None:
        """Unmap it, once."""
        self.unmapped += 1
        if self.unmapped > 1:
            _unmapped_twice.append(self.address)
            raise AssertionError(f"memory at {self.address:#x} unmapped {self.unmapped} times")
        _map(
            self.address, self.nbytes, PROT_NONE, MAP_FIXED | MAP_NORESERVE
        )  # unmaps it and keeps the place empty
        _graves.append((self.address, self.nbytes))
        if len(_graves) > GRAVES:
            try:
                address, nbytes = _graves.popleft()
            except IndexError:
                return
            _libc.munmap(address, nbytes)

    def read(self) -> int:
        """The first byte, from the memory itself."""
        return int(ctypes.c_ubyte.from_address(self.address).value)


def unmapped_twice() -> int:
    """How many pieces of `NativeMemory` were unmapped more than once, in this process."""
    return len(_unmapped_twice)


# -- when everything is over ---------------------------------------------------------------------------------


def assert_adds_up(manager: SafetyManager) -> lifecycle.SafetyStats:
    """I7: what was registered is live or has ended, by type and in all; the figures it was seen by."""
    stats = manager.stats()
    for name, kind in stats.types.items():
        assert kind.registered == kind.live + sum(kind.ended.values()), name
        assert sum(kind.states.values()) == kind.live, (name, kind.states)
        assert sum(kind.closed.values()) >= sum(kind.ended.values()), name
    ends = (stats.released, stats.failed, stats.stuck, stats.detached, stats.orphaned)
    assert stats.total_objects == stats.active_objects + sum(ends)
    assert stats.total_objects == sum(kind.registered for kind in stats.types.values())
    return stats


def assert_nothing_left(manager: SafetyManager, *, timeout: float = 20.0) -> lifecycle.SafetyStats:
    """Nothing is live in `manager` any more, nor is anything left in its tables, nor in any mailbox."""
    registry = manager._registry
    tables = ("claims", "roots", "shared", "delayed", "waiters")

    def left() -> dict[str, object]:
        gc.collect()
        found: dict[str, object] = {name: table for name in tables if (table := getattr(registry, name))}
        waiting = [
            ticket for ticket in list(registry.waiting) if ticket is not None and ticket.phase not in ENDED
        ]
        if waiting:  # one whose object has ended by other means is a leftover that means nothing
            found["waiting"] = waiting
        if manager.stats().active_objects:
            found["live"] = manager.objects()
        return found

    until = time.monotonic() + timeout
    while (found := left()) and time.monotonic() < until:
        time.sleep(0.01)
    assert not found, f"left behind by {manager!r}: {found}"
    stats = assert_adds_up(manager)
    for kind in registry.kinds.values():
        counted = set(kind.alive or ()) - set(kind.gone)
        assert not counted, f"left in the budget of {kind.type_name}: {counted}"
        assert not kind.count.shut, f"left as shut in the counts of {kind.type_name}: {kind.count.shut}"
        assert kind.count.invalid == 0
        assert kind.count.bytes == 0
    return stats
