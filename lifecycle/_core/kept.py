"""What a registration keeps alive until its release has returned (``keep_alive=``), such as the callbacks
that its native calls.

A callback that is lost is a leak; one that is freed while its native may still call it is a crash. So if it
is not known whether the native is gone (stuck, failed, orphaned, detached), what belongs to the object is
kept for ever. Pointers to functions are dropped a moment later than the rest: the release may have been
called by such a function, whose machine code still has to return.
"""

from __future__ import annotations

import ctypes
from collections import deque
from typing import Any

from lifecycle._core.record import Extra, Record
from lifecycle._core.runtime import monotonic
from lifecycle.states import RELEASED

LET_GO_AFTER = 0.25
"""Seconds for which a function may still be on its way back to C."""

_FUNCTIONS: tuple[type, ...] = (ctypes._CFuncPtr,)  # type: ignore[attr-defined]

for_ever: list[Any] = []
"""What may still be called."""

later: deque[tuple[float, tuple[Any, ...]]] = deque()
"""What is let go at (monotonic)."""


def let_go(record: Record, extra: Extra) -> None:
    """The object has ended: decide about what was kept alive for it. Called at its place; may be repeated."""
    kept = extra.keep_alive
    if record.outcome is not RELEASED:
        for_ever.append(kept)
    elif any(_is_function(each) for each in kept):
        later.append((monotonic() + LET_GO_AFTER, kept))
    extra.keep_alive = kept = ()


def _is_function(thing: Any) -> bool:
    return isinstance(thing, _FUNCTIONS) or type(thing).__module__ == "_cffi_backend"


def sweep() -> None:
    """Let go what is over its time."""
    now = monotonic()
    while later and later[0][0] <= now:
        try:
            entry = later.popleft()
        except IndexError:  # another thread was quicker
            return
        if entry[0] > now:
            later.appendleft(entry)
        entry = None  # type: ignore[assignment]
