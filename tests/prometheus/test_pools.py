"""Pools in a scrape: the components themselves, no stand-ins."""

from __future__ import annotations

import gc

import pytest

pytest.importorskip("prometheus_client", reason="needs prometheus_client: run the tests with `make test`")

from prometheus_client import CollectorRegistry, generate_latest

from lifecycle import BufferPool, ObjectPool, SafetyManager
from lifecycle.errors import PoolTimeoutError
from lifecycle.integrations.prometheus import LifecycleCollector
from tests.core.natives import Native
from tests.prometheus.support import check_metrics, value


def test_what_pools_say(manager: SafetyManager) -> None:
    frames = BufferPool(manager, 4096, 2, name="frames")
    natives = ObjectPool(manager, Native, size=1, timeout=0.01, name="natives")
    held = [frames.get() for _ in range(3)]
    held.pop().close()
    with natives.get():
        with pytest.raises(PoolTimeoutError):
            natives.get()
    held.pop().close()
    metrics = list(LifecycleCollector(manager).collect())
    assert value(metrics, "lifecycle_pool_items", pool="frames", state="idle") == 1
    assert value(metrics, "lifecycle_pool_items", pool="frames", state="in_use") == 1
    assert value(metrics, "lifecycle_pool_items_limit", pool="natives") == 1
    assert value(metrics, "lifecycle_pool_waiters", pool="natives") == 0
    assert value(metrics, "lifecycle_pool_gets_total", pool="frames", result="created") == 2
    assert value(metrics, "lifecycle_pool_gets_total", pool="frames", result="fallback") == 1
    assert value(metrics, "lifecycle_pool_gets_total", pool="natives", result="timeout") == 1
    assert value(metrics, "lifecycle_pool_gets_total", pool="natives", result="refused") == 0
    assert value(metrics, "lifecycle_pool_get_wait_seconds_count", pool="frames") == 3
    held.pop().close()
    natives.close()


def test_pools_of_one_name_are_told_apart_by_their_managers(manager: SafetyManager, promtool: str) -> None:
    with SafetyManager(name="other") as other:
        pools = [BufferPool(owner, 4096, 2, name="frames") for owner in (manager, other)]
        held = [pool.get() for pool in pools]
        registry = CollectorRegistry()
        registry.register(LifecycleCollector(manager, other))
        metrics = list(registry.collect())
        for owner in (manager, other):
            assert (
                value(metrics, "lifecycle_pool_items", manager=owner.name, pool="frames", state="in_use") == 1
            )
        check_metrics(promtool, generate_latest(registry))
        for buffer in held:
            buffer.close()


def test_a_pool_that_is_gone_is_scraped_no_more(manager: SafetyManager) -> None:
    def kinds() -> list[str]:
        return [component.kind for component in manager.components()]

    pool = BufferPool(manager, 4096, 1)
    assert kinds() == ["pool"]
    pool.close()
    assert kinds() == ["pool"]
    del pool
    gc.collect()
    assert kinds() == []
