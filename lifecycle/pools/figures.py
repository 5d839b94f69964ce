"""What pools know about themselves: who has what, frozen figures, and the counters behind them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import attrs

from lifecycle._core import runtime
from lifecycle._core.describe import ago, describe, state_of
from lifecycle._core.record import Record
from lifecycle.stats import BUCKETS, Histogram, HistogramCount

RESULTS = ("reused", "created", "fallback", "timeout", "refused", "closed")
"""What a `get` ends in: an item that had been used before, a new one, a plain one outside the pool, an error
after waiting, an error without, and being closed (a buffer pool then still gives a plain buffer)."""
LOSSES = ("aged", "reset", "check", "panic", "trimmed", "evicted", "stale", "retired")
"""Why an item left the pool: too old, `reset` refused it, `check` refused it, it was invalidated while it was
lent, `trim`, it made room for one of another size or thread, it was written to after its return, the pool was
closed or made smaller."""


@attrs.frozen
class Loan:
    """One thing that is lent and has not come back."""

    id: int
    """The id of the handle that `get` gave."""
    text: str
    """How messages name it."""
    site: str
    """Where it was lent, as ``file.py:31``."""
    thread: int
    """The identity of the thread that borrowed it."""
    seconds: float
    """For how long."""
    state: str
    """``valid`` while its handle is open, ``closing`` once that is closed and only views, leases or arrays
    hold it."""

    def __str__(self) -> str:
        held = "" if self.state == "valid" else f", {self.state}: a lease or view still holds it"
        at = f" at {self.site}" if self.site else ""
        return f"{self.text}, lent {self.seconds:.3g} s ago{at} on thread {self.thread}{held}"


def loan_of(record: Record, thread: int) -> Loan:
    """What is to be said of a loan now."""
    seconds = max(0.0, runtime.monotonic() - record.born)
    site = runtime.describe_site(record.site)
    return Loan(record.id, describe(record), site, thread, seconds, str(state_of(record)))


@attrs.frozen
class PoolStats:
    """A pool's figures at one moment."""

    name: str
    items: Mapping[str, int]
    """``idle`` and ``in_use``; what was lent from outside the pool (fallbacks) is in use as well."""
    items_limit: int
    """How many the pool keeps at most."""
    item_bytes: int
    """Bytes of memory that the pool itself holds, idle or lent. 0 for pools of objects."""
    waiters: int
    """Callers that wait now."""
    results: Mapping[str, int]
    """Calls of `get` by what they ended in."""
    waits: int
    """How many of them had to wait for somebody else."""
    wait_seconds: float
    """How long, in all."""
    get_wait: Histogram
    """The time to get an item. One that was taken at once counts as 0 seconds."""
    losses: Mapping[str, int]
    """Items that left the pool, by reason."""
    dropped: int
    """Loans that came back because their handle was garbage-collected, not closed. The manager reports each
    as a leak."""
    longest: Loan | None
    """The loan that has lasted longest."""

    @property
    def fallbacks(self) -> int:
        """How often something plain was served instead of an item of the pool."""
        return self.results["fallback"]


@attrs.frozen
class PoolReport:
    """What closing a pool achieved."""

    name: str
    missing: tuple[Loan, ...]
    """What never came back, longest first. It goes when its last holder lets go, and to nobody else."""

    @property
    def ok(self) -> bool:
        """Whether everything had come back."""
        return not self.missing

    def __bool__(self) -> bool:
        """As `ok`."""
        return self.ok


class Counts:
    """The counters of one pool, but for the loans that took no time, which each slot counts for itself.

    The lock is held for a few stores and nothing is called under it, so whoever waits for it, in the
    collector too, waits for no longer; and it may be entered again by a signal handler, which then finds each
    of them done or not yet begun.
    """

    __slots__ = ("dropped", "lock", "losses", "results", "wait", "wait_seconds", "waits")

    def __init__(self) -> None:
        self.results = dict.fromkeys(RESULTS, 0)
        self.losses = dict.fromkeys(LOSSES, 0)
        self.wait = HistogramCount(BUCKETS)
        self.waits = self.dropped = 0
        self.wait_seconds = 0.0
        self.lock = runtime.RLock()

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


__all__ = ["LOSSES", "RESULTS", "Counts", "Loan", "PoolReport", "PoolStats", "ago", "loan_of"]
