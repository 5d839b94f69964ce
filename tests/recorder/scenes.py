"""Programs with a recorder, in processes of their own, and what they leave."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from lifecycle.recorder.postmortem import Report, analyse
from lifecycle.recorder.reader import Recording, read
from tests.support import ROOT, Finished

QUIET = {"PYTHONFAULTHANDLER": "", "LIFECYCLE_RECORDER": ""}
"""The environment without what tests elsewhere have."""

HEAD = """
import ctypes, os, signal, sys, threading, time
import lifecycle
from lifecycle import ANY_THREAD, SafetyManager

class Native:
    pass

def nothing(native):
    pass

"""


def play(
    folder: Path,
    code: str,
    *,
    env: Mapping[str, str] | None = None,
    args: tuple[str, ...] = (),
    head: str = HEAD,
) -> Finished:
    """Run `code` from a file ``scene.py`` in `folder`, recorded at ``scene-{pid}.rec`` there unless `env`
    says otherwise."""
    script = folder / "scene.py"
    script.write_text(head + textwrap.dedent(code), encoding="utf-8")
    recorder = {"LIFECYCLE_RECORDER": str(folder / "scene-{pid}.rec")}
    return start(folder, *args, str(script), env={**recorder, **(env or {})})


def start(folder: Path, *words: str, env: Mapping[str, str] | None = None, stdin: str = "") -> Finished:
    """Run Python with these arguments in `folder`, without a recorder unless `env` names one."""
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **QUIET, "PYTHONPATH": str(ROOT), **(env or {})},
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def line_of(folder: Path, text: str) -> int:
    """The number of the line of ``scene.py`` that has `text`."""
    lines = (folder / "scene.py").read_text(encoding="utf-8").splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if text in line]
    return number


def recordings(folder: Path) -> list[Recording]:
    """Every recording in a folder, in the order of the processes' starts."""
    return sorted((read(path) for path in folder.glob("*.rec")), key=lambda one: one.zero)


def only(folder: Path) -> Recording:
    """The one recording in a folder."""
    (recording,) = recordings(folder)
    return recording


def report(folder: Path) -> Report:
    """The post-mortem of the one recording in a folder."""
    return analyse(only(folder))
