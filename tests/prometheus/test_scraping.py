"""Scraping for real: over HTTP, judged by promtool, by a Prometheus server; and at the worst moments."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.needs("prometheus_client")
pytest.importorskip(
    "prometheus_client", reason="needs prometheus_client: run the tests with `make test`, which installs it"
)

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from lifecycle import RegistrationError, SafetyManager
from lifecycle.integrations.prometheus import LifecycleCollector, asgi_app, health, wsgi_app
from tests.prometheus.support import Camera, Native, check_metrics, exposed, released, value
from tests.support import SOON, eventually, run_python


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def busy(manager: SafetyManager) -> Iterator[SafetyManager]:
    """A manager in which something has happened."""
    camera = Camera("front", 3)
    manager.add_component(camera)
    manager.policy("gst.Sample", max_live=100, max_bytes=10**9)
    kept = manager.register(Native(), "gst.Sample", release=released, size=1000)
    manager.register(Native(), 'odd "type"\nname', release=released).close()
    yield manager
    kept.close()


def get(url: str, accept: str = "text/plain") -> bytes:
    with urllib.request.urlopen(
        urllib.request.Request(url, headers={"Accept": accept}), timeout=10
    ) as answer:
        return bytes(answer.read())


@pytest.fixture
def served(registry: CollectorRegistry) -> Iterator[int]:
    """The port at which `registry` is served by prometheus_client's own HTTP server."""
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join(20)


@pytest.mark.needs("promtool")
def test_promtool_is_content_with_what_is_served(
    busy: SafetyManager, registry: CollectorRegistry, served: int, promtool: str
) -> None:
    registry.register(LifecycleCollector(busy))
    text = get(f"http://127.0.0.1:{served}/metrics")
    assert f'lifecycle_registered_total{{manager="{busy.name}",type="gst.Sample"}} 1.0'.encode() in text
    check_metrics(promtool, text)


def test_the_openmetrics_form_parses_strictly(busy: SafetyManager, registry: CollectorRegistry) -> None:
    registry.register(LifecycleCollector(busy))
    text = generate_openmetrics(registry).decode()  # type: ignore[no-untyped-call]
    families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    assert len(families) == len(list(LifecycleCollector().describe()))


def test_one_family_can_be_asked_for_alone(
    busy: SafetyManager, registry: CollectorRegistry, served: int
) -> None:
    registry.register(LifecycleCollector(busy))
    text = get(f"http://127.0.0.1:{served}/metrics?name%5B%5D=lifecycle_events_pending").decode()
    assert [line.split("{")[0] for line in text.splitlines() if not line.startswith("#")] == [
        "lifecycle_events_pending"
    ]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def query(base: str, expression: str) -> list[Any]:
    answer = json.loads(get(f"{base}/api/v1/query?query={urllib.parse.quote(expression)}"))
    assert answer["status"] == "success", answer
    return list(answer["data"]["result"])


