"""``lifecycle postmortem`` and ``lifecycle inspect``: what they print, and their exit statuses."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import lifecycle
from lifecycle import ANY_THREAD, SafetyManager
from lifecycle.cli.main import main
from lifecycle.recorder import Recorder
from lifecycle.recorder.summary import file_of, look
from tests.core.natives import Native
from tests.recorder.scenes import HEAD, QUIET
from tests.support import ROOT, Refusal

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc of Linux")


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made = lifecycle.recorder.start(tmp_path / "here.rec", slots=1024)
    yield made
    made.stop()


def command(
    *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lifecycle", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_as_a_command_it_records_nothing_itself(tmp_path: Path) -> None:
    """The variable may be set for all programs. This one would remove what it was called to read."""
    path = tmp_path / "cam-1.rec"
    made = lifecycle.recorder.start(path, slots=1024)
    made.stop()
    process = command("postmortem", str(path), env={"LIFECYCLE_RECORDER": str(tmp_path / "cam-{pid}.rec")})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith("cam-1.rec: process ")
    assert "; ended well\n" in out
    assert err == ""
    assert [one.name for one in tmp_path.iterdir()] == ["cam-1.rec"]


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    made = lifecycle.recorder.start(tmp_path / "a.rec", slots=1024)
    for number in range(1000):
        made.note(f"{number}")
    made.stop()
    process = command("postmortem", made.path, "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) in (0, 1)
    process.stderr.close()
    assert "Traceback" not in err
    assert "Exception ignored" not in err


@linux
@pytest.mark.parametrize(
    "words", ["postmortem a.rec", "inspect a.rec --once", "--help", "--version", "report a.rec -o -"]
)
def test_output_that_cannot_be_written_is_one_line_and_a_closed_one_is_nothing(
    tmp_path: Path, words: str
) -> None:
    lifecycle.recorder.start(tmp_path / "a.rec", slots=1024, fault=False).stop()

    def run(redirection: str) -> tuple[int, str]:
        # Python looks whether a stream can be written when it ends, unless it is asked to write at once.
        told = subprocess.run(
            ["sh", "-c", f'"{sys.executable}" -m lifecycle {words} {redirection}'],
            cwd=tmp_path,
            env={**os.environ, **QUIET, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
        return told.returncode, told.stderr

    assert run(">/dev/full") == (2, "lifecycle: standard output: No space left on device\n")
    status, told = run(">&-")
    assert status == 0
    # argparse has its help on standard error then.
    assert told == "" or words in ("--help", "--version")
    assert "Traceback" not in told


@linux
def test_a_refusal_without_standard_error_has_its_status(tmp_path: Path) -> None:
    command = ["sh", "-c", f'"{sys.executable}" -m lifecycle postmortem absent.rec 2>&-']
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False, timeout=60).returncode == 2


@linux
def test_a_page_that_could_not_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    monkeypatch.chdir(tmp_path)
    lifecycle.recorder.start("a.rec", slots=1024, fault=False).stop()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        assert "a.rec.html cannot be written: File too large" in refusal("report", "a.rec")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not Path("a.rec.html").exists()


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["postmortem"], ["inspect", "1", "--every", "0"]])
def test_what_it_does_not_know_is_said_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: lifecycle" in capsys.readouterr().err


@linux
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("postmortem", "absent.rec"), "absent.rec cannot be read: No such file or directory"),
        (("postmortem", "."), "no regular file"),
        (("report", "other.rec"), "other.rec is no recording"),
        (("report", "noise.rec", "-o", "-"), "noise.rec is no recording"),
        (("report", "good.rec", "-o", "other.rec"), "other.rec is there already"),
        (("report", "good.rec", "-o", "absent/page.html"), "No such file or directory"),
        (("inspect", "absent.rec", "--once"), "absent.rec cannot be read"),
        (("inspect", "0", "--once"), "there is no process 0"),
        (("inspect", "4194999", "--once"), "there is no process 4194999"),
        (("inspect", "9" * 30, "--once"), "cannot be read: No such file or directory"),
        (("inspect", "4194999", "managers"), "4194999"),
        (("inspect", "4194999", "managers", "--attach"), "4194999"),
        (("inspect", "good.rec", "managers", "--attach"), "--attach takes a process by its id"),
        (("inspect", "good.rec", "managers"), "good.rec is no socket"),
        (("inspect", "4194999", "old", "3"), "old takes no id: holders 3 asks"),
        (("inspect", "4194999", "--once", "--every", "2", "managers", "--json"), "no process 4194999"),
        (("inspect", "--json", "4194999", "--yes", "holders", "--once", "17"), "no process 4194999"),
        (("inspect", "--every=2", "--", "-5"), "-5 cannot be read"),
        (("inspect", "", "--once"), "'' cannot be read"),
        (("postmortem", ""), "'' cannot be read"),
    ],
)
def test_bad_input_is_one_line(
    words: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    monkeypatch.chdir(tmp_path)
    lifecycle.recorder.start("good.rec", slots=1024, fault=False).stop()
    Path("other.rec").write_text("not ours", encoding="utf-8")
    Path("noise.rec").write_bytes(bytes(range(1, 256)) * 40)
    before = sorted(tmp_path.iterdir())
    if "--attach" in words and says == "4194999" and not hasattr(sys, "remote_exec"):
        says = "3.14"
    assert says in refusal(*words)
    assert sorted(tmp_path.iterdir()) == before


@linux
def test_a_running_process_by_its_id(
    manager: SafetyManager, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert file_of(os.getpid()) == recorder.path
    kept = [
        manager.register(Native(), "buffer", release=Native.free, release_on=ANY_THREAD, size=1 << 20)
        for _ in range(3)
    ]
    manager.register(Native(), "buffer", release=Native.free, release_on=ANY_THREAD, size=5).close()
    with kept[0].lease():
        assert main(["inspect", str(os.getpid()), "--once"]) == 0
        first, head, line, *rest = capsys.readouterr().out.splitlines()
        assert f" {os.getpid()} · up " in first
        assert first.endswith("· 3 live · 3.0 MiB · file here.rec")
        assert head.split() == ["type", "live", "bytes", "oldest", "in", "use", "releasing"]
        assert line.split()[:4] == ["buffer", "3", "3.0", "MiB"]
        assert line.split()[-2:] == ["1", "0"]
        assert not rest
        assert main(["inspect", str(os.getpid()), "--once", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        (one,) = told["types"]
        assert (one["type"], one["live"], one["bytes"], one["in_use"]) == ("buffer", 3, 3 << 20, 1)
        assert told["process"]["running"]
    for one in kept:
        one.close()
    assert not look(recorder.path).types


@linux
def test_a_process_that_hangs_and_then_is_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(
        HEAD
        + """
