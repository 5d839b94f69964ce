"""What pools know about themselves: who has what, frozen figures, and the counters behind them."""

from __future__ import annotations

from bisect import bisect_left
from threading import RLock
from typing import Any

from lifecycle.lowlevel import BUCKETS, Facts, HistogramCount, describe, monotonic
from lifecycle.stats import Histogram, Loan

RESULTS = ("reused", "created", "fallback", "timeout", "refused", "closed")
"""What a `get` ends in: an item that had been used before, a new one, a plain one outside the pool, an error
after waiting, an error without, and being closed (a buffer pool then still gives a plain buffer)."""
LOSSES = (
    "aged",
    "reset",
    "check",
    "panic",
    "trimmed",
    "evicted",
    "stale",
    "retired",
    "orphaned",
    "detached",
    "guarded",
)
"""Why an item left the pool: too old, `reset` refused it, `check` refused it, it was invalidated while it was
lent, `trim`, it made room for one of another size or thread, it was written to after its return, the pool was
closed or made smaller, the fence of its loan was lost, so that somebody may use it for ever, `detach` of
its loan gave it away, or it is inaccessible for a while (``guard=``)."""


def loan_of(known: Facts, thread: int) -> Loan:
    """What is to be said of a loan now."""
    seconds = max(0.0, monotonic() - known.born)
    return Loan(known.id, describe(known), known.site, thread, seconds, str(known.state))


class Counts:
    """The counters of one pool, but for the loans that took no time, which each slot counts for itself.

    The lock is held for a few stores and nothing is called under it, so whoever waits for it, in the
    collector too, waits for no longer; and it may be entered again by a signal handler, which then finds each
    of them done or not yet begun.
    """

    __slots__ = ("dropped", "lock", "losses", "results", "wait", "wait_seconds", "waits")

    def __init__(self) -> None:
        self.results: dict[str, int] = dict.fromkeys(RESULTS, 0)
        self.losses: dict[str, int] = dict.fromkeys(LOSSES, 0)
        self.wait: HistogramCount = HistogramCount(BUCKETS)
        self.waits: int = 0
        self.dropped: int = 0
        self.wait_seconds: float = 0.0
        self.lock: RLock = RLock()

    def got(self, result: str, seconds: float, waited: float) -> None:
        """A `get` ended in `result` after `seconds`, of which it waited `waited`."""
        wait = self.wait
        bucket = bisect_left(wait.bounds, seconds)
        with self.lock:
            self.results[result] += 1
            wait.counts[bucket] += 1
            wait.sum += seconds
            if waited:
                self.waits += 1
                self.wait_seconds += waited

    def at_once(self, number: int) -> None:
        """`number` loans of what was there took no time: counted by a slot that is no more."""
        with self.lock:
            self.results["reused"] += number
            self.wait.counts[0] += number

    def lost(self, why: str) -> None:
        """An item left the pool."""
        with self.lock:
            self.losses[why] += 1

    def was_dropped(self) -> None:
        """A loan came back by itself."""
        with self.lock:
            self.dropped += 1

    def snapshot(self, at_once: int) -> dict[str, Any]:
        """The fields of `PoolStats` that are counted; `at_once`: as counted by the slots that are."""
        with self.lock:
            results, counts = self.results.copy(), self.wait.counts.copy()
            losses, waits, waited = self.losses.copy(), self.waits, self.wait_seconds
            total, dropped = self.wait.sum, self.dropped
        results["reused"] += at_once
        counts[0] += at_once
        return {
            "results": results,
            "losses": losses,
            "waits": waits,
            "wait_seconds": waited,
            "get_wait": Histogram(self.wait.bounds, tuple(counts), total),
            "dropped": dropped,
        }


__all__ = ["LOSSES", "RESULTS", "Counts", "loan_of"]
