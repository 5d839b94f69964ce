"""Why nothing comes: frames that are held from a bounded pool, named with their or anything else.

**The problem.** A pool of eight buffers whose frames are kept is empty after the eighth, and the source waits
for ever: no error, no message on the bus, every state PLAYING.

**What can be known.** A buffer names its pool, and a pool its bound. Where the frames that are still held
take all but two of it (an element or two keep one each), they are the reason. Where the pool has no bound,
they are not.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import attrs

from lifecycle import (
    Handle,
    ObjectState,
)
from lifecycle.integrations.gstreamer._buffers import limits_of_pool
from lifecycle.integrations.gstreamer._native import BufferHead
from lifecycle.integrations.gstreamer.frames.frame import Frame
from lifecycle.integrations.gstreamer.frames.held import Held, names_of_holders
from lifecycle.lowlevel import CollectorNudge, describe, held_pin, raw, snapshot

__all__ = ["HeldFrames", "Stall"]

LIVE: Final = frozenset(
    {ObjectState.CLOSING, ObjectState.VALID, ObjectState.INVALID, ObjectState.DUE, ObjectState.RELEASING}
)
ELSEWHERE: Final = 2
"""Buffers of a pool that elements keep for themselves: one being filled, one being shown."""
NAMED: Final = 8
"""How many held frames are named."""
SLACK: Final = 64
"""How many frames beyond the last count are noted as held before the note is tidied."""


@attrs.frozen
class Stall:
    """A capture to which nothing has come for a while."""

    capture: str
    """The capture's name."""
    seconds: float
    """For how long."""
    starved: bool
    """True if the frames that are held are the reason."""
    held: tuple[str, ...]
    """Frames that are still held, and by whom."""
    text: str
    """All of it in words."""


class HeldFrames:
    """The frames of a capture that something still holds after their turn. Noted by the one thread that
    delivers, read on any.

    Parameters
    ----------
    most:
        How many there may be; None for any number.
    """

    def __init__(self, most: int | None) -> None:
        self._frames: dict[int, Frame] = {}  # by identity; several threads change it
        self._limit = SLACK
        self.most: int | None = most
        self._starving = CollectorNudge()

    def note(self, frame: Frame) -> None:
        """A frame whose turn is over was not given back by it."""
        self._frames[id(frame)] = frame
        if len(self._frames) > self._limit:
            self.tidy()
            self._limit = 2 * len(self._frames) + SLACK

    def room(self) -> bool:
        """Return True if one more may be out."""
        most = self.most
        if most is None or len(self._frames) < most:
            return True
        self.look_around()
        return len(self._frames) < most

    def look_around(self) -> None:
        """Nothing comes, or may be taken: have what can go back do so, also what only garbage holds."""
        self.tidy()
        if self._frames and self._starving.look(self._lent):
            self.tidy()

    def tidy(self) -> None:
        """Forget the frames that are back; what has just fallen free goes back now: its pool may be waiting
        for it."""
        for key, frame in snapshot(self._frames.items()):
            if not is_held(frame):
                self._frames.pop(key, None)

    def _lent(self) -> object:
        """The frames that starve the source: equal as long as none comes back; nothing is equal where they do
        not starve it."""
        handles = self._handles()
        return [handle.id for handle in handles] if self._why(handles) else object()

    def _handles(self) -> list[Handle[Held]]:
        return [frame._handles[0] for frame in snapshot(self._frames.values()) if is_held(frame)]

    def count(self) -> int:
        """How many there are now."""
        return sum(map(is_held, snapshot(self._frames.values())))

    def starving(self) -> tuple[str, tuple[str, ...]]:
        """``(reason, held)``: why they starve the capture's source, empty where they do not, and each of them
        named."""
        handles = self._handles()
        held = tuple(_named(handle) for handle in handles[:NAMED])
        if len(handles) > NAMED:
            held += (f"and {len(handles) - NAMED} more",)
        return self._why(handles), held

    def _why(self, handles: list[Handle[Held]]) -> str:
        if self.most is not None and len(handles) >= self.most:
            return f"{len(handles)} frames are held and max_held={self.most}, so what comes is dropped"
        for count, most in _out_of_pools(handles):
            if most and count >= max(1, most - ELSEWHERE):
                return f"{count} of the {most} buffers of the source's pool are in frames that are held"
        return ""


def is_held(frame: Frame) -> bool:
    """Return True if the frame's memory is still out. Where its last array has just gone it is given back
    here and now."""
    return bool(frame._handles) and frame._handles[0].state in LIVE and not frame.close()


def _out_of_pools(handles: list[Handle[Held]]) -> list[tuple[int, int]]:
    """``(out, most)`` of each pool that their buffers come from; `most` is 0 where it has no bound."""
    out: Counter[int] = Counter()
    bounds: dict[int, int] = {}
    held = None
    try:
        for handle in handles:
            # While it is held the buffer is not released, so its pool is there.
            held = held_pin(handle)
            pool = BufferHead.from_address(raw(held).buffer).pool if held is not None else None
            if pool:
                out[pool] += 1
                bounds[pool] = limits_of_pool(pool)[2]
            held = None
    finally:
        held = None  # K3
    return [(count, bounds[pool]) for pool, count in out.items()]


def _named(handle: Handle[Any]) -> str:
    names = ", ".join(names_of_holders(handle))
    return f"{describe(handle)}, held by {names or 'nothing any more'}"
