"""The counters behind `lifecycle.stats`. They have one writer at a time (`observe/ledger.py`), so they need
no lock and lose nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from functools import partial
from itertools import chain, zip_longest

from lifecycle._core import runtime
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
BLOCK = 1024
"""Records in a block of that list."""
BLOCKS_A_SWEEP = 64
"""Blocks that one call of `Living.sweep` looks through."""


class Living:
    """The records of one type's objects that have not ended, the oldest first, and some that have.

    Counting an end does not look for its record here. The keeper takes out what has ended, some blocks a
    pass, once it is the larger part, so that nobody waits while all that lives is walked through.

    Written by the one who counts. May be read on other threads, and in a handler in the middle of that.
    """

    __slots__ = ("_round", "blocks", "gone")

    def __init__(self) -> None:
        self.blocks: deque[list[Record]] = deque([[]])
        self.gone: int = 0  # how many have ended, or more
        self._round: list[list[Record]] = []  # blocks that are still to be looked through in this round

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def __iter__(self) -> Iterator[Record]:
        return chain.from_iterable(runtime.snapshot(self.blocks))

    def __reversed__(self) -> Iterator[Record]:
        return chain.from_iterable(map(reversed, reversed(runtime.snapshot(self.blocks))))

    def newest(self) -> list[Record]:
        """The block to which the next record is to be appended."""
        block = self.blocks[-1]
        if len(block) >= BLOCK:
            block = []
            self.blocks.append(block)
        return block

    def oldest(self) -> Record | None:
        """The oldest object that has not ended. Changes nothing: it is also asked in the middle of a change.
        After `trim` that is the first."""
        return next((record for record in self if record.phase not in ENDED), None)

    def trim(self) -> None:
        """Take out what has ended before the oldest. By the one who counts."""
        while not self._take_from_front():
            pass

    def sweep(self) -> None:
        """Take out what has ended before the oldest; and all that has, if that is the larger part and more
        than `COMPACT_AT`: otherwise its records stay for as long as no other object of the type comes. Looks
        through twice `BLOCKS_A_SWEEP` blocks; to be called again and again."""
        for _ in range(BLOCKS_A_SWEEP):
            if self._take_from_front():
                break
        if not self._round:
            if self.gone <= COMPACT_AT or 2 * self.gone <= len(self):
                return
            self._round = list(self.blocks)
            self.gone = 0
        for _ in range(min(BLOCKS_A_SWEEP, len(self._round))):
            block = self._round[-1]
            block[:] = [record for record in block if record.phase not in ENDED]
            del self._round[-1]
        if not self._round:
            self._merge()

    def _take_from_front(self) -> bool:
        """Take what ended before the oldest out of the first block; whether that is all."""
        block = self.blocks[0]
        for index, record in enumerate(block):
            if record.phase not in ENDED:
                del block[:index]
                return True
        if len(self.blocks) == 1:
            block.clear()
            return True
        self.blocks.popleft()
        return False

    def _merge(self) -> None:
        """Put small neighbours together."""
        merged: list[list[Record]] = [[]]
        for block in self.blocks:
            if len(merged[-1]) + len(block) <= BLOCK:
                merged[-1] = merged[-1] + block
            else:
                merged.append(block)
        self.blocks = deque(merged)


class TypeCount:
    """The counters of one type."""

    __slots__ = (
        "bytes",
        "closed",
        "duration",
        "ended",
        "errors",
        "failures",
        "invalid",
        "leaks",
        "living",
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
        self.living: Living = Living()
        self.duration: HistogramCount = HistogramCount(bounds)
        self.wait: HistogramCount = HistogramCount(bounds)

    @property
    def live(self) -> int:
        """Objects registered and not ended."""
        return self.registered - sum(self.ended.values())
