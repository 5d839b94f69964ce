"""The place of one published frame in the ring."""

from __future__ import annotations

from typing import Any

from lifecycle.distribution.chain import Link


class _Gone:
    def __repr__(self) -> str:
        return "gone"


GONE: Any = _Gone()
"""What a slot holds once its frame was given back."""


class Slot(Link):
    """One published frame, or the end of the stream."""

    __slots__ = ("end", "gone", "indexed", "item", "key", "seq", "shared", "struck")
    seq: int
    """Its number, from 0. Of the end: the last frame's."""
    item: Any
    """The ring's own share."""
    shared: bool
    key: bool
    end: bool
    gone: bool
    """It was overwritten."""
    indexed: bool
    struck: int
    """How often giving its share back was broken off."""


def empty_slot(seq: int, *, end: bool = False) -> Slot:
    """A slot that holds nothing and is in no table."""
    slot = Slot()
    slot.seq = seq
    slot.item = GONE
    slot.shared = slot.key = False
    slot.end = end
    slot.gone = slot.indexed = True
    slot.struck = 0
    return slot
