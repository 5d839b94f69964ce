"""What submissions to a device cost beside the bare calls to OpenGL, on whatever driver makes a context here.
CPU time of the calling thread: a software renderer draws on threads of its own."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable
from typing import Any

import pyperf

from benchmarks.sharing import repeat
from lifecycle import ANY_THREAD, SafetyManager, Timeline
from lifecycle.integrations.gpu._native import UINT, function
from lifecycle.integrations.gpu.offscreen import offscreen
from lifecycle.integrations.gpu.opengl import Domain, adopt

TARGETS = {
    "submission with a fence that has signalled and one use, beside a bare fence of OpenGL": 2.5,
    "the same of a domain, whose world is asked twice": 2.5,
    "an empty submission of a domain, beside a bare fence": 2.5,
    "is my world current?, beside is any context current?": 6.0,
    "100 uses in a submission, beside 100 leases": 0.4,
    "one handle 100 times, beside 100 leases": 0.25,
    "poll with 1 000 in flight, beside with one": 1.2,
}
USES = 100


class Told:
    """A fence that says what it is told."""

    __slots__ = ("says",)

    def __init__(self, says: bool = True) -> None:
        self.says = says

    def signalled(self) -> bool:
        return self.says


def nothing(obj: object) -> None:
    return None


def a_bare_fence() -> Callable[[], object]:
    make, ask, delete = map(function, ("glFenceSync", "glClientWaitSync", "glDeleteSync"))

    def call() -> None:
        sync = make(0x9117, 0)
        while ask(sync, 1, 0) not in (0x911A, 0x911C):
            pass
        delete(sync)

    return call


def a_submission(of: Any, timeline: Timeline, *handles: Any) -> Callable[[], object]:
    submission, poll = of.submission, timeline.poll

    def call() -> None:
        with submission() as work:
            for handle in handles:
                work.use(handle)
        while not poll():
            pass

    return call


def uses(handles: list[Any]) -> Callable[[int], float]:
    """Uses of all these in one submission, without its begin and its end."""
    timeline = Timeline("uses", fence=Told)

    def timed(loops: int) -> float:
        took = 0.0
        for _ in range(loops):
            with timeline.submission() as work:
                use = work.use
                start = time.thread_time()
                for handle in handles:
                    use(handle)
                took += time.thread_time() - start
            timeline.poll()
        return took

    return timed


def leases(handle: Any) -> Callable[[int], float]:
    """As `uses`, so what the loop costs is in both."""

    def timed(loops: int) -> float:
        lease = handle.lease
        start = time.thread_time()
        for _ in range(loops):
            for _ in range(USES):
                with lease():
                    pass
        return time.thread_time() - start

    return timed


def polls(in_flight: int) -> Callable[[], object]:
    timeline = Timeline(f"{in_flight} in flight", fence=lambda: Told(False))
    for _ in range(in_flight):
        with timeline.submission():
            pass
    return timeline.poll


def texture(domain: Domain) -> Any:
    name = UINT()
    function("glGenTextures")(1, ctypes.byref(name))
    function("glBindTexture")(0x0DE1, name.value)
    return domain.own("texture", name.value)


def main() -> None:
    runner = pyperf.Runner()
    manager = SafetyManager(name="gpu")
    with offscreen(), contextlib.ExitStack() as stack:
        objects = [
            stack.enter_context(manager.register([0], "buffer", release=nothing, release_on=ANY_THREAD))
            for _ in range(USES)
        ]
        domain = adopt(manager=manager)
        stack.callback(domain.close)
        owned = stack.enter_context(texture(domain))
        simple = Timeline("simple", fence=Told)
        bare = repeat(a_bare_fence())
        lease = leases(objects[0])
        cases: list[tuple[Callable[[int], float], Callable[[int], float]]] = [
            (repeat(a_submission(simple, simple, objects[0])), bare),
            (repeat(a_submission(domain, domain.timeline, owned)), bare),
            (repeat(a_submission(domain, domain.timeline)), bare),
            (repeat(domain.here), repeat(domain.facts.current)),
            (uses(objects), lease),
            (uses([objects[0]] * USES), lease),
            (repeat(polls(1_000)), repeat(polls(1))),
        ]
        for case, (ours, peer) in zip(TARGETS, cases, strict=True):
            runner.bench_time_func(f"{case} | ours", ours)
            runner.bench_time_func(f"{case} | peer", peer)


if __name__ == "__main__":
    main()
