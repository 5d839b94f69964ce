"""What the core costs, each beside the plainest thing that does part of its work."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pyperf

from lifecycle import ANY_THREAD, SafetyConfig, SafetyManager

TARGETS = {
    "lease, beside an empty context manager made per use": 2.2,
    "lease, beside one with a lock and a counter": 0.5,
    "safe_access, beside a function with the same try": 1.8,
    "register + close, beside weakref.finalize made and fired": 4.0,
    "register + close at 500 000 live, beside at 10 000": 1.25,
    "register + close at leak level simple, beside off": 1.05,
    "timed release, beside a bare hand-off to a thread and back": 2.0,
    "share + close, beside 1 µs of sleepless waiting": 1.0,
    "exclusive access, beside a lease and a bare threading.Lock": 1.5,
}


class Native:
    __slots__ = ("__weakref__",)


class Empty:
    def __enter__(self) -> Empty:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class Counted:
    """The lease that most people write first: correct until an interrupt comes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.valid = True

    def lease(self) -> Use:
        return Use(self)


class Use:
    def __init__(self, owner: Counted) -> None:
        self.owner = owner

    def __enter__(self) -> Counted:
        with self.owner.lock:
            if not self.owner.valid:
                raise RuntimeError("not valid")
            self.owner.users += 1
        return self.owner

    def __exit__(self, *_: object) -> None:
        with self.owner.lock:
            self.owner.users -= 1


def nothing(obj: object) -> None:
    return None


def bare(obj: Any, fn: Any = None, /, *args: Any, errors: Any = ()) -> Any:
    try:
        return fn(obj, *args)
    except BaseException:
        raise
    finally:
        obj = None


def repeat(fn: Callable[[], object]) -> Callable[[int], float]:
    def timed(loops: int) -> float:
        start = pyperf.perf_counter()
        for _ in range(loops):
            fn()
        return float(pyperf.perf_counter() - start)

    return timed


def handed_off() -> Callable[[], object]:
    there: queue.SimpleQueue[object] = queue.SimpleQueue()
    back: queue.SimpleQueue[object] = queue.SimpleQueue()

    def work() -> None:
        while (item := there.get()) is not None:
            back.put(item)

    threading.Thread(target=work, daemon=True).start()

    def hand_off() -> None:
        there.put(1)
        back.get()

    return hand_off


def one_microsecond() -> None:
    until = time.perf_counter_ns() + 1000
    while time.perf_counter_ns() < until:
        pass


def main() -> None:
    runner = pyperf.Runner()
    manager = SafetyManager(name="bench")
    native = Native()
    handle = manager.register(native, "native", release=nothing, release_on=ANY_THREAD)
    counted = Counted()

    def pair(case: str, ours: Callable[[], object], peer: Callable[[], object]) -> None:
        assert case in TARGETS, case
        runner.bench_time_func(f"{case} | ours", repeat(ours))
        runner.bench_time_func(f"{case} | peer", repeat(peer))

    def lease() -> None:
        with handle.lease():
            pass

    def empty() -> None:
        with Empty():
            pass

    def locked() -> None:
        with counted.lease():
            pass

    pair("lease, beside an empty context manager made per use", lease, empty)
    pair("lease, beside one with a lock and a counter", lease, locked)
    pair(
        "safe_access, beside a function with the same try",
        lambda: manager.safe_access(handle, nothing),
        lambda: bare(native, nothing),
    )

    def register_and_close() -> None:
        manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD).close()

    def finalize() -> None:
        weakref.finalize(Native(), nothing, None)

    pair("register + close, beside weakref.finalize made and fired", register_and_close, finalize)

    def with_live(count: int) -> Callable[[int], float]:
        held: list[object] = []
        full = SafetyManager(name=f"live-{count}")

        def timed(loops: int) -> float:
            if not held:
                held.extend(
                    full.register(i, "int", release=nothing, release_on=ANY_THREAD) for i in range(count)
                )
                full.stats()
            start = pyperf.perf_counter()
            for _ in range(loops):
                full.register(Native(), "native", release=nothing, release_on=ANY_THREAD).close()
            return float(pyperf.perf_counter() - start)

        return timed

    case = "register + close at 500 000 live, beside at 10 000"
    runner.bench_time_func(f"{case} | ours", with_live(500_000))
    runner.bench_time_func(f"{case} | peer", with_live(10_000))

    off = SafetyManager(SafetyConfig(leak_level="off"), name="off")
    pair(
        "register + close at leak level simple, beside off",
        register_and_close,
        lambda: off.register(Native(), "native", release=nothing, release_on=ANY_THREAD).close(),
    )
    pair(
        "timed release, beside a bare hand-off to a thread and back",
        lambda: manager.register(Native(), "native", release=nothing).close(),
        handed_off(),
    )
    pair("share + close, beside 1 µs of sleepless waiting", lambda: handle.share().close(), one_microsecond)
    alone = manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD)
    mutex = threading.Lock()

    def exclusive() -> None:
        with alone.exclusive():
            pass

    def lease_and_lock() -> None:
        with handle.lease(), mutex:
            pass

    pair("exclusive access, beside a lease and a bare threading.Lock", exclusive, lease_and_lock)
    handle.close()
    alone.close()


if __name__ == "__main__":
    main()