def hang(native):
    ctypes.PyDLL(None).pause()  # with the GIL held: no thread of Python runs any more

manager = SafetyManager()
made = manager.register(Native(), "encoder", name="x264", release=hang, release_on=ANY_THREAD, size=7)
print("hangs", flush=True)
made.close()
""",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={
            **os.environ,
            **QUIET,
            "PYTHONPATH": str(ROOT),
            "LIFECYCLE_RECORDER": str(tmp_path / "hangs-{pid}.rec"),
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        until = time.monotonic() + 30
        while not (summary := look(str(process.pid))).report.releasing:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert 'encoder 1 "x264" on MainThread (' in str(summary)
        assert "closed at hangs.py:" in str(summary)
        # Nothing more is recorded, and the release goes on.
        found = summary.report
        (first, second) = (found.as_dict()["releasing"][0]["for"] for _ in range(2))
        assert second > first
        assert found.recording.until > found.recording.end
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    # How long it hung is not in the file of one that is gone.
    assert main(["postmortem", str(tmp_path / f"hangs-{process.pid}.rec")]) == 1
    told = capsys.readouterr().out
    assert re.search(
        r'encoder 1 "x264": its release has been running on MainThread \(\d+\) for at least .* closed at hangs.py:',
        told,
    ), told
    assert "before the last record" in told
    # Without --once it goes on until the process is gone.
    assert main(["inspect", str(tmp_path / f"hangs-{process.pid}.rec")]) == 1
    assert "gone, no clean end" in capsys.readouterr().out
    assert main(["inspect", str(process.pid)]) == 2
    assert f"there is no process {process.pid}" in capsys.readouterr().err


@linux
def test_a_process_without_a_recorder_and_one_whose_file_was_removed(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(os.getppid()), "--once"]) == 2
    assert "has no recorder: start it with LIFECYCLE_RECORDER=" in capsys.readouterr().err
    os.unlink(recorder.path)
    assert main(["inspect", str(os.getpid()), "--once"]) == 2
    assert "here.rec was removed" in capsys.readouterr().err
