"""The service by HTTP, as its users see it. After each test the leak gate looks (pytest.ini)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from notes import Notes, serve


# One service for all tests: what a test leaves behind in it is that test's error.
@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notes]:
    path = tmp_path_factory.mktemp("notes") / "notes.db"
    service = Notes(str(path), connections=2, patience=0.2)
    yield service
    assert service.close()


@pytest.fixture(scope="module")
def url(notes: Notes) -> Iterator[str]:
    with serve(notes) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def ask(url: str, body: bytes | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, body, timeout=20) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_notes_are_added_and_listed(url: str) -> None:
    status, added = ask(f"{url}/notes", b"buy milk")
    assert status == 201
    status, listed = ask(f"{url}/notes")
    assert status == 200
    assert {"number": json.loads(added)["number"], "text": "buy milk"} in json.loads(listed)
    assert ask(f"{url}/nothing")[0] == 404


def test_two_connections_serve_many_at_once(url: str) -> None:
    before = len(json.loads(ask(f"{url}/notes")[1]))
    answers: list[int] = []

    def add() -> None:
        answers.append(ask(f"{url}/notes", b"one of many")[0])

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status, text = ask(f"{url}/metrics")
    assert status == 200
    assert 'lifecycle_pool_items{manager="notes",pool="connections",state="in_use"} 0.0' in text
    # Who has waited too long was told so; whatever was accepted is there.
    assert set(answers) <= {201, 503}
    assert len(json.loads(ask(f"{url}/notes")[1])) == before + answers.count(201) > before


def test_a_busy_service_says_so_and_recovers(notes: Notes, url: str) -> None:
    with notes.connections.item(), notes.connections.item():
        assert ask(f"{url}/notes") == (503, '{"error": "busy, try again"}')
    assert ask(f"{url}/notes")[0] == 200
    assert ask(f"{url}/health")[0] == 200


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a program may handle")
def test_sigterm_ends_it_in_order(tmp_path: Path) -> None:
    program = Path(__file__).with_name("notes.py")
    command = [sys.executable, str(program), str(tmp_path / "notes.db"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        url = service.stdout.readline().strip()
        assert ask(url, b"the last one")[0] == 201
        service.send_signal(signal.SIGTERM)
        _, said = service.communicate(timeout=60)
    assert (service.returncode, said) == (0, "")
