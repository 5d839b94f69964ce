"""Scenes of asyncio and Prometheus. (Other loops: `scenes_loops.py`; GStreamer: `scenes_gstreamer.py`.)"""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

from lifecycle.integrations.event_loops.asyncio import aclose, release_queue, run_leased
from tests.adversaries.stage import Native, Stage, Table

TABLE = Table()
scene = TABLE.scene

try:
    from lifecycle.integrations.prometheus import (
        LifecycleCollector,
        WorkersCollector,
        asgi_app,
        dashboard_path,
        health,
        rules_path,
        wsgi_app,
    )
except ImportError:
    MODULES: tuple[str, ...] = ("lifecycle.integrations.event_loops.asyncio",)
else:
    MODULES = ("lifecycle.integrations.event_loops.asyncio", "lifecycle.integrations.prometheus")

    @scene(
        "LifecycleCollector.__init__",
        "LifecycleCollector.add",
        "LifecycleCollector.remove",
        "LifecycleCollector.collect",
        "LifecycleCollector.describe",
        meddle=False,
    )
    def scrape(stage: Stage) -> None:
        collector = LifecycleCollector(stage.manager)
        list(collector.describe())
        list(collector.collect())
        collector.remove(stage.manager)
        collector.add(stage.manager)
        stage.handle.close()

    @scene(
        "prometheus.wsgi_app",
        "prometheus.asgi_app",
        "prometheus.health",
        "prometheus.dashboard_path",
        "prometheus.rules_path",
        meddle=False,
    )
    def serve_in_an_application(stage: Stage) -> None:
        app: Any = wsgi_app(stage.manager)
        for path in ("/metrics", "/health"):
            app({"PATH_INFO": path, "REQUEST_METHOD": "GET", "QUERY_STRING": ""}, lambda *answer: None)
        asgi_app(stage.manager)
        assert health(stage.manager)
        assert dashboard_path().endswith(".json")
        assert rules_path().endswith(".yml")

    @scene(
        "WorkersCollector.__init__",
        "WorkersCollector.add",
        "WorkersCollector.remove",
        "WorkersCollector.collect",
        "WorkersCollector.describe",
        "WorkersCollector.write",
        "WorkersCollector.close",
        meddle=False,
        interrupts=False,
    )
    def scrape_of_workers(stage: Stage) -> None:
        """No interrupt: one in the reading or writing of a file is the file's to deal with."""
        with tempfile.TemporaryDirectory() as directory:
            collector = WorkersCollector(stage.manager, directory=directory, interval=1000)
            try:
                list(collector.describe())
                list(collector.collect())
                collector.remove(stage.manager)
                collector.add(stage.manager)
                collector.write()
            finally:
                collector.close()
        stage.handle.close()


@scene("asyncio.release_queue", "asyncio.aclose", interrupts=False)
def close_in_a_loop(stage: Stage) -> None:
    """An interrupt here is asyncio's to deal with."""

    async def main() -> None:
        queue: Any = release_queue()
        stage.keep(queue.drain)
        handle = stage.keep(stage.register(release_on=queue))
        await aclose(handle, timeout=1)
        await aclose(stage.handle)

    asyncio.run(main())


@scene("asyncio.run_leased", interrupts=False)
def use_on_a_thread_of_a_loop(stage: Stage) -> None:
    """An interrupt here is asyncio's to deal with."""

    async def main() -> None:
        await run_leased(stage.handle, Native.use)

    asyncio.run(main())
