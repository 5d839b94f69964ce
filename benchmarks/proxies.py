"""What a call through a proxy costs, beside a proxy that guards nothing and beside a lease."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pyperf
import wrapt

from lifecycle import SafetyManager
from lifecycle.proxies import handle_of

TARGETS = {
    "method, beside wrapt.ObjectProxy": 0.8,
    "method with two arguments, beside wrapt.ObjectProxy": 0.8,
    "method, beside `with handle.lease()`": 1.0,
    "attribute, beside wrapt.ObjectProxy": 0.8,
    "sqlite3 execute().fetchone() through a light child, beside bare": 4.0,
}


class Native:
    """Stands for a native object with cheap methods."""

    def __init__(self) -> None:
        self.width = 640

    def read(self) -> int:
        return 1

    def add(self, one: int, other: int) -> int:
        return one

    @property
    def size(self) -> int:
        return 1


def nothing(obj: object) -> None:
    return None


def repeat(function: Callable[[], object]) -> Callable[[int], float]:
    def timed(loops: int) -> float:
        start = pyperf.perf_counter()
        for _ in range(loops):
            function()
        return float(pyperf.perf_counter() - start)

    return timed


def main() -> None:
    runner = pyperf.Runner()
    manager = SafetyManager(name="bench")
    native = Native()
    guarded = manager.proxy(native, release=nothing)
    wrapped = wrapt.ObjectProxy(native)
    handle = handle_of(guarded)

    def pair(case: str, ours: Callable[[], object], peer: Callable[[], object]) -> None:
        assert case in TARGETS, case
        runner.bench_time_func(f"{case} | ours", repeat(ours))
        runner.bench_time_func(f"{case} | peer", repeat(peer))

    def leased() -> None:
        with handle.lease() as obj:
            obj.read()

    pair("method, beside wrapt.ObjectProxy", lambda: guarded.read(), lambda: wrapped.read())
    pair(
        "method with two arguments, beside wrapt.ObjectProxy",
        lambda: guarded.add(1, 2),
        lambda: wrapped.add(1, 2),
    )
    pair("method, beside `with handle.lease()`", lambda: guarded.read(), leased)
    pair("attribute, beside wrapt.ObjectProxy", lambda: guarded.size, lambda: wrapped.size)

    bare = sqlite3.connect(":memory:")
    connection = manager.proxy(sqlite3.connect(":memory:"), release="close", children={sqlite3.Cursor: None})
    pair(
        "sqlite3 execute().fetchone() through a light child, beside bare",
        lambda: connection.execute("select 1").fetchone(),
        lambda: bare.execute("select 1").fetchone(),
    )
    guarded_ends = handle.close()
    assert guarded_ends
    handle_of(connection).close()
    bare.close()


if __name__ == "__main__":
    main()
