"""Who is at the other end, and what was freed for those who died."""

from __future__ import annotations

from typing import Literal

import attrs

__all__ = ["Peer", "Reaped"]


@attrs.frozen
class Peer:
    """A process at a topic."""

    pid: int
    """Its number."""
    executable: str
    """The name of its program; empty where that cannot be read."""
    state: Literal["alive", "dead", "inaccessible", "undefined"]
    """``"dead"`` until it was reaped. One that is stopped, or hangs, is alive."""


@attrs.frozen
class Reaped:
    """What a reaping has done."""

    freed: int
    """Dead processes whose seats and frames are free again."""
    failed: int
    """Dead processes of the topic that could not be removed: they may keep files, and keep no frames."""
    left: int = 0
    """Dead processes of any topic that the engine cannot remove: a few small files each."""
