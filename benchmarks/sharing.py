"""What sharing costs: publishing beside a queue for every receiver, closing after fences beside closing
without."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

import pyperf

from lifecycle import ANY_THREAD, FrameDistributor, ReleaseQueue, SafetyManager, Timeline
from lifecycle.errors import Empty

TARGETS = {
    "publish to 64 polling receivers, beside to 1": 1.5,
    "publish to 64 receivers, beside a queue.Queue for each": 0.05,
    "publish a handle to 64 receivers, beside a share and a queue.Queue for each": 0.05,
    "recv, beside queue.Queue.get": 2.0,
    "close(after=) + drain with signalled fences, beside 6 µs of work": 1.0,
    "a look at 2 000 entries behind a pending fence, beside at 10": 1.5,
}
RECEIVERS = 64


class Signalled:
    """A fence of a timeline, signalled already."""

    __slots__ = ("says", "timeline")

    def __init__(self, timeline: object, says: bool = True) -> None:
        self.timeline = timeline
        self.says = says

    def signalled(self) -> bool:
        return self.says


def nothing(obj: object) -> None:
    return None


def repeat(fn: Callable[[], object]) -> Callable[[int], float]:
    """CPU time of this thread, here and in the rest: who else runs on the machine is no cost of ours."""

    def timed(loops: int) -> float:
        start = time.thread_time()
        for _ in range(loops):
            fn()
        return time.thread_time() - start

    return timed


def publishing(receivers: int, item: Any) -> Callable[[], object]:
    distributor: FrameDistributor[Any] = FrameDistributor(16)
    kept = [distributor.subscribe() for _ in range(receivers)]
    for receiver in kept:
        try:
            receiver.recv(timeout=0)
        except Empty:
            continue
    publishing_to.append(kept)

    def publish() -> None:
        distributor.publish(item)

    return publish


publishing_to: list[Any] = []
"""The receivers, which would be closed if they were dropped."""


def into_queues(item: Any) -> Callable[[], object]:
    """The plain way: put it into the queue of each, without a limit that would have to be looked after."""
    queues: list[queue.Queue[Any]] = [queue.Queue() for _ in range(RECEIVERS)]

    def publish() -> None:
        for each in queues:
            each.put(item)
        if queues[0].qsize() > 256:
            for each in queues:
                each.queue.clear()

    return publish


def shares_into_queues(handle: Any) -> Callable[[], object]:
    """The same where each receiver owns what it gets, and what nobody fetched is closed."""
    queues: list[queue.Queue[Any]] = [queue.Queue() for _ in range(RECEIVERS)]

    def publish() -> None:
        for each in queues:
            each.put(handle.share())
            if each.qsize() > 16:
                each.get().close()

    return publish


def receiving(loops: int) -> float:
    distributor: FrameDistributor[Any] = FrameDistributor(loops)
    receiver = distributor.subscribe()
    for _ in range(loops):
        distributor.publish(b"frame")
    recv = receiver.recv
    start = time.thread_time()
    for _ in range(loops):
        recv(0)
    return time.thread_time() - start


def getting(loops: int) -> float:
    there: queue.Queue[Any] = queue.Queue()
    for _ in range(loops):
        there.put(b"frame")
    start = time.thread_time()
    for _ in range(loops):
        there.get(timeout=1)
    return time.thread_time() - start


def after_fences(loops: int) -> float:
    manager = SafetyManager(name="fences")
    place = ReleaseQueue("gpu")
    timeline = Timeline("gpu", place)
    handles = [manager.register([0], "buffer", release=nothing, release_on=place) for _ in range(loops)]
    fences = [Signalled(timeline) for _ in range(loops)]
    start = time.thread_time()
    for handle, fence in zip(handles, fences, strict=True):
        handle.close(after=fence)
    place.drain()
    took = time.thread_time() - start
    assert manager.stats().active_objects == 0
    return took


def six_microseconds(loops: int) -> float:
    return 6e-6 * loops


def looking(entries: int) -> Callable[[int], float]:
    def timed(loops: int) -> float:
        manager = SafetyManager(name="looking")
        place = ReleaseQueue("gpu")
        timeline = Timeline("gpu", place)
        fences = [Signalled(timeline, False) for _ in range(entries)]
        for fence in fences:
            manager.register([0], "buffer", release=nothing, release_on=place).close(after=fence)
        place.drain()
        record = next(iter(place.generation.timelines._lines.values())).waiting[0]
        start = time.thread_time()
        for _ in range(loops):
            record.more().not_before = 0.0  # as if its time had come
            place.generation.put(record)
            place.drain()
        took = time.thread_time() - start
        for fence in fences:
            fence.says = True
        record.more().not_before = 0.0
        place.generation.put(record)
        place.drain()
        assert manager.close().ok
        return took

    return timed


def main() -> None:
    runner = pyperf.Runner()
    manager = SafetyManager(name="sharing")
    handle = manager.register([0], "frame", release=nothing, release_on=ANY_THREAD)
    cases: list[tuple[Callable[[int], float], Callable[[int], float]]] = [
        (repeat(publishing(RECEIVERS, b"frame")), repeat(publishing(1, b"frame"))),
        (repeat(publishing(RECEIVERS, b"frame")), repeat(into_queues(b"frame"))),
        (repeat(publishing(RECEIVERS, handle)), repeat(shares_into_queues(handle))),
        (receiving, getting),
        (after_fences, six_microseconds),
        (looking(2_000), looking(10)),
    ]
    for case, (ours, peer) in zip(TARGETS, cases, strict=True):
        runner.bench_time_func(f"{case} | ours", ours)
        runner.bench_time_func(f"{case} | peer", peer)
    handle.close()


if __name__ == "__main__":
    main()
