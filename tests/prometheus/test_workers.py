"""Workers of a pre-fork server add up: whichever is scraped, however one of them ends, and no counter goes
down."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.needs("prometheus_client"),
    pytest.mark.skipif(sys.platform == "win32", reason="no process is forked on Windows"),
]
pytest.importorskip(
    "prometheus_client", reason="needs prometheus_client: run the tests with `make test`, which installs it"
)

from prometheus_client import CollectorRegistry, generate_latest

import lifecycle.recorder
from lifecycle import ANY_THREAD, RegistrationError, SafetyManager
from lifecycle.errors import ConfigError
from lifecycle.integrations.prometheus import LifecycleCollector, WorkersCollector
from tests.prometheus.support import value
from tests.support import ROOT, eventually, run_python

PROGRAM = """
import os, signal, sys, threading
from prometheus_client import CollectorRegistry, generate_latest
from lifecycle import *
from lifecycle.integrations.prometheus import WorkersCollector

class Worker:
    def __init__(self):
        (read, self.write), (self.read, write) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(read), os.close(write)
            return
        signal.alarm(50)  # it outlives nobody for long
        with SafetyManager(name="app") as manager:
            registry = CollectorRegistry()
            collector = WorkersCollector(manager, directory=sys.argv[1], interval=0.05)
            registry.register(collector)
            kept = []
            while True:
                command = os.read(read, 1)
                if command == b"r":
                    manager.register([], "job", release=list.clear, release_on=ANY_THREAD, size=10).close()
                    kept.append(manager.register([], "job", release=list.clear, release_on=ANY_THREAD, size=10))
                    answer = b"done"
                elif command == b"s":
                    answer = generate_latest(registry)
                elif command == b"w":
                    collector.write()
                    answer = b"done"
                else:
                    break
                os.write(write, answer.replace(b"\\n", b"\\r") + b"\\n")
            for handle in kept:
                handle.close()
        collector.close()
        os._exit(0)  # a forked child with a watchdog of faulthandler's hangs in its own end

    def ask(self, command):
        os.write(self.write, command)
        answer = b""
        while not answer.endswith(b"\\n"):
            answer += os.read(self.read, 65536)
        return answer.replace(b"\\r", b"\\n").decode()

    def scrape(self):
        figures = dict(line.rsplit(" ", 1) for line in self.ask(b"s").splitlines() if line[:1] not in ("", "#"))
        labels = '{manager="app",type="job"}'
        return [
            float(figures.get(f"lifecycle_{name}", 0.0))
            for name in (
                "registered_total" + labels,
                'closed_total{cause="close",manager="app",type="job"}',
                "object_bytes" + labels,
                "release_duration_seconds_count" + labels,
            )
        ]

workers = [Worker() for _ in range(4)]
"""


def test_whichever_is_scraped_shows_all(tmp_path: Path) -> None:
    code = (
        PROGRAM
        + """
for number, worker in enumerate(workers):
    for _ in range(number + 1):
        worker.ask(b"r")
    worker.ask(b"w")
for worker in workers:
    assert worker.scrape() == [20, 10, 100, 10], worker.scrape()

# One ends well: its counters stay, with what it closed at its end, and its bytes are gone.
os.write(workers[3].write, b"x")
assert os.waitpid(workers[3].pid, 0)[1] == 0
for worker in workers[:3]:
    registered, closed, held, releases = worker.scrape()
    assert (registered, closed, held, releases) == (20, 14, 60, 14), (registered, closed, held, releases)

# One is killed, and another in its place.
os.kill(workers[2].pid, signal.SIGKILL)
os.waitpid(workers[2].pid, 0)
workers[2:] = [Worker()]
assert workers[2].scrape() == [20, 14, 30, 14], workers[2].scrape()
workers[2].ask(b"r")
workers[2].ask(b"w")
for worker in workers:
    assert worker.scrape() == [22, 15, 40, 15], worker.scrape()
for worker in workers:
    os.write(worker.write, b"x")
    assert os.waitpid(worker.pid, 0)[1] == 0
