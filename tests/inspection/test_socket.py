"""Questions to a running process: what it answers, and whom."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifecycle import ANY_THREAD, SafetyManager
from lifecycle.cli.main import main
from lifecycle.inspection import InspectionError, Server, ask, protocol, questions, serve, server
from tests.core.natives import Native
from tests.support import ROOT, run_python

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and SO_PEERCRED of Linux")


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short path, and the user's own."""
    with tempfile.TemporaryDirectory(prefix="lc") as name:
        yield Path(name)


@pytest.fixture
def served(folder: Path) -> Iterator[Server]:
    made = serve(folder / "s")
    yield made
    made.close()


def test_what_is_live_and_by_whom_it_is_held(
    manager: SafetyManager, served: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    handle = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD, size=7)
    told = ask(served.path, "managers")
    assert told["pid"] == os.getpid()
    (mine,) = [one for one in told["managers"] if one["manager"] == manager.name]
    assert (mine["live"], mine["registered"], mine["healthy"]) == (1, 1, True)
    assert mine["types"]["thing"] == {"live": 1, "bytes": 7}
    (group,) = [one for one in ask(served.path, "old")["groups"] if one["manager"] == manager.name]
    assert (group["type"], group["live"], group["bytes"], group["first"]) == ("thing", 1, 7, handle.id)
    with handle.lease():
        told = ask(served.path, "holders", id=handle.id)
        assert any("lease" in one for one in told["holders"])
    assert main(["inspect", served.path, "holders", str(handle.id)]) == 0
    assert capsys.readouterr().out.strip()
    assert main(["inspect", served.path, "managers"]) == 0
    assert f"{manager.name}: 1 live of 1, well" in capsys.readouterr().out
    assert main(["inspect", served.path, "old"]) == 0
    assert "1 thing, 7 bytes, the oldest" in capsys.readouterr().out
    assert handle.close(), "an answer keeps nothing alive"


def test_what_is_no_question_is_refused(served: Server) -> None:
    for question, more, words in (
        ("nonsense", {}, "no such question; there are holders, managers, old, topics"),
        ("holders", {}, "with the id of an object"),
        ("holders", {"id": 1 << 60}, "no open manager of this process knows an object"),
        ("managers", {"x": "y" * 5000}, "at most 4096 bytes"),
    ):
        with pytest.raises(InspectionError, match=words):
            ask(served.path, question, **more)
    for request in (b"\n", b"[]\n", b"{", b"\xff\xfe\n", b"[" * 4000 + b"\n"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(served.path)
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            assert "error" in json.loads(protocol.receive(client, 10_000))
    assert ask(served.path, "managers")


def test_a_client_that_says_nothing_holds_up_nobody_for_long(
    served: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(served.path)
        assert ask(served.path, "managers")


def test_other_users_get_no_answer(served: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "peer_of", lambda connection: 4711)
    with pytest.raises(InspectionError, match=r"you may not ask it|no process answers"):
        ask(served.path, "managers")


def test_a_walk_through_a_big_heap_is_announced(
    manager: SafetyManager, served: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "MANY", 0)
    handle = manager.register(Native(), "thing", release=Native.free, release_on=ANY_THREAD)
    with pytest.raises(InspectionError, match=r"it may stop for [\d.]+ s. Ask with --yes if it may"):
        ask(served.path, "holders", id=handle.id)
    assert "holders" in ask(served.path, "holders", id=handle.id, yes=True)
    handle.close()


def test_the_socket_is_its_owners_alone_and_goes_with_the_server(served: Server) -> None:
    assert os.stat(served.path).st_mode & 0o777 == 0o600
    with pytest.raises(InspectionError, match="another process serves there"):
        serve(served.path)
    served.close()
    served.close()
    assert not os.path.exists(served.path)
    with pytest.raises(InspectionError, match="no process answers at"):
        ask(served.path, "managers")


def test_paths_that_will_not_do(folder: Path) -> None:
    (folder / "file").write_text("precious")
    public = folder / "public"
    public.mkdir()
    public.chmod(0o777)
    for path, words in (
        (folder / ("x" * 120), "the system takes 107"),
        (folder / "absent" / "s", "make the folder first"),
        (folder / "file", "something else is there"),
        (public / "s", "a folder of your own that nobody else may write to"),
        ("s\0", "it has a NUL in it"),
        (3, "takes the path of a socket, not 3"),
    ):
        with pytest.raises(InspectionError, match=words):
            serve(path)  # type: ignore[arg-type]
    assert (folder / "file").read_text() == "precious"


def test_a_dead_ones_socket_is_replaced(folder: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(folder / "s"))
    dead.close()
    made = serve(folder / "s")
    assert ask(made.path, "managers")
    made.close()


def test_by_the_id_of_a_process_and_never_in_its_children(folder: Path) -> None:
    code = """
        import os, subprocess, sys
        from lifecycle import SafetyManager, ANY_THREAD
        manager = SafetyManager(name="asked")
        kept = manager.register(object(), "thing", release=lambda thing: None, release_on=ANY_THREAD)
        pid = os.fork()
        if not pid:
            manager.close()
            os._exit(0)
        os.waitpid(pid, 0)
        call = [sys.executable, "-m", "lifecycle", "inspect", str(os.getpid()), "managers"]
        print(subprocess.run(call, capture_output=True, text=True))
        kept.close()
        """
    done = run_python(code, env={"LIFECYCLE_INSPECT": str(folder / "app-{pid}.sock")}, args=("-Wignore",))
    assert "returncode=0, stdout='asked: 1 live of 1, well" in done.check()
    assert "stderr=''" in done.stdout
    assert not list(folder.iterdir()), "the socket goes with the process"


def test_a_process_that_serves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=ROOT)
    try:
        assert main(["inspect", str(sleeper.pid), "managers"]) == 2
        assert f"process {sleeper.pid} serves no socket: start it with" in capsys.readouterr().err
    finally:
        sleeper.communicate(b"\n")
    assert main(["inspect", str(sleeper.pid), "managers"]) == 2
    assert "there is no process" in capsys.readouterr().err
