"""What one submission uses: the pins that a device has, until its fence has signalled."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from lifecycle._core import runtime
from lifecycle._core.record import Pin
from lifecycle._core.runtime import Site


class Uses(dict[Pin, Any]):
    """The pins of one submission, each once, with the place of its object, and how far the submission is. Its
    timeline refers to this, and only weakly to the call that ends the block, so it learns that a block has
    died without its end."""

    __slots__ = (
        "begun",
        "block",
        "fences",
        "lost",
        "number",
        "since",
        "site",
        "state",
        "taking",
        "thread",
        "timeline",
        "todo",
        "worlds",
    )
    number: int
    begun: bool
    taking: Uses | None  # itself while it takes uses, so that one load asks that and is where they are stored
    timeline: str
    since: float
    site: Site | None
    thread: int
    state: str
    worlds: tuple[int, ...] | None  # of the places (`Place.world`) whose objects it takes unasked; None: any
    block: weakref.ref[Any] | None  # None: it is over
    fences: list[Any]
    lost: str  # why, once that is said
    todo: list[Callable[[], object]]  # what its end consists of, the first step last; empty: it has ended

    def over(self) -> bool:
        """Return True if its block has ended, or died without its end. Callable on any thread."""
        block = self.block  # looked at once: the thread that ends the block takes it away
        return block is None or runtime.is_dead(block)

    def __str__(self) -> str:
        """Timeline, age, where it was begun, how far it is."""
        at = runtime.describe_site(self.site)
        age = (runtime.monotonic() - self.since) * 1000.0
        fence = f" ({self.fences[0]!r})" if self.fences else ""
        return (
            f"a submission to timeline {self.timeline!r}, begun {age:.0f} ms ago{at and f' at {at}'}, "
            f"{self.state}{fence}"
        )

    __repr__ = __str__
