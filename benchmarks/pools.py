"""What pools cost, beside memory that is made each time, and beside the pool that most Python programs
use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pyperf
from sqlalchemy.pool import QueuePool

from benchmarks.core import Native
from benchmarks.guards import repeat
from lifecycle import BufferPool, ObjectPool, SafetyManager

TARGETS = {
    "1080p buffer, get + return, beside a fresh bytearray written once per page": 0.02,
    "1080p buffer, get + return, beside such a bytearray in memory that malloc reuses": 0.02,
    "object, borrow + return, beside SQLAlchemy's QueuePool with a null connection": 1.0,
}

FRAME = 1920 * 1080 * 4
PAGE = 4096
PAGES = bytes(-(-FRAME // PAGE))
HELD = 8
"""Frames that a pipeline holds at a time."""


def fresh() -> bytearray:
    memory = bytearray(FRAME)
    memory[::PAGE] = PAGES
    return memory


class NullConnection:
    """Does nothing, as a DBAPI connection does it."""

    def rollback(self) -> None:
        return None

    def close(self) -> None:
        return None


def from_the_system(loops: int) -> float:
    """Each in memory that the process did not have before: none is freed while the clock runs."""
    took = 0.0
    while loops > 0:
        batch = min(loops, 16)
        kept = []
        start = pyperf.perf_counter()
        for _ in range(batch):
            kept.append(fresh())
        took += pyperf.perf_counter() - start
        kept.clear()
        loops -= batch
    return took


def held(make: Callable[[], object], give_back: Callable[[object], object]) -> Callable[[], object]:
    """As in a pipeline: the oldest of `HELD` goes when a new one comes."""
    ring: deque[object] = deque()

    def turn() -> None:
        ring.append(make())
        if len(ring) > HELD:
            give_back(ring.popleft())

    return turn


def main() -> None:
    runner = pyperf.Runner()
    manager = SafetyManager(name="bench")
    buffers = BufferPool(manager, FRAME, HELD + 2)
    objects = ObjectPool(manager, Native, size=5)
    queue_pool = QueuePool(NullConnection, pool_size=5, max_overflow=0)  # type: ignore[arg-type]

    case, reusing, borrowing = TARGETS
    runner.bench_time_func(f"{case} | ours", repeat(lambda: buffers.get().close()))
    runner.bench_time_func(f"{case} | peer", from_the_system)
    runner.bench_time_func(
        f"{reusing} | ours",
        repeat(held(buffers.get, lambda buffer: buffer.close())),  # type: ignore[attr-defined]
    )
    runner.bench_time_func(f"{reusing} | peer", repeat(held(fresh, lambda memory: None)))
    runner.bench_time_func(f"{borrowing} | ours", repeat(lambda: objects.get().close()))
    runner.bench_time_func(f"{borrowing} | peer", repeat(lambda: queue_pool.connect().close()))


if __name__ == "__main__":
    main()
