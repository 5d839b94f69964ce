"""``python -m benchmarks.core_soak``: five million objects of every fate, the figures to the last one, and
the memory they leave.

Threads make objects as fast as they can and end each in one of the ways there are: closed, dropped, dropped
in a cycle, shared, shut by id or by a panic, with a parent, with a release that fails, that asks to be called
again, that hangs past its deadline and comes back late; at each kind of place. Each thread counts what it
did. In the end the manager's statistics must say the same to the last object, and the resident memory must be
where it was once everything had been used for the first time.

``--objects`` or ``--seconds`` say how long; a plot of the resident memory goes to ``--out``. ``make soak-core
S=3600`` runs it.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import psutil
import structlog

from lifecycle import (
    ANY_THREAD,
    BACKGROUND,
    AccessPanicError,
    Handle,
    NotReleased,
    ObjectState,
    ReleaseQueue,
    SafetyConfig,
    SafetyManager,
    SafetyStats,
)

THREADS = 2
DEADLINE = 2.0
"""Of a release, in seconds."""
LATE = 60.0
"""How long those that hang wait at most to be declared stuck: a busy machine comes to that late."""
HANGS_EVERY = 200_000
"""Objects between two releases that hang, of one thread."""
BATCH = 500
WARM_UP = 0.15
"""The share of the run after which everything has been used once."""
ALLOWED = 12.0
"""MB by which the end may lie above the end of the warm-up: allocators do not give back what a moment of high
load took."""
BLOCKS = 5_000
"""Of Python's own allocations, how many more there may be in the end."""
WARM_BATCHES = 4


class Native:
    """Stands for a native object; `again` says how often its release asks to be called again."""

    __slots__ = ("__weakref__", "again", "itself", "released")

    def __init__(self, again: int = 0) -> None:
        self.again = again
        self.released = 0
        self.itself: Any = None


def free(native: Native) -> None:
    """A release that works, at last."""
    if native.again:
        native.again -= 1
        raise NotReleased("not yet")
    native.released += 1


def fail(native: Native) -> None:
    """A release that does not."""
    raise OSError("the driver said no")


class Hanging:
    """A release that comes back after it was declared stuck."""

    def __init__(self) -> None:
        self.handle: Handle[Any] | None = None

    def __call__(self, native: Native) -> None:
        handle, self.handle = self.handle, None
        until = time.monotonic() + DEADLINE + LATE
        while handle is not None and handle.state is not ObjectState.STUCK and time.monotonic() < until:
            time.sleep(0.05)


def use(native: Native) -> None:
    """An access that goes well."""


def panic(native: Native) -> None:
    """An access that does not."""
    raise ZeroDivisionError


