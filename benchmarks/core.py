"""What the core costs, each beside the plainest thing that does part of its work.

What is timed is the statement itself, as it stands in a program, not a function that holds it: a call would
be the greater part of some. The peers are written as an expert would. Where nobody waits it is CPU time, that
of the keeper's thread included: what else runs on the machine is no cost of ours.
"""

from __future__ import annotations

import itertools
import queue
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pyperf

from lifecycle import ANY_THREAD, SafetyConfig, SafetyManager

TARGETS = {
    "lease, beside an empty context manager made per use": 1.9,
    "lease, beside one with a lock and a counter": 0.5,
    "safe_access, beside a function with the same try": 1.6,
    "register + close, beside weakref.finalize made and fired": 4.4,
    "registrar + close, beside weakref.finalize made and fired": 4.0,
    "register + close at 500 000 live, beside at 10 000": 1.25,
    "register + close at leak level simple, beside off": 1.05,
    "timed release, beside a bare hand-off to a thread and back": 2.0,
    "share + close, beside 1 µs of sleepless waiting": 1.0,
    "exclusive access, beside a lease and a bare threading.Lock": 1.5,
    "import lifecycle, beside import attrs, structlog alone": 1.3,
}


class Native:
    __slots__ = ("__weakref__",)


class Empty:
    __slots__ = ()

    def __enter__(self) -> Empty:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        return None


class Counted:
    """The lease that most people write first: correct until an interrupt comes."""

    __slots__ = ("lock", "users", "valid")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.valid = True

    def lease(self) -> Use:
        return Use(self)


class Use:
    __slots__ = ("owner",)

    def __init__(self, owner: Counted) -> None:
        self.owner = owner

    def __enter__(self) -> Counted:
        with self.owner.lock:
            if not self.owner.valid:
                raise RuntimeError("not valid")
            self.owner.users += 1
        return self.owner

    def __exit__(self, kind: object, error: object, trace: object) -> None:
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


TEMPLATE = """
def timed(loops):
    began = clock()
    for _ in repeat(None, loops):
        {}
    return clock() - began
"""


def timed(statement: str, names: dict[str, Any], clock: Callable[[], float]) -> Callable[[int], float]:
    """Seconds for so many times `statement`, as a loop of a program has it."""
    scope = {**names, "clock": clock, "repeat": itertools.repeat}
    exec(TEMPLATE.format(statement.replace("\n", "\n        ")), scope)
    return scope["timed"]  # type: ignore[no-any-return]


def import_time(statement: str) -> Callable[[int], float]:
    """Seconds for ``statement``, each time in a process of its own."""
    program = f"from time import perf_counter as t\nbegan = t()\n{statement}\nprint(t() - began)"

    def timed(loops: int) -> float:
        command = [sys.executable, "-c", program]
        return sum(float(subprocess.check_output(command, text=True)) for _ in range(loops))

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


REGISTER = 'manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD).close()'


def main() -> None:
    runner = pyperf.Runner()
    manager = SafetyManager(name="bench")
    native = Native()
    mutex = threading.Lock()
    names = {
        **globals(),
        "manager": manager,
        "native": native,
        "handle": manager.register(native, "native", release=nothing, release_on=ANY_THREAD),
        "alone": manager.register(Native(), "native", release=nothing, release_on=ANY_THREAD),
        "registrar": manager.registrar("native", release=nothing, release_on=ANY_THREAD),
        "off": SafetyManager(SafetyConfig(leak_level="off"), name="off"),
        "counted": Counted(),
        "mutex": mutex,
        "finalize": weakref.finalize,
        "hand_off": handed_off(),
    }

    def pair(case: str, ours: str, peer: str, clock: Callable[[], float] = time.process_time) -> None:
        assert case in TARGETS, case
        runner.bench_time_func(f"{case} | ours", timed(ours, names, clock))
        runner.bench_time_func(f"{case} | peer", timed(peer, names, clock))

    lease = "with handle.lease():\n    pass"
    finalize = "finalize(Native(), nothing, None)"
    pair("lease, beside an empty context manager made per use", lease, "with Empty():\n    pass")
    pair("lease, beside one with a lock and a counter", lease, "with counted.lease():\n    pass")
    pair(
        "safe_access, beside a function with the same try",
        "manager.safe_access(handle, nothing)",
        "bare(native, nothing)",
    )
    pair("register + close, beside weakref.finalize made and fired", REGISTER, finalize)
    pair(
        "registrar + close, beside weakref.finalize made and fired",
        "registrar(Native(), None, 0).close()",
        finalize,
    )

    def with_live(count: int) -> Callable[[int], float]:
        held: list[object] = []
        full = SafetyManager(name=f"live-{count}")

        def timed_with_live(loops: int) -> float:
            if not held:
                held.extend(
                    full.register(i, "int", release=nothing, release_on=ANY_THREAD) for i in range(count)
                )
                full.stats()
            start = time.process_time()
            for _ in range(loops):
                full.register(Native(), "native", release=nothing, release_on=ANY_THREAD).close()
            return time.process_time() - start

        return timed_with_live

    case = "register + close at 500 000 live, beside at 10 000"
    runner.bench_time_func(f"{case} | ours", with_live(500_000))
    runner.bench_time_func(f"{case} | peer", with_live(10_000))
    pair(
        "register + close at leak level simple, beside off",
        REGISTER,
        REGISTER.replace("manager", "off"),
    )
    pair(
        "timed release, beside a bare hand-off to a thread and back",
        'manager.register(Native(), "native", release=nothing).close()',
        "hand_off()",
        pyperf.perf_counter,
    )
    pair("share + close, beside 1 µs of sleepless waiting", "handle.share().close()", "one_microsecond()")
    pair(
        "exclusive access, beside a lease and a bare threading.Lock",
        "with alone.exclusive():\n    pass",
        "with handle.lease(), mutex:\n    pass",
    )
    case = "import lifecycle, beside import attrs, structlog alone"
    runner.bench_time_func(f"{case} | ours", import_time("import attrs, structlog, lifecycle"))
    runner.bench_time_func(f"{case} | peer", import_time("import attrs, structlog"))
    names["handle"].close()
    names["alone"].close()


if __name__ == "__main__":
    main()
