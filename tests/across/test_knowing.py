"""What is known of topics from outside: the flight recorder, `lifecycle inspect`, a scrape."""

from __future__ import annotations

import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.needs("iceoryx2")

import lifecycle.recorder.layout
from lifecycle import SafetyManager
from lifecycle.cli.main import main
from lifecycle.inspection import ask, serve
from lifecycle.recorder import read
from lifecycle.recorder.postmortem import analyse
from tests.across.support import Other

try:
    from lifecycle.integrations.iceoryx2 import Publisher, Receiver
except ImportError:
    pass


def test_loans_and_frames_are_in_the_recording(manager: SafetyManager, topic: str, tmp_path: Path) -> None:
    """Lent, published, received: with the topic, the number, the bytes, and the object that each is."""
    with Publisher(manager, topic, 64) as publisher, Receiver(manager, topic) as receiver:
        publisher.copy(b"before")
        recorder = lifecycle.recorder.start(tmp_path / "topics.rec")
        try:
            with publisher.loan(16) as loan:
                lent = loan.handle.id
                publisher.publish(loan)
            publisher.loan(8).close()
            receiver.recv(30).close()
            with receiver.recv(30) as frame:
                got = frame.handle.id
        finally:
            recorder.stop()
        publisher.copy(b"after")
        receiver.recv(30).close()
    recording = read(recorder.path)
    found = [
        (lifecycle.recorder.layout.OPERATIONS[one.operation], one.type, one.object, one.name, one.a, one.b)
        for one in recording.entries
        if one.operation >= lifecycle.recorder.layout.LOAN
    ]
    assert found[0] == ("loan", "iceoryx2.Loan", lent, topic, 0, 16)
    assert found[1] == ("published", "iceoryx2.Loan", lent, topic, 1, 16)
    assert [one[0] for one in found] == ["loan", "published", "loan", "received", "received"]
    assert found[4] == ("received", "iceoryx2.Sample", got, topic, 1, 16)
    assert f"{topic} frame 1" in str(analyse(recording))


@pytest.fixture
def served() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="lc") as folder:
        server = serve(Path(folder) / "s")
        yield server.path
        server.close()


def test_inspect_shows_topics_their_figures_and_the_processes(
    manager: SafetyManager, topic: str, served: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = """
        receiver = Receiver(manager, topic)
        say("open")
        told()
        receiver.close()
        manager.close()
    """
    with Publisher(manager, topic, 64) as publisher, Other(code, topic) as other:
        assert other.says() == "open"
        with Receiver(manager, topic) as receiver:
            for _ in range(3):
                publisher.copy(b"frame")
            receiver.recv(30).close()
            mine = [one for one in ask(served, "topics")["topics"] if one["topic"] == topic]
            (sending, receiving) = mine
            assert (sending["end"], sending["published"], sending["receivers"]) == ("publisher", 3, 2)
            assert (receiving["end"], receiving["source"], receiving["received"], receiving["lag"]) == (
                "receiver",
                "alive",
                1,
                2,
            )
            for end in mine:
                assert {peer["pid"]: peer["state"] for peer in end["peers"]}[other.pid] == "alive"
            assert main(["inspect", served, "topics"]) == 0
            said = capsys.readouterr().out
            assert f"{topic}: iceoryx2 publisher of {manager.name}: published 3, receivers 2" in said
            assert f"  process {other.pid} " in said
        other.tell()
        assert other.ends() == []
    assert [one for one in ask(served, "topics")["topics"] if one["topic"] == topic] == []


@pytest.mark.needs("prometheus_client")
def test_a_scrape_of_each_process_has_the_topic_as_name(manager: SafetyManager, topic: str) -> None:
    """Over HTTP, as Prometheus does it."""
    code = """
        import prometheus_client
        from lifecycle.integrations.prometheus import LifecycleCollector
        registry = prometheus_client.CollectorRegistry()
        registry.register(LifecycleCollector(manager))
        server, _ = prometheus_client.start_http_server(0, "127.0.0.1", registry)
        receiver = Receiver(manager, topic)
        say(server.server_port)
        while told():
            try:
                receiver.recv(30).close()
            except Lagged:
                pass
            say("did")
        receiver.close()
        server.shutdown()
        server.server_close()
        manager.close()
    """
    import prometheus_client

    from lifecycle.integrations.prometheus import LifecycleCollector

    registry = prometheus_client.CollectorRegistry()
    registry.register(LifecycleCollector(manager))
    server, thread = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    with Publisher(manager, topic, 64, behind=4) as publisher, Other(code, topic) as other:
        port = int(other.says())
        for _ in range(7):
            publisher.copy(b"frame")
        for _ in range(2):
            other.tell()
            assert other.says() == "did"
        here, there = scraped(server.server_port, topic), scraped(port, topic)
        assert here["lifecycle_distributor_published_total"] == 7
        assert there["lifecycle_receiver_received_total"] == 1
        assert there["lifecycle_receiver_missed_total"] == 3
        assert there["lifecycle_receiver_lag_frames"] == 3
        assert other.ends() == []
    server.shutdown()
    server.server_close()
    thread.join()


def scraped(port: int, topic: str) -> dict[str, float]:
    """The lines of one topic that a scrape has, by family."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    mine = [line for line in lines if f'distributor="{topic}"' in line]
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in mine}
