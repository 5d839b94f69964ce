"""WSGI and ASGI apps: the metrics, and whether the managers are well.

``/metrics`` (and every other path) answers with the metrics, a path that ends with ``/health`` with 200 if
every manager is well, with 503 and what is wrong otherwise. Neither keeps a thread or a port of its own: they
are mounted into the server that is there.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import attrs
from prometheus_client import CollectorRegistry, make_asgi_app, make_wsgi_app

from lifecycle import SafetyManager
from lifecycle.integrations.prometheus.collector import LifecycleCollector, check_managers

HEALTH = "/health"
"""How the path ends that answers how the managers are."""

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Asgi = Callable[[dict[str, Any], Callable[..., Any], Callable[..., Any]], Awaitable[None]]


@attrs.frozen
class ManagersHealth:
    """How managers are. ``bool(health)`` is ``health.ok``."""

    ok: bool
    """True if there are no `problems`."""
    problems: tuple[str, ...]
    """What is wrong, each with its manager's name in front."""

    def __bool__(self) -> bool:
        return self.ok

    @property
    def status(self) -> int:
        """200 or 503."""
        return 200 if self.ok else 503

    def as_json(self) -> bytes:
        """The answer to a probe."""
        return json.dumps({"ok": self.ok, "problems": self.problems}).encode() + b"\n"


def health(*managers: SafetyManager) -> ManagersHealth:
    """Return how `managers` are, for a liveness endpoint. Waits for nothing, asks no thread, and answers when
    theirs do not. May be called on any thread. Raises `RegistrationError` for what is no manager."""
    for manager in managers:
        # Each by itself: two of one name are no matter here.
        check_managers({}, (manager,))
    problems = []
    for manager in managers:
        found = manager.health()
        problems += [f"{manager.name}: {problem}" for problem in found.problems]
        if not found.ok and not found.problems:
            problems.append(f"{manager.name}: not well")
    return ManagersHealth(not problems, tuple(problems))


def _registry(managers: tuple[SafetyManager, ...], registry: CollectorRegistry | None) -> CollectorRegistry:
    if registry is None:
        registry = CollectorRegistry()
        registry.register(LifecycleCollector(*managers))
    return registry


def wsgi_app(*managers: SafetyManager, registry: CollectorRegistry | None = None) -> Wsgi:
    """Make a WSGI app that serves the metrics of `managers`, and their health at a path that ends with
    ``/health``.

    `registry`: served instead of a new one that has a `LifecycleCollector` over `managers`; the health is
    that of `managers` all the same. Raises `RegistrationError` when two managers have the same name.
    """
    metrics = make_wsgi_app(_registry(managers, registry))

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not _asks_for_health(str(environ.get("PATH_INFO", ""))):
            return metrics(environ, start_response)  # type: ignore[no-any-return]
        found = health(*managers)
        body = found.as_json()
        status = "200 OK" if found else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [body]

    return app


def asgi_app(*managers: SafetyManager, registry: CollectorRegistry | None = None) -> Asgi:
    """Make an ASGI app that serves the metrics of `managers`, and their health at a path that ends with
    ``/health``. As `wsgi_app`."""
    metrics = make_asgi_app(_registry(managers, registry))

    async def app(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if not _asks_for_health(str(scope.get("path", ""))):
            await metrics(scope, receive, send)
            return
        found = health(*managers)
        body = found.as_json()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": found.status, "headers": headers})
        shown = b"" if scope.get("method") == "HEAD" else body
        await send({"type": "http.response.body", "body": shown})

    return app


async def _lifespan(receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """The start and the end of a server whose only app this is: prometheus_client's asserts that there are
    none."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _asks_for_health(path: str) -> bool:
    return path.rstrip("/").endswith(HEALTH)
