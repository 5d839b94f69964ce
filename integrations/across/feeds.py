"""What a receiver asks of the library that carries the frames."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from lifecycle.integrations.across.frames import Frame

__all__ = ["NOBODY", "Feed", "Source"]


class Source(NamedTuple):
    """The publisher, as far as it can be seen now."""

    epoch: int
    """Its life; 0 where there has been none."""
    published: int
    """What it has published in that life."""
    state: str
    """``"alive"``, ``"closed"`` or ``"died"``."""


NOBODY = Source(0, 0, "alive")


class Feed(Protocol):
    """The open end of a topic in this process. One thread at a time calls `take`; the rest any thread may
    call at any moment."""

    def take(self) -> Frame | None:
        """The next frame that has come, or None. Raises `ClosedError` where none can come any more."""

    def has_more(self) -> bool:
        """Return True if `take` would give one."""

    def closed(self) -> bool:
        """Return True if what carries the frames was closed under this end, so that nothing can come any
        more."""

    def wait(self, seconds: float) -> None:
        """Return when something may have come, after `seconds` at the latest; other threads run meanwhile."""

    def source(self) -> Source:
        """The publisher of now."""

    def peers(self) -> list[dict[str, Any]]:
        """The other processes at the topic, as far as they are known: ``pid``, ``executable``, ``state``."""

    def start(self, epoch: int) -> int | None:
        """The number of the first frame of a life that came to this end; None where that is not needed,
        because `source` told how many were published when this end was opened."""

    def shut(self) -> None:
        """Let go of everything, and wake a thread that waits; what another thread is calling ends first."""

    def keep(self) -> None:
        """In a forked child: destroy nothing, ever."""
