"""What guards cost beside the language's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pyperf

from lifecycle import CleanupGuard, CleanupStack

TARGETS = {
    "CleanupStack with three callbacks, beside ExitStack": 1.0,
    "CleanupStack with three context managers, beside ExitStack": 1.0,
    "CleanupStack with three pushed exits, beside ExitStack": 1.0,
    "CleanupStack filled and moved, beside ExitStack": 1.0,
    "CleanupGuard, beside ExitStack with one callback": 1.2,
}


class Manager:
    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def nothing(*_: object) -> None:
    return None


manager = Manager()


def callbacks(stack_type: Any) -> None:
    with stack_type() as stack:
        stack.callback(nothing, 1)
        stack.callback(nothing, 2)
        stack.callback(nothing, 3)


def contexts(stack_type: Any) -> None:
    with stack_type() as stack:
        stack.enter_context(manager)
        stack.enter_context(manager)
        stack.enter_context(manager)


def pushed(stack_type: Any) -> None:
    with stack_type() as stack:
        stack.push(manager)
        stack.push(manager)
        stack.push(nothing)


def moved(stack_type: Any) -> None:
    with stack_type() as stack:
        stack.callback(nothing, 1)
        kept = stack.pop_all()
    kept.close()


def guarded() -> None:
    with CleanupGuard(nothing):
        pass


def one_callback() -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(nothing)


def repeat(fn: Callable[..., object], *args: Any) -> Callable[[int], float]:
    def timed(loops: int) -> float:
        start = pyperf.perf_counter()
        for _ in range(loops):
            fn(*args)
        return float(pyperf.perf_counter() - start)

    return timed


def main() -> None:
    runner = pyperf.Runner()
    cases = list(TARGETS)
    for case, fn in zip(cases, (callbacks, contexts, pushed, moved), strict=False):
        runner.bench_time_func(f"{case} | ours", repeat(fn, CleanupStack))
        runner.bench_time_func(f"{case} | peer", repeat(fn, contextlib.ExitStack))
    runner.bench_time_func(f"{cases[-1]} | ours", repeat(guarded))
    runner.bench_time_func(f"{cases[-1]} | peer", repeat(one_callback))


if __name__ == "__main__":
    main()
