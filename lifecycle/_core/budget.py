"""How much time what is dear may take, by whoever asks and however often."""

from __future__ import annotations

from lifecycle._core import runtime


class Budget:
    """A stock of seconds, and then a share of the time that passes: done in a tight loop, what is dear costs
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
