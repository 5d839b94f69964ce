"""Why nothing comes: frames that are held from a bounded pool, named with their holders, or anything else.

**The problem.** A pool of eight buffers whose frames are kept is empty after the eighth, and the source waits for ever: no error,
no message on the bus, every state PLAYING.

**What can be known.** A buffer names its pool, and a pool its bound. Where the frames that are still held take all but two of it
(an element or two keep one each), they are the reason. Where the pool has no bound, they are not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import attrs

from integrations.gstreamer._buffers import limits_of_pool
from integrations.gstreamer._native import BufferHead
from integrations.gstreamer.frames.frame import Frame
from integrations.gstreamer.holders import holders_of_record
from lifecycle import Handle, ObjectState
from lifecycle.cell.fates import describe

__all__ = ["LIVE", "Stall", "is_held", "starving"]

LIVE: Final = frozenset(
    {ObjectState.CLOSING, ObjectState.VALID, ObjectState.INVALID, ObjectState.DUE, ObjectState.RELEASING}
)
ELSEWHERE: Final = 2
"""Buffers of a pool that elements keep for themselves: one being filled, one being shown."""
NAMED: Final = 8
"""How many held frames are named."""


@attrs.frozen
class Stall:
    """A capture to which nothing has come for a while."""

    capture: str
    seconds: float
    """For how long."""
    starved: bool
    """Whether the frames that are held are the reason."""
    held: tuple[str, ...]
    """Frames that are still held, and by whom."""
    text: str
    """All of it in words."""


def is_held(frame: Frame) -> bool:
    """Whether the frame's memory is still out. Where its last array has just gone it is given back here and now."""
    return bool(frame._handles) and frame._handles[0].state in LIVE and not frame.close()


def starving(frames: Iterable[Frame], most_held: int | None) -> tuple[str, tuple[str, ...]]:
    """``(reason, held)``: why the held frames of a capture starve its source, empty where they do not, and each of them named."""
    handles = [frame._handles[0] for frame in frames if is_held(frame)]
    held = tuple(_named(handle) for handle in handles[:NAMED])
    if len(handles) > NAMED:
        held += (f"and {len(handles) - NAMED} more",)
    if most_held is not None and len(handles) >= most_held:
        return f"{len(handles)} frames are held and max_held={most_held}, so what comes is dropped", held
    pools: Counter[int] = Counter()
    bounds: dict[int, int] = {}
    core = None
    for handle in handles:
        core = handle._record()  # while somebody has it the buffer is not released, and so its pool is there
        if core is None:
            continue
        native = handle._record.obj
        pool = BufferHead.from_address(native.buffer).pool if native is not None else None
        if pool:
            pools[pool] += 1
            bounds[pool] = limits_of_pool(pool)[2]
        native = core = None
    for pool, count in pools.items():
        most = bounds[pool]
        if most and count >= max(1, most - ELSEWHERE):
            return f"{count} of the {most} buffers of the source's pool are in frames that are held", held
    return "", held


def _named(handle: Handle[Any]) -> str:
    holders = holders_of_record(handle._record)
    return f"{describe(handle._record)}, held by {', '.join(holders) or 'nobody any more'}"
