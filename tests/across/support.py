"""Other processes, spoken to line by line, whose end and stderr are checked."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from typing import Any

import pytest

from tests.support import ROOT

PRELUDE = """
import ctypes, faulthandler, gc, os, signal, sys, threading, time
if not os.environ.get("FORKS"):  # its thread is not there to be ended in a child
    faulthandler.dump_traceback_later(100, exit=True)
import numpy as np
from lifecycle import *
from lifecycle.errors import *
from lifecycle.integrations.{transport} import *
signal.signal(signal.SIGINT, signal.default_int_handler)
topic = sys.argv[1]

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def told():
    "A line of the test's; empty once that is over."
    return sys.stdin.readline().strip()

manager = SafetyManager(SafetyConfig(finalizer_timeout=60.0, shutdown_timeout=60.0), name="other")
"""


class Other:
    """A process of its own. A context manager that kills it if it still runs."""

    def __init__(
        self, code: str, topic: str, *argv: str, transport: str = "iceoryx2", before: tuple[str, ...] = ()
    ) -> None:
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read at the end, however that comes
        # What this process has in its path is there for a reason.
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        source = PRELUDE.format(transport=transport) + textwrap.dedent(code)
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", source, topic, *argv],
            env={**os.environ, "PYTHONPATH": path, "FORKS": "yes" if "os.fork()" in code else ""},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def says(self, timeout: float = 60.0) -> str:
        """Its next line; fails the test, with its stderr, when it ends or stays silent instead."""
        timer = threading.Timer(timeout, self.process.kill)
        timer.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        timer.cancel()
        assert line, f"it said nothing (rc {self.process.poll()})\n{self.complaints()}"
        return line

    def tell(self, line: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, and it is gone."""
        self.process.kill()
        self.process.wait(30)

    def ends(self, code: int = 0, timeout: float = 60.0) -> list[str]:
        """What it says until it ends by itself, with `code` and nothing on stderr."""
        # Not communicate(), which does not know of what was read ahead with the last line.
        timer = threading.Timer(timeout, self.process.kill)
        timer.start()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        said = self.process.stdout.read()
        self.process.wait(timeout)
        timer.cancel()
        assert (self.process.returncode, self.complaints()) == (code, ""), said + self.complaints()
        return said.splitlines()

    def complaints(self) -> str:
        self.stderr.seek(0)
        return self.stderr.read()

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(30)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.stderr.close()


def _own_memory() -> str | None:
    """Why no process can have a /dev/shm of its own here; None where it can."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return "mount namespaces are Linux's"
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/dev/shm"],
        capture_output=True,
        check=False,
        timeout=30,
    )
    return None if tried.returncode == 0 else "this user may not have a mount namespace of its own"


def in_small_memory(options: str) -> tuple[str, ...]:
    """What runs a program with a /dev/shm of its own, where the engine's files lie too."""
    if reason := _own_memory():
        pytest.skip(reason)
    mounts = f'mount -t tmpfs -o {options} none /dev/shm && exec "$@"'
    return ("unshare", "-m", "sh", "-c", mounts, "sh")