@contextlib.contextmanager
def prometheus_running(
    prometheus_server: str, served: int, folder: Path, *, rules: Path | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A Prometheus server that scrapes port `served`, and its address; its log is in `folder`."""
    config: dict[str, Any] = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [] if rules is None else [str(rules)],
        "scrape_configs": [{"job_name": "app", "static_configs": [{"targets": [f"127.0.0.1:{served}"]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                prometheus_server,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.needs("prometheus")
def test_a_prometheus_server_scrapes_it(
    busy: SafetyManager, registry: CollectorRegistry, served: int, prometheus_server: str, tmp_path: Path
) -> None:
    registry.register(LifecycleCollector(busy))
    with prometheus_running(prometheus_server, served, tmp_path) as (server, base):

        def scraped() -> bool:
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                return bool(query(base, 'lifecycle_registered_total{type="gst.Sample"}'))
            except OSError:
                return False  # not listening, or not ready, yet

        eventually(scraped, timeout=60, every=0.1)
        (target,) = json.loads(get(f"{base}/api/v1/targets"))["data"]["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        (live,) = query(base, f'lifecycle_objects{{manager="{busy.name}",type="gst.Sample",state="valid"}}')
        assert live["value"][1] == "1"
        (age,) = query(base, 'time() - lifecycle_oldest_object_timestamp_seconds{type="gst.Sample"}')
        assert 0 <= float(age["value"][1]) < 120
        (quantile,) = query(
            base, 'histogram_quantile(0.9, lifecycle_release_duration_seconds_bucket{type!="gst.Sample"})'
        )
        assert 0 < float(quantile["value"][1]) < 5


# -- several managers, several collectors --------------------------------------------------------------------


@pytest.mark.needs("promtool")
def test_two_collectors_in_one_registry_share_their_families(
    registry: CollectorRegistry, promtool: str
) -> None:
    with SafetyManager(name="app") as app, SafetyManager(name="library") as library:
        LifecycleCollector(app, registry=registry)
        second = LifecycleCollector(library, registry=registry)
        with (
            app.register(Native(), "frame", release=released),
            library.register(Native(), "frame", release=released),
        ):
            text = exposed(registry)
        for name in ("app", "library"):
            assert f'lifecycle_registered_total{{manager="{name}",type="frame"}} 1.0' in text
        assert text.count("# TYPE lifecycle_registered_total") == 1
        check_metrics(promtool, text.encode())
        second.remove(library)
        assert 'manager="library"' not in exposed(registry)
        second.add(library)
        assert 'manager="library"' in exposed(registry)


@pytest.mark.parametrize("call", [LifecycleCollector, wsgi_app, asgi_app, health])
def test_what_is_no_manager_is_refused(call: Any, registry: CollectorRegistry) -> None:
    for bad in (registry, None, "camera", SafetyManager):
        with pytest.raises(RegistrationError, match="figures are those of a SafetyManager"):
            call(bad)


def test_two_managers_of_one_name_are_refused_and_nothing_is_changed(registry: CollectorRegistry) -> None:
    with (
        SafetyManager(name="twin") as first,
        SafetyManager(name="twin") as second,
        SafetyManager(name="x") as other,
    ):
        with pytest.raises(
            RegistrationError, match=r'manager named "twin" is already collected.*SafetyManager\(name='
        ):
            LifecycleCollector(first, second, registry=registry)
        assert list(registry.collect()) == []
        collector = LifecycleCollector(first, registry=registry)
        for refused in (
            lambda: LifecycleCollector(other, second, registry=registry),
            lambda: collector.add(second),
        ):
            with pytest.raises(RegistrationError, match="twin"):
                refused()
        text = exposed(registry)
        assert 'manager="twin"' in text
        assert 'manager="x"' not in text
        collector.remove(second)  # not the one that is collected
        assert 'manager="twin"' in exposed(registry)


def test_joining_a_collector_that_was_registered_by_hand_is_refused_with_the_remedy(
    manager: SafetyManager, registry: CollectorRegistry
) -> None:
    registry.register(LifecycleCollector(manager))
    with SafetyManager(name="second") as second, pytest.raises(RegistrationError, match=r"registry=.*add"):
        LifecycleCollector(second, registry=registry)


def test_a_collector_that_was_unregistered_leaves_nothing_behind(
    manager: SafetyManager, registry: CollectorRegistry
) -> None:
    registry.unregister(LifecycleCollector(manager, registry=registry))
    LifecycleCollector(manager, registry=registry)
    assert f'lifecycle_events_pending{{manager="{manager.name}"}}' in exposed(registry)


def test_a_closed_manager_shows_its_final_figures(registry: CollectorRegistry) -> None:
    with SafetyManager(name="closed") as manager:
        registry.register(LifecycleCollector(manager))
        for _ in range(3):
            manager.register(Native(), "frame", release=released).close()
    started = time.monotonic()
    text = exposed(registry)
    assert time.monotonic() - started < SOON
    assert 'lifecycle_ended_total{end="released",manager="closed",type="frame"} 3.0' in text


# -- at the worst moments ------------------------------------------------------------------------------------


class Untouchable:
    """Says who touches it."""

    touched: list[str] = []  # noqa: RUF012 - shared by all of them on purpose

    def _touch(self, name: str) -> None:
        self.touched.append(name)

    def __repr__(self) -> str:
        self._touch("repr")
        return "Untouchable"

    def __eq__(self, other: object) -> bool:
        self._touch("eq")
        return self is other

    def __hash__(self) -> int:
        self._touch("hash")
        return 1

    def __bool__(self) -> bool:
        self._touch("bool")
        return True

    def __getattr__(self, name: str) -> Any:
        Untouchable.touched.append(name)
        raise AttributeError(name)


def test_a_scrape_touches_no_user_code(manager: SafetyManager) -> None:
    touched = Untouchable.touched

    def validate(obj: object) -> bool:
        touched.append("validate")
        return True

    manager.policy("odd", validate=validate)
    handle = manager.register(
        Untouchable(), "odd", name="n", release=lambda obj: touched.append("release"), native=Untouchable()
    )
    collector = LifecycleCollector(manager)
    touched.clear()
    metrics = list(collector.collect())
    assert touched == []
    assert value(metrics, "lifecycle_registered_total", type_="odd") == 1
    handle.close()
    assert "release" in touched


def test_scraping_inside_a_collection_neither_hangs_nor_lies() -> None:
    """From a gc callback, from the `__del__` of a cycle, on this thread and on the keeper's own."""
    run_python(
        """
        import gc, threading
        from prometheus_client import CollectorRegistry, generate_latest
        from lifecycle.integrations.prometheus import LifecycleCollector
        from lifecycle import ANY_THREAD, SafetyManager

        class Native: pass
        class Cycle:
            def __init__(self): self.me = self
            def __del__(self): texts.append(b"".join(str(m).encode() for m in collector.collect()))

        manager = SafetyManager(name="m")
        collector = LifecycleCollector(manager)
        texts, depth = [], threading.local()

        def scrape(phase, info):
            if not getattr(depth, "inside", False):
                depth.inside = True
                texts.append(b"".join(str(m).encode() for m in collector.collect()))
                depth.inside = False

        gc.callbacks.append(scrape)
        gc.set_threshold(50, 2, 2)
        for n in range(300):
            Cycle()
            handle = manager.register(Native(), "frame", release=id, release_on=ANY_THREAD)
            cycle = [handle]
            cycle.append(cycle)
            handle.close()
        gc.callbacks.remove(scrape)
        gc.collect()
        assert len(texts) > 20, len(texts)
        stats = manager.stats()
        assert (stats.total_objects, stats.active_objects) == (300, 0), stats
        assert b"lifecycle_registered" in texts[-1]
        assert manager.close().ok
        print("done")
        """,
        timeout=60,
    ).check()


def test_scrapes_from_many_threads_agree(manager: SafetyManager, registry: CollectorRegistry) -> None:
    registry.register(LifecycleCollector(manager))
    errors: list[BaseException] = []
    stop = threading.Event()

    def scrape() -> None:
        try:
            while not stop.is_set():
                text = exposed(registry)
                assert text.count("# TYPE lifecycle_registered_total") == 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=scrape) for _ in range(4)]
    for thread in threads:
        thread.start()
    for n in range(300):
        manager.register(Native(), f"kind{n % 20}", release=released).close(timeout=0)
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert errors == []


def test_the_cost_of_a_scrape_does_not_grow_with_the_objects(manager: SafetyManager) -> None:
    """A scrape at 100 000 objects costs at most three times the one at 1 000: whatever looked at each would
    cost far more."""
    collector = LifecycleCollector(manager)

    def best() -> float:
        times = []
        for _ in range(7):
            started = time.perf_counter()
            list(collector.collect())
            times.append(time.perf_counter() - started)
        return min(times)

    gc.disable()
    try:
        handles = [manager.register(Native(), f"kind{n % 10}", release=released) for n in range(1_000)]
        manager.stats()
        few = best()
        handles += [manager.register(Native(), f"kind{n % 10}", release=released) for n in range(99_000)]
        manager.stats()
        many = best()
        for handle in handles:
            handle.close(timeout=0)
        del handles, handle
        eventually(lambda: manager.stats().active_objects == 0, timeout=60)
    finally:
        gc.enable()
    assert many <= 3 * few, f"{few * 1e3:.2f} ms at 1 000 objects, {many * 1e3:.2f} ms at 100 000"
