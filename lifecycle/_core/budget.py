"""Limits how much time a costly operation may take, however often it is asked for."""

from __future__ import annotations

from lifecycle._core import runtime


class Budget:
    """A stock of seconds, and then a share of the time that passes: also in a tight loop the operation takes
    no more than that. A race may overdraw it a little."""

    STOCK, SHARE = 0.5, 0.05

    def __init__(self, stock: float = STOCK, share: float = SHARE) -> None:
        self._stock = stock
        self._share = share
        self._left = stock
        self._at = runtime.monotonic()

    def allows(self) -> bool:
        """Return True if there is something left."""
        now = runtime.monotonic()
        self._left = min(self._stock, self._left + (now - self._at) * self._share)
        self._at = now
        return self._left > 0.0

    def spend(self, since: float) -> None:
        """Take off what was begun at `since` (monotonic)."""
        self._left -= runtime.monotonic() - since
