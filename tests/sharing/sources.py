"""Frames for tests of sharing: objects that know how often they were released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifecycle import ANY_THREAD, FrameReceiver, Handle, Lagged, SafetyManager
from lifecycle.errors import Empty
from tests.core.natives import Native


def frame(
    manager: SafetyManager,
    native: Native | None = None,
    release: Callable[[Any], object] = Native.free,
    **how: Any,
) -> Handle[Native]:
    """A registered frame."""
    how.setdefault("release_on", ANY_THREAD)
    return manager.register(native or Native("frame"), "frame", release=release, **how)


def read(receiver: FrameReceiver[Any]) -> tuple[list[Any], int]:
    """Everything there is for `receiver` now, and how many it was told it had missed."""
    got: list[Any] = []
    missed = 0
    while True:
        try:
            got.append(receiver.recv(timeout=0))
        except Lagged as lagged:
            missed += lagged.missed
        except Empty:
            return got, missed


def adds_up(receiver: FrameReceiver[Any]) -> bool:
    """published == received + missed + lag."""
    stats = receiver.stats()
    return stats.published == stats.received + stats.missed + stats.lag
