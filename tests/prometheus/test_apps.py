"""WSGI and ASGI apps, and the health that they answer with."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.validate import validator

import pytest

pytestmark = pytest.mark.needs("prometheus_client")
pytest.importorskip(
    "prometheus_client", reason="needs prometheus_client: run the tests with `make test`, which installs it"
)

from prometheus_client import CollectorRegistry, Counter

import lifecycle
from lifecycle import SafetyManager
from lifecycle.integrations.prometheus import LifecycleCollector, asgi_app, health, wsgi_app
from tests.prometheus.support import Native, released, value


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def unwell(manager: SafetyManager) -> None:
    manager.add_check(lambda: "the camera is unplugged")


def test_a_wsgi_server_serves_metrics_and_health(manager: SafetyManager) -> None:
    server = make_server("127.0.0.1", 0, validator(wsgi_app(manager)), handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    base = f"http://127.0.0.1:{server.server_port}"
    try:
        with urllib.request.urlopen(f"{base}/metrics", timeout=20) as answer:
            assert f'lifecycle_events_pending{{manager="{manager.name}"}}' in answer.read().decode()
        with urllib.request.urlopen(f"{base}/health", timeout=20) as answer:
            assert (answer.status, json.loads(answer.read())) == (200, {"ok": True, "problems": []})
        unwell(manager)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{base}/health", timeout=20)
        with refused.value as answer:
            assert answer.code == 503
            (problem,) = json.loads(answer.read())["problems"]
        assert problem.startswith(f"{manager.name}: ")
        assert "the camera is unplugged" in problem
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)


def asked(app: Any, path: str, kind: str = "http", method: str = "GET") -> list[dict[str, Any]]:
    """What an ASGI app sends."""
    sent: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    if kind == "http":
        told = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        return told.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": kind, "path": path, "method": method, "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    return sent


def test_an_asgi_app_serves_metrics_and_health(manager: SafetyManager) -> None:
    app = asgi_app(manager)
    start, body = asked(app, "/metrics")
    assert start["status"] == 200
    assert f'lifecycle_events_pending{{manager="{manager.name}"}}' in body["body"].decode()
    start, body = asked(app, "/app/health/")
    assert (start["status"], json.loads(body["body"])) == (200, {"ok": True, "problems": []})
    unwell(manager)
    start, body = asked(app, "/health", method="HEAD")
    assert (start["status"], body["body"]) == (503, b"")
    assert [one["type"] for one in asked(app, "", "lifespan")] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


def test_a_registry_of_ones_own_is_served_with_the_managers_health(manager: SafetyManager) -> None:
    registry = CollectorRegistry()
    Counter("orders", "Orders.", registry=registry)
    LifecycleCollector(manager, registry=registry)
    unwell(manager)
    app = asgi_app(manager, registry=registry)
    text = asked(app, "/")[1]["body"].decode()
    assert "orders_total 0.0" in text
    assert "lifecycle_events_pending" in text
    assert asked(app, "/health")[0]["status"] == 503


def test_health_names_each_manager_that_is_unwell(manager: SafetyManager) -> None:
    with SafetyManager(name="other") as other:
        assert health()
        assert health(manager, other).status == 200
        unwell(other)
        found = health(manager, other)
        assert not found
        assert [problem.partition(":")[0] for problem in found.problems] == ["other"]


def test_a_recorder_says_what_it_has_written(manager: SafetyManager, tmp_path: Any) -> None:
    def figures() -> Any:
        return list(LifecycleCollector(manager).collect())

    assert not [one for family in figures() for one in family.samples if "recorder" in one.name]
    recorder = lifecycle.recorder.start(tmp_path / "a.rec", slots=1024, uses=1, fault=False)
    try:
        handle = manager.register(Native(), "native", release=released)
        with handle.lease(), handle.lease():
            pass
        handle.close()
        metrics = figures()
        assert value(metrics, "lifecycle_recorder_records_total") == recorder.stats().records >= 4
        assert value(metrics, "lifecycle_recorder_left_out_total", reason="uses") == 1
        assert value(metrics, "lifecycle_recorder_left_out_total", reason="names") == 0
        assert value(metrics, "lifecycle_previous_run_crashed") == 0
    finally:
        recorder.stop()
