"""What a flight recorder costs, beside the same work without one, and what a watched call costs.

Time is the thread's own on the processor: nothing in here waits."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyperf

import lifecycle.recorder
from lifecycle import ANY_THREAD, SafetyManager
from lifecycle.recorder.postmortem import analyse
from lifecycle.recorder.reader import read
from lifecycle.watch import watch

TARGETS = {
    "register + close, recorded, beside the same unrecorded": 1.5,
    "lease, recorded with its times, beside the same unrecorded": 2.6,
    "safe_access, recorded, beside the same unrecorded": 2.6,
    "a thread's first record, beside 20 µs": 1.0,
    "post-mortem of 65 536 records, beside 0.5 s": 1.0,
    "method of an open object under watch, beside the bare call and 350 ns": 1.0,
}

Timed = Callable[[int], float]


class Native:
    """Stands for a native object."""


class Pump:
    """A class of a library."""

    def __init__(self) -> None:
        self.open = True

    def close(self) -> None:
        self.open = False

    def push(self) -> None:
        return None


class Bare:
    """The same, not watched."""

    def push(self) -> None:
        return None


def nothing(obj: object) -> None:
    return None


def repeat(function: Callable[[], object]) -> Timed:
    def timed(loops: int) -> float:
        start = time.thread_time()
        for _ in range(loops):
            function()
        return time.thread_time() - start

    return timed


def recorded(folder: Path, timed: Timed) -> Timed:
    def run(loops: int) -> float:
        recorder = lifecycle.recorder.start(folder / "bench-{pid}.rec", fault=False, keep=0)
        try:
            return timed(loops)
        finally:
            recorder.stop()
            Path(recorder.path).unlink()

    return run


def first_records(loops: int) -> float:
    """Of so many threads, each its first."""
    times = []

    def one() -> None:
        recorder = lifecycle.recorder.active()
        assert recorder is not None
        start = time.thread_time()
        recorder.note("first")
        times.append(time.thread_time() - start)

    for _ in range(loops):
        thread = threading.Thread(target=one)
        thread.start()
        thread.join()
    return float(sum(times))


def constant(seconds: float) -> Timed:
    return lambda loops: loops * seconds


def main() -> None:
    runner = pyperf.Runner()
    manager = SafetyManager(name="bench")
    handle = manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD)

    def register() -> None:
        manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD).close()

    def lease() -> None:
        with handle.lease():
            pass

    def access() -> None:
        with manager.safe_access(handle):
            pass

    def pair(case: str, ours: Timed, peer: Timed) -> None:
        assert case in TARGETS, case
        runner.bench_time_func(f"{case} | ours", ours)
        runner.bench_time_func(f"{case} | peer", peer)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, function in (
            ("register + close, recorded", register),
            ("lease, recorded with its times", lease),
            ("safe_access, recorded", access),
        ):
            timed = repeat(function)
            pair(f"{what}, beside the same unrecorded", recorded(folder, timed), timed)
        pair("a thread's first record, beside 20 µs", recorded(folder, first_records), constant(20e-6))

        full = folder / "full.rec"
        recorder = lifecycle.recorder.start(full, fault=False)
        for _ in range(65_536 // 4 + 10):
            register()
        recorder.stop()
        pair(
            "post-mortem of 65 536 records, beside 0.5 s",
            repeat(lambda: str(analyse(read(full)))),
            constant(0.5),
        )

        bare = Bare()
        watch(f"{__name__}:Pump.close")
        pump = Pump()
        pair(
            "method of an open object under watch, beside the bare call and 350 ns",
            repeat(lambda: pump.push()),
            lambda loops: repeat(lambda: bare.push())(loops) + loops * 350e-9,
        )
        pump.close()
    handle.close()


if __name__ == "__main__":
    main()
