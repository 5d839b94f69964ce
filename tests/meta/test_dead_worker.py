"""A worker process that dies ends the run of `make test`, with its test named.

Without ``--max-worker-restart 0`` such a run may hang for ever: pytest-xdist gives the files of the dead
worker to another one, also those of which nothing is left to run, and a worker keeps its last test back until
it is given one more.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytest.importorskip("xdist", reason="needs xdist: run the tests with `make test`, which installs it")

DIES = """
import os, signal, time
def test_before(): time.sleep(0.2)
def test_that_dies(): os.kill(os.getpid(), signal.SIGKILL)
def test_behind(): pass
"""
WORKS = """
import time
def test_one(): time.sleep(0.5)
def test_two(): time.sleep(0.5)
"""


def how_make_runs_them() -> list[str]:
    """The arguments of pytest in the Makefile's target `test`."""
    line = re.search(
        r"-m pytest (--numprocesses \$\(WORKERS\) .*) \$\(PYTEST_ARGS\)", (ROOT / "Makefile").read_text()
    )
    assert line is not None
    return line[1].replace("$(WORKERS)", "2").split()


def test_a_dead_worker_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(DIES)
    for name in "bcde":
        (tmp_path / f"test_{name}.py").write_text(WORKS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *how_make_runs_them(), str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "crashed while running 'test_a.py::test_that_dies'" in done.stdout, done.stdout
    assert "crashed and worker restarting disabled" in done.stdout, done.stdout
