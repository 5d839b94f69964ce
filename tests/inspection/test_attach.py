"""``inspect --attach``: by `sys.remote_exec`, where Python has it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifecycle.cli.main import main
from lifecycle.inspection import attach as module
from tests.support import ROOT

has_it = pytest.mark.skipif(not hasattr(sys, "remote_exec"), reason="sys.remote_exec of Python 3.14")

SCENE = """
import sys, time
from lifecycle import SafetyManager
manager = SafetyManager(name="shop")
kept = manager.register([], "frame", release=list.clear, size=100)
print("up", flush=True)
while True:
    time.sleep(0.01)
"""


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a folder for an answer is made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def started(code: str, *options: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, *options, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LIFECYCLE_INSPECT": "", "LIFECYCLE_RECORDER": ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.fixture
def shop() -> Iterator[subprocess.Popen[str]]:
    process = started(SCENE)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(hasattr(sys, "remote_exec"), reason="only where Python has it not")
def test_where_python_has_it_not_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(os.getpid()), "managers", "--attach"]) == 2
    assert "--attach needs Python 3.14 on both ends" in capsys.readouterr().err


def test_it_wants_a_question_and_a_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "1", "--attach"]) == 2
    assert "--attach asks a question" in capsys.readouterr().err
    assert main(["inspect", "some.sock", "managers", "--attach"]) == 2
    assert "by its id" in capsys.readouterr().err


def test_another_users_process_leaves_no_folder(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*given: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(sys, "remote_exec", refused, raising=False)
    monkeypatch.setattr(module, "_owner_of", lambda pid: os.geteuid() + 1)
    monkeypatch.setattr(os, "chown", refused)
    assert main(["inspect", str(os.getpid()), "managers", "--attach"]) == 2
    assert "may not be attached to: it is another user's" in capsys.readouterr().err
    assert list(alone.iterdir()) == []


@has_it
def test_a_process_without_a_socket_answers(
    shop: subprocess.Popen[str], alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(shop.pid), "managers", "--attach"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "shop: 1 live of 1, well"
    assert main(["inspect", str(shop.pid), "holders", "999", "--attach"]) in (0, 2)
    capsys.readouterr()
    assert list(alone.iterdir()) == []
    shop.kill()
    assert shop.communicate()[1] == ""


@has_it
def test_what_cannot_be_attached_to_is_said(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = started("import time\nprint('up', flush=True)\nwhile True: time.sleep(0.01)")
    shut = started(
        "import time\nprint('up', flush=True)\nwhile True: time.sleep(0.01)", "-X", "disable-remote-debug"
    )
    try:
        assert main(["inspect", str(plain.pid), "managers", "--attach"]) == 2
        assert "has not imported lifecycle" in capsys.readouterr().err
        assert main(["inspect", str(shut.pid), "managers", "--attach"]) == 2
        assert f"process {shut.pid} cannot be attached to" in capsys.readouterr().err
    finally:
        for process in (plain, shut):
            process.kill()
            process.communicate()
    assert main(["inspect", str(plain.pid), "managers", "--attach"]) == 2
    assert f"there is no process {plain.pid}" in capsys.readouterr().err
    assert list(alone.iterdir()) == []


@has_it
def test_a_process_that_waits_is_given_up(
    alone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "WITHIN", 0.3)
    process = started("import time\nprint('up', flush=True)\ntime.sleep(60)")
    try:
        assert main(["inspect", str(process.pid), "managers", "--attach"]) == 2
        assert "its main thread waits or is in C code" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()
