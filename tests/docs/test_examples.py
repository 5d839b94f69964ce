"""Every Python example that is shown runs, each document in a process of its own, as a reader would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.support import ROOT

EXAMPLE = re.compile(r"^\s*(```python|>>> )", re.MULTILINE)
# What a document needs, by what it names.
NEEDS = {
    "gstreamer": re.compile(
        r"^\W*(from|import) (lifecycle\.integrations\.gstreamer|gi\.repository)", re.MULTILINE
    ),
    # A mapping as a block.
    "gst-overrides": re.compile(r"^ *with .*\.map\(Gst\.", re.MULTILINE),
    "gl": re.compile(r"import.* OpenGL|from OpenGL|gpu\.offscreen"),
    "wgpu": re.compile(r"^import wgpu$", re.MULTILINE),
    "iceoryx2": re.compile(r"^from lifecycle\.integrations\.iceoryx2", re.MULTILINE),
    "numpy": re.compile(r"^import numpy", re.MULTILINE),
    "prometheus_client": re.compile(r"^from prometheus_client", re.MULTILINE),
}


def documents() -> list[str]:
    files = [ROOT / "README.md"]
    # Programs that crash are no examples: tests/recipes runs them, and tests/docs/test_tutorials.py the tutorials.
    apart = {ROOT / "docs" / "recipes", ROOT / "docs" / "tutorials"}
    files += [page for page in sorted((ROOT / "docs").glob("**/*.md")) if page.parent not in apart]
    for package in ("lifecycle", "integrations", "examples"):
        files += sorted((ROOT / package).glob("**/*.py"))
    return [
        str(file.relative_to(ROOT)) for file in files if file.exists() and EXAMPLE.search(file.read_text())
    ]


# The last two are PyGObject's own.
WARNINGS = (
    "error",
    "default::ResourceWarning",
    "ignore:DynamicImporter:ImportWarning",
    "ignore:'asyncio.AbstractEventLoopPolicy' is deprecated:DeprecationWarning",
    "ignore:'asyncio.get_event_loop_policy' is deprecated:DeprecationWarning",
)


def run_document(path: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the examples write lands in `folder`."""
    return subprocess.run(
        [
            sys.executable,
            *(f"-W{warning}" for warning in WARNINGS),
            "-m",
            "tests.docs.document",
            str(path),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("document", documents())
def test_the_examples_run(document: str, tmp_path: Path) -> None:
    text = (ROOT / document).read_text()
    for part, names in NEEDS.items():
        if names.search(text) and (reason := missing(part)):
            pytest.skip(reason)
    done = run_document(ROOT / document, tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r"^[1-9]\d* examples ran$", done.stdout, re.MULTILINE), done.stdout


WRONG = {
    "raises": ("```python\nassert 1 == 2, 'planted'\n```\n", "planted"),
    "prints-otherwise": ("```python\nprint('one')\n```\n\n```text\ntwo\n```\n", "Expected:\ntwo"),
    "doctest": ("```python\nx = 1\n```\n\n>>> x\n2\n", "Expected:\n    2"),
    "not-python": ("```python\nreturn\n```\n", "SyntaxError"),
    "program-fails": ("<!-- program -->\n```python\nraise SystemExit('planted')\n```\n", "ended with 1"),
    "command-shows-otherwise": (
        "```python\n1\n```\n\n<!-- run -->\n```console\n$ echo one\ntwo\n```\n",
        "Expected of echo one:\ntwo",
    ),
    "no-command": ("<!-- run -->\n```console\nthree\n```\n", "A command begins with $"),
    "program-lives": (
        "<!-- program -->\n```python\nprint(1)\n```\n\n```text\nSegmentation fault\n```\n",
        "Expected:\nSegmentation fault",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_example_is_found(name: str, tmp_path: Path) -> None:
    text, shown = WRONG[name]
    (tmp_path / "wrong.md").write_text(text)
    done = run_document(tmp_path / "wrong.md", tmp_path)
    assert done.returncode != 0
    assert shown in done.stdout + done.stderr


def test_right_examples_pass(tmp_path: Path) -> None:
    (tmp_path / "right.md").write_text(
        "```python\nx = 1\nprint('one')\n```\n\n```text\no...\n```\n\nText of its own:\n\n```text\nfree\n```\n\n"
        "<!-- skip: next -->\n\n```python\nraise AssertionError('skipped')\n```\n\n>>> x\n1\n"
    )
    done = run_document(tmp_path / "right.md", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_program_runs_alone_and_shows_how_it_ended(tmp_path: Path) -> None:
    (tmp_path / "program.md").write_text(
        "```python\nx = 1\n```\n\n<!-- program -->\n```python\nimport os\nprint('x' in globals(), flush=True)\n"
        "os.abort()\n```\n\n```text\nFalse\nAborted\n```\n\n>>> x\n1\n"
    )
    done = run_document(tmp_path / "program.md", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_is_run_by_the_commands_that_follow(tmp_path: Path) -> None:
    (tmp_path / "file.md").write_text(
        "```python\nx = 1\n```\n\n<!-- file: app.py -->\n```python\nimport os\nprint('x' in globals())\nos.abort()\n"
        "```\n\n<!-- run -->\n```console\n$ ONE=two python app.py\nFalse\nAborted\n$ echo *.py\napp.py\n```\n\n"
        "```console\n$ not run\n```\n"
    )
    done = run_document(tmp_path / "file.md", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
