"""The counters behind `lifecycle.stats`. They have one writer at a time (`observe/ledger.py`), so they need
no lock and lose nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from functools import partial
from itertools import zip_longest

from lifecycle._core.record import Record
from lifecycle.states import ENDED, Cause, ObjectState
from lifecycle.stats import Histogram

ENDS = ("released", "failed", "stuck", "detached", "orphaned")

BUCKETS = (1e-5, 1e-4, 1e-3, 5e-3, 0.0166, 0.0333, 0.1, 0.5, 1.0, 5.0, 30.0)
"""Upper bounds in seconds of every histogram; one exactly at ``finalizer_timeout`` is added."""


def bounds_with(timeout: float) -> tuple[float, ...]:
    """`BUCKETS` with one bound exactly at `timeout`."""
    return tuple(sorted({*BUCKETS, timeout}))


class HistogramCount:
    """A histogram being filled, by one writer."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds: tuple[float, ...] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.sum: float = 0.0

    def add_all(self, durations: list[float]) -> None:
        """Count `durations` (seconds)."""
        if not durations:
            return
        self.sum += sum(durations)
        bounds, counts = self.bounds, self.counts
        if max(durations) <= bounds[0]:
            counts[0] += len(durations)
            return
        for bucket, number in Counter(map(partial(bisect_left, bounds), durations)).items():
            counts[bucket] += number

    def snapshot(self, counts: tuple[int, ...] = (), total: float = 0.0) -> Histogram:
        """A frozen copy, with `counts` of the first buckets and their `total` added."""
        both = tuple(one + more for one, more in zip_longest(self.counts, counts, fillvalue=0))
        return Histogram(self.bounds, both, self.sum + total)


class PlainTotals:
    """What the plain ends of one type come to: each is a registration, a closing, a release, a wait of 0 and
    a duration. Never changed but replaced, so that an interrupted count is none."""

    __slots__ = ("bounds", "counts", "number", "sum")

    def __init__(self, bounds: tuple[float, ...], number: int, counts: tuple[int, ...], total: float) -> None:
        self.bounds = bounds
        self.number = number
        self.counts = counts  # of durations, by bucket
        self.sum = total

    @classmethod
    def none(cls, bounds: tuple[float, ...]) -> PlainTotals:
        """None so far."""
        return cls(bounds, 0, (0,) * (len(bounds) + 1), 0.0)

    def plus(self, durations: list[float]) -> PlainTotals:
        """These totals and some more."""
        counts = self.counts
        if max(durations) <= self.bounds[0]:
            counts = (counts[0] + len(durations), *counts[1:])
        else:
            found = Counter(map(partial(bisect_left, self.bounds), durations))
            counts = tuple(number + found[bucket] for bucket, number in enumerate(counts))
        return PlainTotals(self.bounds, self.number + len(durations), counts, self.sum + sum(durations))


COMPACT_AT = 64
"""Ended objects of a type that are kept in its list of live ones in any case."""


class TypeCount:
    """The counters of one type."""

    __slots__ = (
        "bytes",
        "closed",
        "duration",
        "ended",
        "errors",
        "failures",
        "gone",
        "invalid",
        "leaks",
        "order",
        "panics",
        "refused",
        "registered",
        "retries",
        "shut",
        "wait",
    )

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.registered: int = 0
        self.bytes: int = 0
        self.ended: dict[str, int] = dict.fromkeys(ENDS, 0)
        self.closed: dict[str, int] = {str(cause): 0 for cause in Cause}
        self.refused: dict[str, int] = {str(state): 0 for state in ObjectState}
        self.failures: dict[str, int] = {"error": 0, "timeout": 0, "not_released": 0}
        self.panics: int = 0
        self.errors: int = 0
        self.leaks: int = 0
        self.retries: int = 0
        self.invalid: int = 0
        self.shut: dict[int, bool] = {}  # shut and not ended: id -> poisoned
        self.order: deque[Record] = deque()  # oldest first; ended ones are dropped when they pile up
        self.gone: int = 0  # how many of them, or more
        self.duration: HistogramCount = HistogramCount(bounds)
        self.wait: HistogramCount = HistogramCount(bounds)

    @property
    def live(self) -> int:
        """Objects registered and not ended."""
        return self.registered - sum(self.ended.values())

    def oldest(self) -> Record | None:
        """The oldest object that has not ended."""
        order = self.order
        while order and order[0].phase in ENDED:
            order.popleft()
        return order[0] if order else None

    def compact(self) -> None:
        """Forget ended objects once they are the larger part, and more than `COMPACT_AT`: otherwise their
        records stay for as long as no other object of the type comes. Walks twice as many as have ended since
        it last did."""
        if self.gone > COMPACT_AT and 2 * self.gone > len(self.order):
            self.gone = 0
            self.order = deque(record for record in self.order if record.phase not in ENDED)