last = Worker()
assert last.scrape() == [22, 19, 0, 19], last.scrape()
os.write(last.write, b"x")
os.waitpid(last.pid, 0)
names = sorted(os.listdir(sys.argv[1]))
assert len([name for name in names if name.startswith("worker")]) == 2, names
print("done")
"""
    )
    assert run_python(code, argv=(str(tmp_path),), timeout=60).check() == "done\n"


def test_one_that_is_killed_while_it_tidies_up_doubles_nothing(
    tmp_path: Path, manager: SafetyManager
) -> None:
    """The sum was written, and what is in it not yet taken away."""
    ended = SafetyManager(name=manager.name)
    other = WorkersCollector(ended, directory=tmp_path)
    ended.register([], "job", release=list.clear, release_on=ANY_THREAD).close()
    other.close()
    file = next(tmp_path.glob("worker-*.json"))
    content = file.read_text()
    for unfinished in (f"{file.stem}.7-0a.new", "gone.7-0a.new"):
        (tmp_path / unfinished).write_text(content[:50])
    collector = WorkersCollector(manager, directory=tmp_path)
    assert registered(collector) == 1
    assert not file.exists()
    file.write_text(content)
    assert registered(collector) == 1
    assert not file.exists()
    assert json.loads((tmp_path / "gone.json").read_text())["included"] == [file.stem]
    assert len(list(tmp_path.iterdir())) == 4, "two of its own, and two of those that have ended"
    collector.close()
    ended.close()


def test_two_of_one_process_add_up(tmp_path: Path) -> None:
    """A process may take its own locks, and so must not ask by them who lives."""
    with SafetyManager(name="app") as one, SafetyManager(name="app") as other:
        collectors = [WorkersCollector(each, directory=tmp_path, interval=50) for each in (one, other)]
        for number, each in enumerate((one, other)):
            each.register([], "job", release=list.clear, release_on=ANY_THREAD).close()
            collectors[number].write()
        for collector in collectors * 2:
            assert registered(collector) == 2
        assert not (tmp_path / "gone.json").exists(), "none has ended"
        collectors[0].close()
        for _ in range(2):
            assert registered(collectors[1]) == 2
        assert len(list(tmp_path.glob("worker-*.json"))) == 1
        collectors[1].close()


def test_a_recorder_is_told_of_once_by_two_of_one_process(tmp_path: Path) -> None:
    recorder = lifecycle.recorder.start(tmp_path / "a.rec", slots=1024, fault=False)
    one, other = (
        WorkersCollector(SafetyManager(name=name), directory=tmp_path / "metrics")
        for name in ("one", "other")
    )

    def told(by: WorkersCollector) -> float:
        return value(by.collect(), "lifecycle_recorder_records_total")

    try:
        recorder.note("one record at least")
        written = recorder.stats().records
        assert written >= 1
        assert told(one) == told(other) == written
        one.close()
        assert told(other) == written
        other.close()
    finally:
        recorder.stop()
        one.close()
        other.close()


def test_a_writing_that_a_close_overtakes_leaves_no_file(
    tmp_path: Path, manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker may have counted it among those that have ended by then."""
    collector = WorkersCollector(manager, directory=tmp_path, interval=50)
    (file,) = tmp_path.glob("worker-*.json")
    plain = collector._own.collect

    def collect() -> Any:
        families = plain()
        monkeypatch.undo()
        collector.close()
        file.unlink()
        return families

    monkeypatch.setattr(collector._own, "collect", collect)
    collector.write()
    assert not file.exists()


def test_one_that_cannot_write_as_it_closes_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with SafetyManager(name="app") as one, SafetyManager(name="app") as other:
        closing, heir = (WorkersCollector(each, directory=tmp_path, interval=50) for each in (one, other))
        for each in (one, other):
            each.register([], "job", release=list.clear, release_on=ANY_THREAD).close()
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(Path, "replace", full)
            closing.close()
        # It is not counted among those that have ended, by a look of the other, and then once more.
        assert registered(heir) == 1
        for each in (closing, heir):
            assert registered(each) == 2
        closing.close()
        assert registered(heir) == 2
        heir.close()


