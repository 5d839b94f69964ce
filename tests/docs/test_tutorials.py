"""The tutorials, done as a reader does them: in an empty folder, each file written, each command run, in order.

``<!-- file: NAME -->`` stands before a block that is a file. A block of ``sh`` is run; what it prints, standard
error included, is compared with the block of ``text`` that may follow, as doctest compares with ELLIPSIS.
``<!-- ends: SIGSEGV -->``, or a number, stands before a block of ``sh`` that does not end with 0.
"""

from __future__ import annotations

import doctest
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.core.test_camera_sdk import needs_compiler
from tests.support import ROOT

BLOCK = re.compile(
    r"(?:<!-- (?P<what>file|ends): (?P<value>.*?) -->\n\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```\n",
    re.DOTALL | re.M,
)
PRINTS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
TRIES = 5
"""Runs of a program that a race ends, until it does: a tutorial says how it ends, not in which run."""
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


class Step(NamedTuple):
    """One block of a tutorial."""

    language: str
    body: str
    file: str | None
    ends: str


def steps(text: str) -> list[Step]:
    return [
        Step(
            found["language"],
            found["body"],
            found["value"] if found["what"] == "file" else None,
            found["value"] if found["what"] == "ends" else "0",
        )
        for found in BLOCK.finditer(text)
    ]


def run(command: str, folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run a command of a tutorial: `python` is this one, and `pytest` has no plugins but those it names."""
    (folder / "bin").mkdir(exist_ok=True)
    python = folder / "bin" / "python"
    if not python.exists():
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))
    }
    started = subprocess.Popen(
        ["bash", "-c", f"set -e\n{command}"],
        cwd=folder,
        env={
            **environment,
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = started.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # What has corrupted its memory may hang as well. The shell's child goes with it.
        os.killpg(started.pid, signal.SIGKILL)
        printed, _ = started.communicate()
    return subprocess.CompletedProcess(command, started.returncode, printed)


def ended(status: int) -> str:
    """As a tutorial says it. The shell tells a signal of its child as 128 and more."""
    if status < 0 or status > 128:
        return signal.Signals(-status if status < 0 else status - 128).name
    return str(status)


def do(text: str, folder: Path) -> int:
    """Do what a tutorial says. Returns how many commands it has."""
    printed: str | None = None
    count = 0
    for step in steps(text):
        if step.file is not None:
            path = folder / step.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.body)
        elif step.language == "sh":
            race = step.ends.startswith("SIG")
            for _ in range(TRIES if race else 1):
                done = run(step.body, folder, 15 if race else 60)
                if ended(done.returncode) == step.ends:
                    break
            assert ended(done.returncode) == step.ends, (
                f"{step.body}ended with {done.returncode}\n{done.stdout}"
            )
            printed, count = done.stdout, count + 1
        elif step.language == "text":
            assert printed is not None, f"nothing was run that could print\n{step.body}"
            right = doctest.OutputChecker().check_output(step.body, printed, PRINTS)
            assert right, f"Expected:\n{step.body}\nGot:\n{printed}"
        else:
            raise AssertionError(f"a block of {step.language} that is no file and is not run:\n{step.body}")
    return count


@needs_compiler
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(page: Path, tmp_path: Path) -> None:
    assert do(page.read_text(encoding="utf-8"), tmp_path) > 3


def test_what_ci_runs_is_what_was_run() -> None:
    text = (ROOT / "docs" / "tutorials" / "wrap-a-c-library.md").read_text(encoding="utf-8")
    (workflow,) = (step.body for step in steps(text) if step.language == "yaml")
    shown = {step.body.strip() for step in steps(text) if step.language == "sh"}
    run_there = set(re.findall(r"- run: (?!pip)(.*)", workflow))
    assert len(run_there) == 2
    assert run_there <= shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("```sh\necho one\n```\n\n```text\ntwo\n```\n", "two\\n.*Got:"),
        ("```sh\nfalse\n```\n", "ended with 1"),
        ("<!-- ends: SIGSEGV -->\n\n```sh\ntrue\n```\n", "ended with 0"),
        ("```python\nprint(1)\n```\n", "is not run"),
    ],
)
def test_a_wrong_tutorial_is_found(text: str, shown: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"(?s){shown}"):
        do(text, tmp_path)