class Churn:
    """What one thread does, and what it has done."""

    def __init__(self, manager: SafetyManager, queue: ReleaseQueue, seed: int) -> None:
        self.manager = manager
        self.queue = queue
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.objects = 0
        self.fates: list[tuple[Callable[[Any], None], int]] = [
            (self.close, 30),
            (self.drop, 10),
            (self.share, 10),
            (self.access, 15),
            (self.error, 4),
            (self.panic, 1),
            (self.by_id, 6),
            (self.invalidate, 4),
            (self.family, 4),
            (self.cycle, 1),
            (self.retry, 1),
            (self.failure, 1),
        ]
        self.weights = [weight for _, weight in self.fates]
        self.next_hang = HANGS_EVERY

    def batch(self) -> None:
        """`BATCH` objects, about."""
        for fate, _ in self.random.choices(self.fates, self.weights, k=BATCH):
            number = self.random.random()
            fate(ANY_THREAD if number < 0.88 else self.queue if number < 0.97 else BACKGROUND)
        if self.objects >= self.next_hang:
            self.next_hang += HANGS_EVERY
            hang = Hanging()
            hang.handle = self.made("late").register(Native(), "soak", release=hang)
            hang.handle.close(timeout=0)

    def made(self, *what: str) -> SafetyManager:
        """Count one more object, and what else will have happened."""
        self.objects += 1
        self.done.update(what)
        return self.manager

    def close(self, place: Any) -> None:
        with self.made().register(Native(), "soak", release=free, release_on=place, size=100) as handle:
            with handle.lease():
                pass

    def drop(self, place: Any) -> None:
        self.made("leaks").register(Native(), "soak", release=free, release_on=place)

    def share(self, place: Any) -> None:
        handle = self.made().register(Native(), "soak", release=free, release_on=place)
        other = handle.share()
        weak = handle.weak()
        handle.close(timeout=0)
        third = weak()
        assert third is not None
        other.close(timeout=0)
        third.close(timeout=0)

    def access(self, place: Any) -> None:
        handle = self.made().register(Native(), "soak", release=free, release_on=place)
        self.manager.safe_access(handle, use)
        self.manager.safe_access(handle.id, use)
        handle.close(timeout=0)

    def error(self, place: Any) -> None:
        with self.made("errors").register(Native(), "soak", release=free, release_on=place) as handle:
            try:
                self.manager.safe_access(handle, panic, errors=ZeroDivisionError)
            except ZeroDivisionError:
                self.done["caught"] += 1

    def panic(self, place: Any) -> None:
        handle = self.made("panics").register(Native(), "soak", release=free, release_on=place)
        try:
            self.manager.safe_access(handle, panic)
        except AccessPanicError:
            self.done["caught"] += 1
        handle.close(timeout=0)

    def by_id(self, place: Any) -> None:
        id = self.made().register(Native(), "soak", release=free, release_on=place, keep=True).id
        self.manager.unregister(id, timeout=0)

    def invalidate(self, place: Any) -> None:
        handle = self.made().register(Native(), "soak", release=free, release_on=place)
        self.manager.invalidate(handle, "enough")
        handle.close(timeout=0)

    def family(self, place: Any) -> None:
        parent = self.made().register(Native(), "soak", release=free, release_on=ANY_THREAD)
        child = self.made().register(Native(), "soak", release=free, release_on=place, parent=parent)
        parent.close(timeout=0)
        child.close(timeout=0)

    def cycle(self, place: Any) -> None:
        native = Native()
        ring = [self.made("leaks").register(native, "soak", release=free, release_on=place)]
        ring.append(ring)  # type: ignore[arg-type]

    def retry(self, place: Any) -> None:
        times = self.random.randint(1, 2)
        self.done["retries"] += times
        self.made().register(Native(times), "soak", release=free, release_on=place).close(timeout=0)

    def failure(self, place: Any) -> None:
        self.made("failed").register(Native(), "soak", release=fail, release_on=place).close(timeout=0)


@attrs.frozen
class Report:
    """How it went."""

    objects: int
    seconds: float
    expected: dict[str, int]
    stats: SafetyStats
    memory: tuple[tuple[float, float], ...]
    """Seconds since the start, and resident MB."""
    blocks: int
    """How many more pieces of memory Python has allocated than when the run began, everything having been
    used once."""
    wrong: tuple[str, ...]

    @property
    def growth(self) -> float:
        """MB between the end of the warm-up and the end."""
        warm = [mb for second, mb in self.memory if second >= self.seconds * WARM_UP]
        return self.memory[-1][1] - warm[0] if warm else 0.0


def soak(objects: int | None = None, seconds: float | None = None, *, seed: int = 0) -> Report:
    """Run until so many objects were made or so many seconds have passed, and compare."""
    config = SafetyConfig(
        leak_level="simple", finalizer_timeout=DEADLINE, max_retained=1000, state_retention=5
    )
    began = time.monotonic()
    process = psutil.Process()
    memory: list[tuple[float, float]] = []
    errors: list[BaseException] = []
    with SafetyManager(config, name="soak") as manager:
        queue = ReleaseQueue("soak")
        churns = [Churn(manager, queue, seed + number) for number in range(THREADS)]

        def over() -> bool:
            if errors or (seconds is not None and time.monotonic() - began >= seconds):
                return True
            return objects is not None and sum(churn.objects for churn in churns) >= objects

        def work(churn: Churn) -> None:
            try:
                while not over():
                    churn.batch()
            except BaseException as error:
                errors.append(error)

        for churn in churns:
            for _ in range(WARM_BATCHES):
                churn.batch()
        _let_it_end(manager, queue)
        blocks = sys.getallocatedblocks()
        threads = [threading.Thread(target=work, args=(churn,)) for churn in churns]
        for thread in threads:
            thread.start()
        step = 0.02
        while any(thread.is_alive() for thread in threads):
            until = time.monotonic() + step
            while time.monotonic() < until and any(thread.is_alive() for thread in threads):
                queue.drain()
                time.sleep(0.002)
            memory.append((time.monotonic() - began, process.memory_info().rss / 1e6))
            step = min(step * 1.1, 10.0, 0.1 + (time.monotonic() - began) / 100)
        seconds_it_took = time.monotonic() - began
        if errors:
            raise errors[0]
        stats = _let_it_end(manager, queue)
        blocks = sys.getallocatedblocks() - blocks
        memory.append((seconds_it_took, process.memory_info().rss / 1e6))
        expected = _expected(churns)
        wrong = _compare(expected, stats, sum(churn.objects for churn in churns))
    return Report(
        sum(churn.objects for churn in churns),
        seconds_it_took,
        expected,
        stats,
        tuple(memory),
        blocks,
        tuple(wrong),
    )