def test_one_that_cannot_write_is_not_made(
    tmp_path: Path, manager: SafetyManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        WorkersCollector(manager, directory=tmp_path)
    monkeypatch.undo()
    collector = WorkersCollector(manager, directory=tmp_path, interval=50)
    assert list(collector.collect())
    assert not list(tmp_path.glob("*.new"))
    collector.close()


def registered(collector: Any) -> float:
    registry = CollectorRegistry()
    registry.register(collector)
    found = re.search(r'registered_total\{[^}]*type="job"\} (\S+)', generate_latest(registry).decode())
    assert found
    return float(found[1])


def test_alone_it_shows_what_the_other_collector_does(tmp_path: Path, manager: SafetyManager) -> None:
    job: list[int] = []
    kept = manager.register(job, "job", release=list.clear, release_on=ANY_THREAD, size=7)
    collector = WorkersCollector(directory=tmp_path / "made", interval=50)
    collector.add(manager)

    def lines(one: Any) -> list[str]:
        registry = CollectorRegistry()
        registry.register(one)
        return [
            line
            for line in generate_latest(registry).decode().splitlines()
            if "_timestamp_" not in line and "resident" not in line
        ]

    assert lines(collector) == lines(LifecycleCollector(manager))
    collector.remove(manager)
    assert not [line for line in lines(collector) if 'type="job"' in line]
    kept.close()
    collector.close()
    collector.close()
    with pytest.raises(RegistrationError, match="closed"):
        collector.collect()


def test_it_belongs_to_the_process_that_made_it(tmp_path: Path) -> None:
    code = (
        PROGRAM.partition("class Worker")[0]
        + """
manager = SafetyManager(name="app")
collector = WorkersCollector(manager, directory=sys.argv[1], interval=50)
before = sorted(os.listdir(sys.argv[1]))
writing, written = threading.Event(), threading.Event()

def write():  # as this process is forked
    with collector._lock:
        writing.set()
        written.wait(30)

threading.Thread(target=write).start()
writing.wait(30)
if not (pid := os.fork()):
    signal.alarm(30)
    try:
        collector.collect()
    except RegistrationError as error:
        assert "post_fork" in str(error)
        collector.write()
        collector.close()
        os._exit(7)
written.set()
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert sorted(name for name in os.listdir(sys.argv[1]) if "gone" not in name) == before
assert list(collector.collect())
print("done")
"""
    )
    assert run_python(code, argv=(str(tmp_path),), timeout=60).check() == "done\n"


def test_what_it_cannot_be_made_of(tmp_path: Path, manager: SafetyManager) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "below", "/proc", 7):
        with pytest.raises(ConfigError, match="directory"):
            WorkersCollector(manager, directory=directory)  # type: ignore[arg-type]
    for interval in (0, -1, float("nan"), True, "soon"):
        with pytest.raises(ConfigError, match="interval"):
            WorkersCollector(manager, directory=tmp_path, interval=interval)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match="collected here"):
        WorkersCollector(manager, manager, directory=tmp_path)


GUNICORN = """
import os
from prometheus_client import CollectorRegistry, generate_latest
from lifecycle import ANY_THREAD, SafetyManager
from lifecycle.integrations.prometheus import WorkersCollector

workers, threads, bind, loglevel = 4, 2, "127.0.0.1:{port}", "error"
graceful_timeout = 20

def post_fork(server, worker):
    global manager, registry
    manager = SafetyManager(name="app")
    registry = CollectorRegistry()
    registry.register(WorkersCollector(manager, directory={directory!r}, interval=0.2))

def on_starting(server):
    server.app.callable = app

def app(environ, start_response):
    if environ["PATH_INFO"] == "/metrics":
        body = generate_latest(registry)
    else:
        manager.register([], "request", release=list.clear, release_on=ANY_THREAD).close()
        body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.mark.needs("gunicorn")
def test_gunicorn_with_four_workers_of_which_one_is_restarted_while_loaded(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "gunicorn.conf.py").write_text(
        GUNICORN.format(port=port, directory=str(tmp_path / "metrics"))
    )
    (tmp_path / "site.py.txt").write_text("")
    (tmp_path / "served.py").write_text("def app(environ, start_response):\n    raise NotImplementedError\n")
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "served:app"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path), *sys.path))},
    )

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return str(answer.read().decode())

    def is_up() -> bool:
        try:
            return bool(get("/"))
        except OSError:
            return False

    def total() -> int:
        found = re.search(r'registered_total\{manager="app",type="request"\} (\S+)', get("/metrics"))
        return int(float(found[1])) if found else 0

    served: list[str] = []
    refused: list[OSError] = []

    def work(_: int) -> None:
        try:
            served.append(get("/"))
        except OSError as error:
            # Of the worker that is killed.
            refused.append(error)

    try:
        eventually(is_up)
        begun = eventually(lambda: total() or 0)
        seen = [total()]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for turn in range(8):
                list(pool.map(work, range(50)))
                seen += [total() for _ in range(3)]
                if turn == 2:
                    os.kill(int(served[-1]), signal.SIGTERM)
                elif turn == 5:
                    time.sleep(0.5)  # what it served is written
                    os.kill(int(served[-1]), signal.SIGKILL)
        assert seen == sorted(seen), "a counter went down"
        assert len(set(served)) > 4, "four workers and one in the place of each that went"
        first = seen[0]
        eventually(lambda: total() >= first + len(served))
        assert first + len(served) <= total() <= first + len(served) + len(refused), begun
    finally:
        server.terminate()
        assert server.wait(30) == 0
