"""Where a receiver stands: what it has got and missed.

Each frame has its number within its publisher's life, so what was missed is a difference.

**Lives.** A publisher that is made again begins a new life (`Frame.epoch`), whose frames begin at 0. Unread
frames of an earlier life may still come behind those of a later one: they are counted where they belong.
"""

from __future__ import annotations

from typing import NamedTuple

from lifecycle.distribution import KeepKeyFrames, LatestOnly, Policy
from lifecycle.integrations.across.feeds import Source
from lifecycle.integrations.across.frames import Frame
from lifecycle.integrations.across.header import Head

__all__ = ["Position"]

_new = tuple.__new__


class Position(NamedTuple):
    """Where a receiver stands."""

    epoch: int
    """The life that it is in."""
    cursor: int
    """The number of the next frame of that life."""
    received: int = 0
    missed: int = 0
    lags: int = 0
    restarts: int = 0
    begun: bool = False
    """True if it has got a frame of that life."""
    awaits_key: bool = False
    waiting: Frame | None = None
    """A frame that has come, behind a gap that was told; not received yet."""
    older: tuple[tuple[int, int], ...] = ()
    """Earlier lives, and how far they were read."""
    ended: str = ""

    def follows(self, head: Head) -> bool:
        """True if that frame is the next one, and no key frame is waited for."""
        return self.begun and head.seq == self.cursor and head.epoch == self.epoch and not self.awaits_key

    def with_next(self) -> Position:
        """Where it stands with the frame that `follows`."""
        return _new(Position, (self[0], self[1] + 1, self[2] + 1, *self[3:]))

    def before(self, frame: Frame, policy: type[Policy]) -> Position:
        """Where the receiver stands in front of `frame`, with what it has missed; `frame` waits."""
        seq, epoch = frame.seq, frame.epoch
        if self.begun and epoch == self.epoch and seq == self.cursor:
            # The next one, as most are.
            return self._replace(waiting=frame)
        if epoch == self.epoch:
            gap = seq - self.cursor if self.begun else max(0, seq - self.cursor)
            after = self._replace(cursor=seq)
        elif epoch > self.epoch:
            gap = seq if self.epoch else 0
            after = self._replace(
                epoch=epoch,
                cursor=seq,
                restarts=self.restarts + bool(self.epoch),
                older=(*self.older[-7:], (self.epoch, self.cursor)),
                awaits_key=policy is KeepKeyFrames,
            )
        else:
            read = dict(self.older)
            gap = max(0, seq - read.get(epoch, seq))
            read[epoch] = seq + 1
            after = self._replace(older=tuple(read.items()))
        told = gap > 0 and policy is not LatestOnly
        return after._replace(
            begun=self.begun or epoch >= self.epoch,
            missed=self.missed + gap,
            lags=self.lags + told,
            awaits_key=after.awaits_key or (told and policy is KeepKeyFrames),
            waiting=frame,
        )

    def lag(self, source: Source) -> int:
        """Frames that the publisher has published and the receiver has not reached."""
        if source.epoch == self.epoch:
            return max(0, source.published - self.cursor)
        return source.published if source.epoch > self.epoch else 0
