"""What a scrape costs, with a million objects and with a thousand."""

from __future__ import annotations

from collections.abc import Callable

import pyperf
from prometheus_client import CollectorRegistry, generate_latest

from lifecycle import ANY_THREAD, SafetyManager
from lifecycle.integrations.prometheus import LifecycleCollector

TARGETS = {"scrape of 10 types with 1 000 000 objects, beside 1 000": 2.0}


def scrape_of(count: int) -> Callable[[int], float]:
    manager = SafetyManager(name=f"scrape-{count}")
    registry = CollectorRegistry()
    registry.register(LifecycleCollector(manager))
    held: list[object] = []

    def timed(loops: int) -> float:
        if not held:
            held.extend(manager.register(i, f"type-{i % 10}", release_on=ANY_THREAD) for i in range(count))
            manager.stats()
        start = pyperf.perf_counter()
        for _ in range(loops):
            generate_latest(registry)
        return float(pyperf.perf_counter() - start)

    return timed


def main() -> None:
    runner = pyperf.Runner()
    (case,) = TARGETS
    runner.bench_time_func(f"{case} | ours", scrape_of(1_000_000))
    runner.bench_time_func(f"{case} | peer", scrape_of(1_000))


if __name__ == "__main__":
    main()
