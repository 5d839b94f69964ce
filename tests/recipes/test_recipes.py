"""The programs of `docs/recipes`, each against the real library: the raw one fails as its page says, and the
guarded one ends well, with what the page says it prints.

Of the libraries in `IN_EVERY_RUN` these tests are part of every run; the others are big, and run where
``LIFECYCLE_RECIPES=1`` is set (``make test-recipes``, which installs them). There a missing one is a failure.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PARTS
from tests.support import ROOT, Finished
from tools.programs import PROGRAMS, Program, pages_with_programs, programs, with_programs

IN_EVERY_RUN = {"ctypes", "lmdb", "mmap", "numpy", "shared_memory", "sqlite3"}
"""Pages whose programs need little and take little: the library is there in any case, or small."""
EVERY_LIBRARY = os.environ.get("LIFECYCLE_RECIPES") == "1"
NOT_ON_PYPI = {
    "osgeo": "tools/system-packages.sh recipes; for Debian's own Python alone",
    "cairo": "tools/system-packages.sh recipes; for Debian's own Python alone",
}
TRIES = 12
"""Runs of a raw program that is a race until it fails: it is said to fail, not in which run."""
PRINTS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
ALL = list(programs())


def imported(path: Path) -> set[str]:
    """The packages that a program imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def chosen() -> list[Any]:
    """The programs of this run. Of parts that `make test` installs the suite's own rule holds: on CI a missing
    one is a failure."""
    return [
        pytest.param(
            one,
            id=one.name,
            marks=pytest.mark.needs(*sorted(imported(PROGRAMS / one.name) & PARTS.keys())),
        )
        for one in ALL
        if EVERY_LIBRARY or one.page.stem in IN_EVERY_RUN
    ]


def run(program: Program, folder: Path) -> Finished:
    """Run a program as a reader would, in a folder of its own."""
    raw = program.name.endswith("_raw.py")
    try:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", str(PROGRAMS / program.name)],
            cwd=folder,
            env={
                # What is not flushed is lost in a crash, as it is for the reader who writes it to a file.
                **{name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
                "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20 if raw else 100,
            check=False,
        )
    except subprocess.TimeoutExpired:
        # What has corrupted its memory may hang as well.
        return Finished(124, "", "still running")
    return Finished(done.returncode, done.stdout, done.stderr)


def how(done: Finished) -> str:
    """How a program ended, in the words of its page."""
    if done.rc < 0:
        return signal.Signals(-done.rc).name
    if done.rc == 1 and "Timeout (" in done.stderr:
        return "hangs"
    return "well" if done.rc == 0 else f"exit status {done.rc}"


def as_said(program: Program, done: Finished) -> bool:
    """Whether a program ended as its page says."""
    ends = {"well"} if program.ends in ("well", "wrong") else set(program.ends.split(" or "))
    return how(done) in ends


def check_prints(program: Program, done: Finished) -> None:
    if program.output is None:
        return
    right = doctest.OutputChecker().check_output(program.output, done.stdout, PRINTS)
    assert right, f"{program.page.name} says that it prints\n{program.output}and it prints\n{done.stdout}"


def skip_where_missing(program: Program) -> None:
    for name in sorted(imported(PROGRAMS / program.name)):
        if importlib.util.find_spec(name) is not None:
            continue
        reason = f"{program.name} needs {name}"
        if name in NOT_ON_PYPI:
            pytest.skip(f"{reason}: {NOT_ON_PYPI[name]}")
        if EVERY_LIBRARY:
            pytest.fail(f"{reason}: make test-recipes installs it")
        pytest.skip(f"{reason}: pip install 'native-lifecycle[recipes]'")


@pytest.mark.parametrize("program", chosen())
def test_a_program_ends_as_its_page_says(program: Program, tmp_path: Path) -> None:
    skip_where_missing(program)
    raw = program.name.endswith("_raw.py")
    for _ in range(TRIES if raw else 1):
        done = run(program, tmp_path)
        if as_said(program, done):
            break
    assert as_said(program, done), (
        f"{program.page.name} says that {program.name} ends: {program.ends}; with what is installed here: "
        f"{how(done)}\n{done.stdout}\n{done.stderr[-3000:]}"
    )
    check_prints(program, done)
    if not raw:
        assert "Traceback" not in done.stderr, done.stderr
        assert "lifecycle.failed" not in done.stderr, done.stderr
        assert "not released at exit" not in done.stderr, done.stderr


# -- the pages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages_with_programs(), ids=lambda page: page.stem)
def test_a_page_shows_its_programs_as_they_are(page: Path) -> None:
    assert with_programs(page) == page.read_text(encoding="utf-8"), "write it anew: python -m tools.pages"


def test_each_program_is_on_one_page_beside_its_twin() -> None:
    shown = [program.name for program in ALL]
    assert sorted(shown) == sorted(path.name for path in PROGRAMS.glob("*_*.py"))
    raw = {name.removesuffix("_raw.py") for name in shown if name.endswith("_raw.py")}
    guarded = {name.removesuffix("_guarded.py") for name in shown if name.endswith("_guarded.py")}
    # What no library can prevent.
    assert raw - guarded == {"mmap"}
    assert not guarded - raw
    for program in ALL:
        assert (program.ends == "well") == program.name.endswith("_guarded.py"), program.name


def test_the_chapter_has_a_row_for_each_page() -> None:
    chapter = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    missing = [page.name for page in pages_with_programs() if f"](recipes/{page.name})" not in chapter]
    assert missing == []
    assert {page.stem for page in pages_with_programs()} >= IN_EVERY_RUN


def test_an_end_that_is_not_as_said_is_found(tmp_path: Path) -> None:
    """What the tests above compare with can come out otherwise."""
    dies = Finished(-signal.SIGSEGV, "", "")
    lives = Finished(0, "7\n", "")
    waits = Finished(1, "", "Timeout (0:00:08)!\n")
    program = Program(tmp_path, "x_raw.py", "SIGSEGV or SIGABRT", "8\n")
    assert as_said(program, dies)
    assert not as_said(program, lives)
    assert not as_said(program._replace(ends="well"), dies)
    assert as_said(program._replace(ends="wrong"), lives)
    assert as_said(program._replace(ends="hangs"), waits)
    assert not as_said(program._replace(ends="hangs"), Finished(1, "", "Traceback"))
    with pytest.raises(AssertionError, match="it prints"):
        check_prints(program, lives)
