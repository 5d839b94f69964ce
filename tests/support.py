"""What tests of every kind share: a snippet in a real process of its own, and waiting for something to become
true."""

from __future__ import annotations

import atexit
import faulthandler
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import attrs

SLOW_WAY = bool(os.environ.get("LIFECYCLE_SLOW_WAY"))
"""Have every object end in steps, as those do that are not plain: the whole suite must pass that way too."""
ROOT = Path(__file__).resolve().parent.parent

Refusal = Callable[..., str]
"""What the fixture `refusal` is."""

SOON = 15.0
"""Seconds: what does not wait is done in this time also on a machine with many times more work than cores.
What a test tells it from waits at least three times as long."""


@attrs.frozen
class Finished:
    """How a process ended. `rc` is negative where a signal killed it (-11 is SIGSEGV)."""

    rc: int
    stdout: str
    stderr: str

    def check(self) -> str:
        """Its standard output; fails the test, showing everything, unless the process ended with 0."""
        assert self.rc == 0, f"exit code {self.rc}\n-- stdout\n{self.stdout}\n-- stderr\n{self.stderr}"
        return self.stdout


@cache
def drawing_environment() -> dict[str, str]:
    """What a process needs in its environment for GStreamer's OpenGL: no window system from 1.24 on, before
    that a display."""
    import gi

    gi.require_version("Gst", "1.0")
    from gi.repository import Gst

    if (Gst.VERSION_MAJOR, Gst.VERSION_MINOR) >= (1, 24):
        return {"GST_GL_PLATFORM": "egl", "GST_GL_WINDOW": "surfaceless"}
    return {"GST_GL_PLATFORM": "egl", "GST_GL_WINDOW": "x11", **display()}


@cache
def display() -> dict[str, str]:
    """What a process needs in its environment for a display: Xvfb is started where there is none, and nothing
    is needed or to be had without it."""
    server = shutil.which("Xvfb")
    if os.environ.get("DISPLAY") or server is None:
        return {}
    there, back = os.pipe()
    command = [server, "-displayfd", str(back), "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    silent = subprocess.DEVNULL
    running = subprocess.Popen(command, pass_fds=(back,), stdin=silent, stdout=silent, stderr=silent)
    atexit.register(running.kill)
    os.close(back)
    with os.fdopen(there) as numbers:
        return {"DISPLAY": f":{numbers.readline().strip()}"}


def run_python(
    code: str,
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 90,
    args: tuple[str, ...] = (),
    argv: tuple[str, ...] = (),
) -> Finished:
    """Run `code` (dedented) with this interpreter in a process of its own, the repository importable.

    `env` is added to this process's environment, `args` go before the code, as in ``("-X", "dev")``, `argv`
    become ``sys.argv[1:]``. A process that is still running after `timeout` seconds is made to print every
    thread's stack, ended, and fails the test with that.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1", **(env or {})}
    slow = "import lifecycle._core.place as _p; _p.AnyThread.at_once = False; del _p\n" if SLOW_WAY else ""
    source = (
        f"import faulthandler as _f; _f.dump_traceback_later({timeout!r}, exit=True); del _f\n"
        # Background jobs ignore it.
        "import signal as _s; _s.signal(_s.SIGINT, _s.default_int_handler); del _s\n"
        f"{slow}{textwrap.dedent(code)}"
    )
    done = subprocess.run(
        [sys.executable, *args, "-c", source, *argv],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout + 10,
        check=False,
    )
    finished = Finished(done.returncode, done.stdout, done.stderr)
    assert "Timeout (" not in finished.stderr, (
        f"still running after {timeout} s\n{finished.stdout}\n{finished.stderr}"
    )
    return finished


def beside_failures(stderr: str) -> list[str]:
    """The lines of a program's stderr but for the reports of failed releases, tracebacks included."""
    report = re.compile(
        r"^[^\n]*lifecycle\.failed[^\n]*\n(?:Traceback \(most[^\n]*\n(?:[ \t][^\n]*\n)+[^\n]+\n\n*)?",
        re.MULTILINE,
    )
    return [line for line in report.sub("", f"{stderr}\n").splitlines() if line]


def eventually(
    condition: Callable[[], object],
    *,
    timeout: float = 20.0,
    every: float = 0.005,
    progress: Callable[[], object] | None = None,
) -> None:
    """Wait until `condition()` is true; fail the test after `timeout` seconds, with every thread's stack on
    stderr. With `progress`, the seconds count from when ``progress()`` last gave something new: slow is not
    stuck."""
    until = time.monotonic() + timeout
    last = progress() if progress is not None else None
    while not condition():
        if progress is not None and (now := progress()) != last:
            last, until = now, time.monotonic() + timeout
        if time.monotonic() > until:
            faulthandler.dump_traceback(all_threads=True)
            raise AssertionError(f"not true within {timeout} s: {condition!r}")
        time.sleep(every)


class Circle:
    """Garbage, once nobody refers to it, that holds something until the collector comes."""

    def __init__(self, held: object) -> None:
        self.held = held
        self.me = self
