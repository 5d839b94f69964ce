"""What the lines of docs/recipes cost, as the table of docs/recipes.md: ``python -m benchmarks.recipes``."""

from __future__ import annotations

import ctypes
import sqlite3
import timeit
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lifecycle import ANY_THREAD, SafetyManager

RUNS = 30


class Native:
    """A native's stand-in: methods that do nothing."""

    def read(self, n: int = 0) -> int:
        return n

    def steps(self) -> Iterator[int]:
        yield from range(10**9)

    def close(self) -> None: ...


def best(call: Callable[[], object], number: int = 2000) -> float:
    """Microseconds of one call, at best."""
    return min(timeit.repeat(call, number=number, repeat=RUNS)) / number * 1e6


def rows(manager: SafetyManager) -> Iterator[tuple[str, float, float | None]]:
    """By row: what is done, raw and guarded."""
    raw, proxy = Native(), manager.proxy(Native(), release="close")
    yield "a method call through a proxy", best(lambda: raw.read()), best(lambda: proxy.read())
    raw_steps, steps = raw.steps(), proxy.steps()
    yield "a step of a proxied generator", best(lambda: next(raw_steps)), best(lambda: next(steps))
    database: Any = sqlite3.connect(":memory:")
    rules: dict[type | str, Any] = {sqlite3.Cursor: None}
    guarded: Any = manager.proxy(sqlite3.connect(":memory:"), release="close", children=rules)
    query = "select 1"
    yield (
        "`execute(…).fetchone()` with a light child",
        best(lambda: database.execute(query).fetchone()),
        best(lambda: guarded.execute(query).fetchone()),
    )
    buffer, memory = bytearray(100), np.zeros((10, 10), np.uint8)
    handle = manager.register(memory, release=None, release_on=ANY_THREAD)
    yield (
        "`handle.view(buffer)`, beside `memoryview`",
        best(lambda: memoryview(buffer)),
        best(lambda: handle.view(buffer)),
    )
    yield (
        "`handle.array(ndarray)`, beside a slice",
        best(lambda: memory[:]),
        best(lambda: handle.array(memory)),
    )
    yield (
        "`register` and `close`",
        best(Native),
        best(lambda: manager.register(Native(), "native", release="close", release_on=ANY_THREAD).close()),
    )
    yield (
        "`proxy` and `close`",
        best(Native),
        best(lambda: manager.proxy(Native(), release="close").close(), 500),
    )
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
    plain, contained = prototype(abs), manager.callback(abs, prototype)
    yield "a call from C by `manager.callback`", best(lambda: plain(1)), best(lambda: contained(1))
    for opened in (handle, proxy, guarded, database):
        opened.close()


def main() -> None:
    print("| | plain | guarded |\n|---|---|---|")
    with SafetyManager(name="costs") as manager:
        for name, plain, guarded in rows(manager):
            print(f"| {name} | {plain:.2f} | {guarded:.2f} |")


if __name__ == "__main__":
    main()
