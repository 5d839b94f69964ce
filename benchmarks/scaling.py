"""How costs grow: with the number of live objects, of receivers, of threads, of submissions in flight.

Each benchmark is one point of one curve: ``curve @ number | ours`` and ``| peer``. `CURVES` names them with
what the numbers count. ``python -m benchmarks --publish`` draws them.
"""

from __future__ import annotations

import atexit
import itertools
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import pyperf

from benchmarks.core import Counted, Native, nothing
from lifecycle import ANY_THREAD, FrameDistributor, Handle, SafetyConfig, SafetyManager, Timeline


class Curve(NamedTuple):
    """What is drawn: its file, what is counted, the numbers, and what the peer is."""

    file: str
    counted: str
    numbers: tuple[int, ...]
    peer: str
    clock: str


QUIET = SafetyConfig(leak_level="off")
"""What is dropped at the end of a benchmark, up to a million, is told of by nobody."""
CPU = "CPU time of the process, µs"
THREAD = "CPU time of the thread, µs"
ELAPSED = "elapsed time, µs"
LIVE = (1_000, 10_000, 100_000, 1_000_000)
RECEIVERS = (1, 4, 16, 64)
THREADS = (1, 2, 4, 8, 16)
IN_FLIGHT = (1, 8, 64, 512)
CURVES = {
    "register + close": Curve("objects", "objects live meanwhile", LIVE, "weakref.finalize", CPU),
    "publish": Curve("receivers", "receivers", RECEIVERS, "a queue.Queue for each", THREAD),
    "register + close, all threads together": Curve(
        "threads", "threads", THREADS, "weakref.finalize", ELAPSED
    ),
    "lease of one object, all threads together": Curve(
        "leases", "threads", THREADS, "a lock and a counter", ELAPSED
    ),
    "submission with one use, and a poll": Curve(
        "submissions", "submissions in flight", IN_FLIGHT, "a deque of fences and objects, by hand", THREAD
    ),
}


def per_object(
    live: int, make: Callable[[], object], keep: Callable[[], Any], end: Callable[[Any], object]
) -> Callable[[int], float]:
    """CPU time for `make`, with `live` of what `keep` makes around, each ended by `end` when all is over."""
    held: list[Any] = []

    def timed(loops: int) -> float:
        if not held:
            held.extend(keep() for _ in range(live))
            atexit.register(lambda: [end(one) for one in held])
        start = time.process_time()
        for _ in range(loops):
            make()
        return time.process_time() - start

    return timed


def registering(live: int) -> Callable[[int], float]:
    manager = SafetyManager(QUIET, name=f"live-{live}")

    def register() -> Any:
        return manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD)

    return per_object(live, lambda: register().close(), register, Handle.close)


def finalizing(live: int) -> Callable[[int], float]:
    def watched() -> tuple[Native, weakref.finalize[..., Native]]:
        native = Native()
        return native, weakref.finalize(native, nothing, None)

    return per_object(
        live, lambda: weakref.finalize(Native(), nothing, None), watched, lambda pair: pair[1].detach()
    )


def publishing(receivers: int) -> Callable[[int], float]:
    distributor: FrameDistributor[bytes] = FrameDistributor(16)
    kept = [distributor.subscribe() for _ in range(receivers)]

    def timed(loops: int) -> float:
        assert len(kept) == receivers
        publish = distributor.publish
        start = time.thread_time()
        for _ in range(loops):
            publish(b"frame")
        return time.thread_time() - start

    return timed


def into_queues(receivers: int) -> Callable[[int], float]:
    """Queues without a limit; they are emptied where the clock does not run."""
    queues: list[queue.Queue[bytes]] = [queue.Queue() for _ in range(receivers)]

    def timed(loops: int) -> float:
        took = 0.0
        for first in range(0, loops, 256):
            start = time.thread_time()
            for _ in range(min(256, loops - first)):
                for each in queues:
                    each.put(b"frame")
            took += time.thread_time() - start
            for each in queues:
                each.queue.clear()
        return took

    return timed


def on_threads(number: int, work: Callable[[int], None]) -> Callable[[int], float]:
    """Elapsed time for so many loops of `work`, divided among `number` threads that begin together."""

    def timed(loops: int) -> float:
        shares = [len(range(first, loops, number)) for first in range(number)]
        ready = threading.Barrier(number + 1)

        def run(share: int) -> None:
            ready.wait()
            work(share)

        threads = [threading.Thread(target=run, args=(share,)) for share in shares]
        for thread in threads:
            thread.start()
        ready.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    return timed


def register_and_close(manager: SafetyManager) -> Callable[[int], None]:
    def work(loops: int) -> None:
        for _ in itertools.repeat(None, loops):
            manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD).close()

    return work


def finalize(loops: int) -> None:
    for _ in itertools.repeat(None, loops):
        weakref.finalize(Native(), nothing, None)


def leasing(shared: Any) -> Callable[[int], None]:
    def work(loops: int) -> None:
        for _ in itertools.repeat(None, loops):
            with shared.lease():
                pass

    return work


class Fence:
    """Signals as soon as so many younger ones were made."""

    __slots__ = ("made", "number")
    last = 0

    def __init__(self, in_flight: int) -> None:
        Fence.last += 1
        self.number = Fence.last + in_flight

    def signalled(self) -> bool:
        return Fence.last >= self.number


def submitting(in_flight: int) -> Callable[[int], float]:
    manager = SafetyManager(QUIET, name=f"in-flight-{in_flight}")
    handle = manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD)
    timeline = Timeline("device", fence=lambda: Fence(in_flight))

    def finish() -> None:
        Fence.last += in_flight
        timeline.poll()

    atexit.register(finish)  # else the exit waits for what is in flight

    def timed(loops: int) -> float:
        start = time.thread_time()
        for _ in range(loops):
            with timeline.submission() as work:
                work.use(handle)
            timeline.poll()
        return time.thread_time() - start

    return timed


def by_hand(in_flight: int) -> Callable[[int], float]:
    """What an expert writes: nothing is told of an error, of a fork, of who still uses what."""
    waiting: deque[tuple[Fence, object]] = deque()
    native = Native()

    def timed(loops: int) -> float:
        start = time.thread_time()
        for _ in range(loops):
            waiting.append((Fence(in_flight), native))
            while waiting and waiting[0][0].signalled():
                waiting.popleft()
        return time.thread_time() - start

    return timed


def leases_of(number: int) -> tuple[Callable[[int], float], Callable[[int], float]]:
    manager = SafetyManager(QUIET, name="leases")
    handle = manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD)
    return on_threads(number, leasing(handle)), on_threads(number, leasing(Counted()))


MAKERS: dict[str, Callable[[int], tuple[Callable[[int], float], Callable[[int], float]]]] = {
    "register + close": lambda live: (registering(live), finalizing(live)),
    "publish": lambda receivers: (publishing(receivers), into_queues(receivers)),
    "register + close, all threads together": lambda number: (
        on_threads(number, register_and_close(SafetyManager(QUIET, name="threads"))),
        on_threads(number, finalize),
    ),
    "lease of one object, all threads together": leases_of,
    "submission with one use, and a poll": lambda number: (submitting(number), by_hand(number)),
}


def main() -> None:
    runner = pyperf.Runner()
    for title, curve in CURVES.items():
        for number in curve.numbers:
            ours, peer = MAKERS[title](number)
            runner.bench_time_func(f"{title} @ {number} | ours", ours)
            runner.bench_time_func(f"{title} @ {number} | peer", peer)


if __name__ == "__main__":
    main()
