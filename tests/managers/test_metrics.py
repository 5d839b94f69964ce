"""The budgets of memory managers in the metrics."""

from __future__ import annotations

import pytest

from lifecycle import ANY_THREAD, MemoryManager, SafetyManager


@pytest.mark.needs("prometheus_client")
def test_budgets_stand_beside_the_bytes(manager: SafetyManager) -> None:
    from prometheus_client import CollectorRegistry

    from lifecycle.integrations.prometheus import LifecycleCollector

    one, two = MemoryManager(manager, name="one"), MemoryManager(manager, name="two")
    manager.policy("frame", max_live=7)
    one.set_budget("frame", max_bytes=1000, max_live=9)
    two.set_budget("frame", max_bytes=500)
    one.set_budget("free", max_live=3)
    one.track_object([], "frame", 300, release=list.clear, release_on=ANY_THREAD)
    registry = CollectorRegistry()
    registry.register(LifecycleCollector(manager))

    def value(family: str, kind: str) -> float | None:
        return registry.get_sample_value(f"lifecycle_{family}", {"manager": manager.name, "type": kind})

    assert value("object_bytes", "frame") == 300
    assert value("object_bytes_limit", "frame") == 500
    assert value("objects_limit", "frame") == 7
    assert value("objects_limit", "free") == 3
    assert value("object_bytes_limit", "free") is None
    one.close()
    two.close()