def _let_it_end(manager: SafetyManager, queue: ReleaseQueue) -> SafetyStats:
    until = time.monotonic() + 60.0
    while True:
        gc.collect()
        queue.drain()
        manager.register(object(), "flush", release_on=ANY_THREAD).close()
        stats = manager.stats()
        if (stats.active_objects == 0 and stats.stuck == stats.late) or time.monotonic() > until:
            return stats
        time.sleep(0.05)


def _expected(churns: list[Churn]) -> dict[str, int]:
    done: Counter[str] = Counter()
    for churn in churns:
        done.update(churn.done)
    total = sum(churn.objects for churn in churns)
    return {
        "registered": total,
        "released": total - done["failed"],
        **{name: done[name] for name in ("failed", "late", "panics", "errors", "retries", "leaks")},
    }


def _compare(expected: dict[str, int], stats: SafetyStats, total: int) -> list[str]:
    kind = stats.types["soak"]
    found = {
        "registered": kind.registered,
        # What hung is counted as stuck, and as late once it has come back.
        "released": kind.ended["released"] + kind.ended["stuck"],
        "failed": kind.ended["failed"],
        "late": stats.late,
        "panics": kind.panics,
        "errors": kind.errors,
        "retries": kind.retries,
        "leaks": kind.leaks,
    }
    wrong = [
        f"{name}: the threads counted {number}, the manager {found[name]}"
        for name, number in expected.items()
        if found[name] != number
    ]
    if stats.active_objects or kind.bytes:
        wrong.append(f"left: {stats.active_objects} objects, {kind.bytes} bytes")
    if kind.registered != kind.live + sum(kind.ended.values()):
        wrong.append("registered is not live and every kind of end together")
    return wrong


def plot(report: Report) -> str:
    """The resident memory over time, as SVG."""
    width, height, left, top = 900, 320, 60, 30
    highest = max(mb for _, mb in report.memory) * 1.05
    last = max(second for second, _ in report.memory) or 1.0
    points = " ".join(
        f"{left + second / last * (width - left - 20):.1f},"
        f"{top + (1 - mb / highest) * (height - top - 40):.1f}"
        for second, mb in report.memory
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/><text x="{left}" y="18">resident '
        f"memory, MB: {report.objects:,} objects in {report.seconds:.0f} s, {report.growth:+.1f} MB since "
        f'the warm-up</text><text x="8" y="{top + 8}">{highest:.0f}</text><text x="8" '
        f'y="{height - 40}">0</text><text x="{width - 60}" y="{height - 12}">{last:.0f} s</text><polyline '
        f'points="{points}" fill="none" stroke="#1f77b4" stroke-width="1.5"/></svg>\n'
    )


def _drop(logger: Any, name: str, event: Any) -> Any:
    raise structlog.DropEvent


def main(argv: list[str]) -> int:
    """The command: 0 when everything adds up."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.core_soak", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--objects", type=int, help="stop after so many (5 000 000 unless --seconds is given)"
    )
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--out", type=Path, default=Path("out/core-soak"), help="where the plot goes")
    asked = parser.parse_args(argv)
    structlog.configure(processors=[_drop])
    warnings.simplefilter("ignore", ResourceWarning)  # thousands of leaks on purpose
    objects = asked.objects or (None if asked.seconds else 5_000_000)
    report = soak(objects, asked.seconds, seed=int(time.time()))
    asked.out.mkdir(parents=True, exist_ok=True)
    picture = asked.out / "memory.svg"
    picture.write_text(plot(report))
    print(
        f"{report.objects:,} objects in {report.seconds:.0f} s, {report.objects / report.seconds:,.0f} per "
        "second"
    )
    for name, number in report.expected.items():
        print(f"  {name:12} {number:>12,}")
    print(
        f"resident memory {report.memory[-1][1]:.1f} MB, {report.growth:+.1f} MB since the warm-up "
        f"({picture}), {report.blocks:+,} blocks"
    )
    wrong = list(report.wrong)
    if report.growth > ALLOWED or report.blocks > BLOCKS:
        wrong.append("memory has grown")
    print("everything adds up" if not wrong else "WRONG: " + "; ".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
